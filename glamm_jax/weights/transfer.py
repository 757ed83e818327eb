"""Conversion between torch's tensors and a model's leaves, one tensor at a time.

    dtypes = import_tensors(table, source, leaves, TensorWriter(model))  # torch -> model folder
    export_tensors(table, dtypes, folder, TensorWriter(out))             # and the same bytes back

Memory does not grow with the model: a tensor is read, and its transposed view is written in strips.
A leaf has the narrowest dtype that represents all its tensors exactly. The stored dtype of every
tensor is returned, so that checkpoints of mixed dtypes are exported as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np

from glamm_jax.weights.rules import (
    TRANSFORMS,
    Shapes,
    TensorMapping,
    UnmappedTensor,
    WeightsError,
    WeightTable,
    find_problems,
    tensor_shapes,
)
from glamm_jax.weights.safetensors import DTYPES, NAMES, TensorInfo
from glamm_jax.weights.tensor_sinks import TensorSink
from glamm_jax.weights.tensor_sources import LeafSource, TensorSource, shapes_of

CARRIED = "carried."  # prefix of a torch name in a model folder: unused, written on export
NUM_THREADS = 3
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# By bytes of the dtype: a recomputed buffer may differ by the rounding of the power function of the
# machine that saved it.
RELATIVE_TOLERANCE = {2: 1e-2, 4: 1e-5, 8: 1e-5}

StoredDtypes = dict[str, str]  # torch name -> stored dtype, as safetensors names it
OnTensor = Callable[[str, int], None]  # called with the name and size in bytes of every tensor


def _ignore(name: str, nbytes: int) -> None:
    pass


def import_tensors(
    table: WeightTable,
    source: TensorSource,
    leaves: Shapes,
    sink: TensorSink,
    *,
    originals: TensorSource | None = None,
    not_exported: Collection[str] = (),
    on_tensor: OnTensor = _ignore,
) -> StoredDtypes:
    """Convert torch's tensors to the leaves of a model.

    Args:
        table: maps tensors to leaves.
        source: the checkpoint.
        leaves: path and shape of every leaf of the model.
        sink: gets the leaves under their paths, and carried tensors under CARRIED and their names.
        originals: tensors that were changed before the conversion, as they were; an export writes
            these instead.
        not_exported: tensors that the checkpoint did not have.
        on_tensor: progress callback.

    Returns:
        The dtype of every tensor that an export writes.

    Raises:
        WeightsError: tensors are missing, unknown, of the wrong shape or not as recomputed; the
            message lists all. Nothing has been written.
    """
    shapes = shapes_of(source)
    problems = find_problems(table, shapes, leaves)
    unmapped = {n: tensor for n, tensor in table.unmapped_by_name().items() if n in source.infos}
    carried = {name for name, tensor in unmapped.items() if tensor.disposition == "carried"}
    for name, tensor in unmapped.items():
        if tensor.compute is not None and tensor.compute().shape == shapes[name]:
            problem, is_exact = _compare_recomputed(name, tensor, source.read(name))
            if problem:
                problems.append(problem)
            if not is_exact:
                carried.add(name)
        elif (
            tensor.equal_to
            and tensor.equal_to in shapes
            and not _is_equal(source, name, tensor.equal_to)
        ):
            problems.append(f"{name}: differs from {tensor.equal_to} ({tensor.reason})")
    problems += [
        f"{name}: dtype {info.dtype}: weights of integers are quantized, which is not supported"
        for name, info in source.infos.items()
        if name not in unmapped and info.dtype.kind in "iub"
    ]
    if problems:
        raise WeightsError("\n".join([f"problems with the weights ({len(problems)}):", *problems]))
    mappings = table.mappings()
    dtypes: dict[str, list[np.dtype]] = {}
    for mapping in mappings:
        dtypes.setdefault(mapping.leaf, []).append(source.infos[mapping.tensor].dtype)
    infos = {leaf: TensorInfo(common_dtype(dtypes[leaf]), shape) for leaf, shape in leaves.items()}
    infos |= {CARRIED + name: source.infos[name] for name in source.infos if name in carried}
    original_infos = {} if originals is None else dict(originals.infos)
    infos |= {CARRIED + name: info for name, info in original_infos.items()}

    def convert(mapping: TensorMapping) -> None:
        tensor = source.read(mapping.tensor)
        shape = leaves[mapping.leaf]
        if mapping.position is not None:
            shape = shape[1:]
        array = TRANSFORMS[mapping.transform].to_leaf(tensor, shape)
        array = convert_dtype(array, infos[mapping.leaf].dtype)
        sink.write(mapping.leaf, array, mapping.position)
        on_tensor(mapping.tensor, tensor.nbytes)

    def carry(name: str) -> None:
        tensor = (originals if originals and name in original_infos else source).read(name)
        sink.write(CARRIED + name, tensor)
        on_tensor(name, tensor.nbytes)

    with sink.open(infos):
        run_in_threads(convert, mappings)
        run_in_threads(carry, sorted(carried | original_infos.keys()))
    exported = {name for name, tensor in unmapped.items() if tensor.disposition != "dropped"}
    exported |= {mapping.tensor for mapping in mappings}
    exported -= set(not_exported)
    exported_infos = {**source.infos, **original_infos}
    return {n: NAMES[info.dtype] for n, info in exported_infos.items() if n in exported}


def export_tensors(
    table: WeightTable,
    stored_dtypes: StoredDtypes,
    leaves: LeafSource,
    sink: TensorSink,
    *,
    rename: Callable[[str], str] = lambda name: name,
    on_tensor: OnTensor = _ignore,
) -> None:
    """Convert the leaves of a model to torch's tensors.

    Args:
        table: maps tensors to leaves.
        stored_dtypes: the tensors to write, and their dtypes.
        leaves: leaves and carried tensors of the model.
        sink: gets the tensors.
        rename: returns a tensor's name in the sink.
        on_tensor: progress callback.

    Raises:
        WeightsError: a tensor is not in the table, or is a carried one that the model lacks.
    """
    mappings = {mapping.tensor: mapping for mapping in table.mappings()}
    unmapped = table.unmapped_by_name()
    unknown = [name for name in stored_dtypes if name not in mappings and name not in unmapped]
    if unknown:
        raise WeightsError(f"no leaf has the tensors {', '.join(unknown)}")
    shapes = tensor_shapes(table, shapes_of(leaves))
    for name in stored_dtypes:
        if name in unmapped:
            original = unmapped[name].equal_to
            shapes[name] = (
                shapes[original] if original else _unmapped_shape(name, unmapped[name], leaves)
            )
        elif CARRIED + name in leaves.infos:
            shapes[name] = leaves.infos[CARRIED + name].shape
    infos = {name: TensorInfo(DTYPES[dtype], shapes[name]) for name, dtype in stored_dtypes.items()}

    def write(name: str) -> None:
        if CARRIED + name in leaves.infos:
            tensor = leaves.read(CARRIED + name)
        elif mapping := mappings.get(unmapped[name].equal_to or "" if name in unmapped else name):
            array = leaves.read(mapping.leaf, mapping.position)
            tensor = TRANSFORMS[mapping.transform].to_tensor(array)
        else:
            compute = unmapped[name].compute
            assert compute is not None, name
            tensor = compute()
        sink.write(rename(name), convert_dtype(tensor, infos[name].dtype))
        on_tensor(name, infos[name].nbytes)

    with sink.open({rename(name): info for name, info in infos.items()}):
        run_in_threads(write, infos)


def copy_leaves(leaves: LeafSource, sink: TensorSink, *, on_tensor: OnTensor = _ignore) -> None:
    """Copy the leaves of a model.

    Args:
        leaves: to be copied.
        sink: is opened, and closed when it is complete.
        on_tensor: called with name and number of bytes after each leaf.
    """

    def copy(name: str) -> None:
        info = leaves.infos[name]
        if len(info.shape) < 3:
            sink.write(name, leaves.read(name))
        else:
            for position in range(info.shape[0]):  # layers of a stack, or rows of a kernel
                sink.write(name, leaves.read(name, position), position)
        on_tensor(name, info.nbytes)

    with sink.open(leaves.infos):
        run_in_threads(copy, leaves.infos)


def default_stored_dtypes(table: WeightTable, leaves: LeafSource) -> StoredDtypes:
    """Return the tensors that the original would save of a model that came from no checkpoint."""
    dtypes = {
        mapping.tensor: NAMES[leaves.infos[mapping.leaf].dtype] for mapping in table.mappings()
    }
    for name, tensor in table.unmapped_by_name().items():
        # quirk 27: the original does not save SAM's pixel statistics.
        if tensor.compute is not None and "pixel_" not in name:
            dtypes[name] = NAMES[tensor.compute().dtype]
    return dtypes


def run_in_threads(work: Callable[..., None], items: Iterable) -> None:
    """Call `work` on every item, NUM_THREADS at a time; the first error cancels the rest."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def convert_dtype(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the array in another dtype.

    Between bfloat16 and float32, NaNs keep their bits. Arrays of the same dtype are not copied.
    """
    if array.dtype == dtype:
        return array
    if array.dtype == BFLOAT16 and dtype == np.float32:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if array.dtype == np.float32 and dtype == BFLOAT16:
        bits = array.view(np.uint32)
        if not (bits & 0xFFFF).any():
            return (bits >> 16).astype(np.uint16).view(BFLOAT16)
    return array.astype(dtype)


def common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
    """Return the narrowest dtype that represents the numbers of all these exactly.

    Raises:
        WeightsError: there is none.
    """
    distinct = set(dtypes)
    if len(distinct) == 1:
        return distinct.pop()
    floats = {BFLOAT16, np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)}
    if not distinct <= floats:
        names = ", ".join(sorted(map(str, distinct)))
        raise WeightsError(f"the layers of one leaf have incompatible dtypes: {names}")
    return np.dtype(np.float64 if np.dtype(np.float64) in distinct else np.float32)


def _compare_recomputed(
    name: str, unmapped: UnmappedTensor, tensor: np.ndarray
) -> tuple[str | None, bool]:
    """Compare a stored buffer with what the configuration gives.

    Returns:
        (problem, whether they agree to the bit).
    """
    assert unmapped.compute is not None
    expected = convert_dtype(unmapped.compute(), tensor.dtype)
    if expected.tobytes() == tensor.tobytes():
        return None, True
    is_close = np.allclose(
        expected.astype(np.float64),
        tensor.astype(np.float64),
        rtol=RELATIVE_TOLERANCE.get(tensor.dtype.itemsize, 0.0),
        atol=0.0,
    )
    if is_close:
        return None, False
    problem = f"{name}: differs from what the configuration gives ({unmapped.reason})"
    return problem, False


def _is_equal(source: TensorSource, first: str, second: str) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    if source.infos[first] != source.infos[second]:
        return False
    a, b = (np.ascontiguousarray(source.read(name)) for name in (first, second))
    return bool(np.array_equal(a.view(np.uint8), b.view(np.uint8)))


def _unmapped_shape(name: str, unmapped: UnmappedTensor, leaves: LeafSource) -> tuple[int, ...]:
    if CARRIED + name in leaves.infos:
        return leaves.infos[CARRIED + name].shape
    if unmapped.compute is None:
        raise WeightsError(f"{name}: the model folder does not contain this carried tensor")
    return unmapped.compute().shape
