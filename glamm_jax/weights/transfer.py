"""The stream between torch's tensors and our leaves, one tensor at a time, both ways.

    record = import_tensors(table, source, leaves, TensorWriter(folder))  # torch -> model folder
    export_tensors(table, record, leaves_of_the_folder, TensorWriter(out))  # the same bytes back

Nothing of model size is ever in memory: a tensor is read, its transposed view is written in
strips. A leaf has the narrowest dtype that holds all its tensors exactly; the record remembers
what each tensor was stored as, so mixed checkpoints (trap 27) come back as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

CARRIED = "carried."  # stands before a torch name in our files: read by nobody, returns on export
THREADS = 3
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# A recomputed buffer may differ from ours by the rounding of another machine's power function.
ROUNDING = {2: 1e-2, 4: 1e-5, 8: 1e-5}

StoredDtypes = dict[str, str]  # torch name -> stored dtype, as safetensors calls it
OnTensor = Callable[[str, int], None]  # called with each name and its bytes, for a progress bar


def _silent(name: str, nbytes: int) -> None:
    pass


def import_tensors(
    table: WeightTable,
    source: TensorSource,
    leaves: Shapes,
    sink: TensorSink,
    *,
    on_tensor: OnTensor = _silent,
) -> StoredDtypes:
    """Write the leaves of a model from torch's tensors.

    Raises: WeightsError listing all that is missing, unknown, misshapen or not as recomputed,
        before a byte is written.
    """
    shapes = shapes_of(source)
    problems = find_problems(table, shapes, leaves)
    known = {name: u for name, u in table.unmapped_by_name().items() if name in source.infos}
    carried = {name for name, unread in known.items() if unread.kind == "carried"}
    for name, unread in known.items():
        if unread.compute is not None and unread.compute().shape == shapes[name]:
            problem, exact = _compare_recomputed(name, unread, source.read(name))
            problems += [problem] if problem else []
            carried |= set() if exact else {name}
    if problems:
        raise WeightsError("\n".join([f"problems with the weights ({len(problems)}):", *problems]))
    infos = _leaf_infos(table, source, leaves)
    infos |= {CARRIED + name: source.infos[name] for name in source.infos if name in carried}

    def place(entry: TensorMapping) -> None:
        tensor = source.read(entry.tensor)
        target = leaves[entry.leaf] if entry.position is None else leaves[entry.leaf][1:]
        array = TRANSFORMS[entry.transform].to_leaf(tensor, target)
        array = convert_dtype(array, infos[entry.leaf].dtype)
        sink.write(entry.leaf, array, entry.position)
        on_tensor(entry.tensor, tensor.nbytes)

    def carry(name: str) -> None:
        tensor = source.read(name)
        sink.write(CARRIED + name, tensor)
        on_tensor(name, tensor.nbytes)

    with sink.open(infos):
        run_in_threads(place, table.mappings())
        run_in_threads(carry, sorted(carried))
    returning = {name for name in known if known[name].kind != "dropped"}
    returning |= {entry.tensor for entry in table.mappings()}
    return {name: NAMES[info.dtype] for name, info in source.infos.items() if name in returning}


def export_tensors(
    table: WeightTable,
    record: StoredDtypes,
    leaves: LeafSource,
    sink: TensorSink,
    *,
    rename: Callable[[str], str] = lambda name: name,
    on_tensor: OnTensor = _silent,
) -> None:
    """Write torch's tensors from a model's leaves: those of the record, each in its stored dtype.

    Args:
        rename: what a tensor is called in the sink.

    Raises: WeightsError naming tensors of the record that the table does not know.
    """
    entries = {entry.tensor: entry for entry in table.mappings()}
    unread = table.unmapped_by_name()
    if unknown := [name for name in record if name not in entries and name not in unread]:
        raise WeightsError(f"tensors that nothing gives back: {', '.join(unknown)}")
    shapes = tensor_shapes(table, shapes_of(leaves))
    for name in record:
        if name in unread:
            shapes[name] = _unread_shape(name, unread[name], leaves)
    infos = {name: TensorInfo(DTYPES[dtype], shapes[name]) for name, dtype in record.items()}
    written = {rename(name): info for name, info in infos.items()}

    def write(name: str) -> None:
        if CARRIED + name in leaves.infos:
            array = leaves.read(CARRIED + name)
        elif name in entries:
            entry = entries[name]
            array = TRANSFORMS[entry.transform].to_tensor(leaves.read(entry.leaf, entry.position))
        else:
            value = unread[name].compute
            assert value is not None, name
            array = value()
        sink.write(rename(name), convert_dtype(array, infos[name].dtype))
        on_tensor(name, infos[name].nbytes)

    with sink.open(written):
        run_in_threads(write, infos)


def copy_leaves(leaves: LeafSource, sink: TensorSink, *, on_tensor: OnTensor = _silent) -> None:
    """Write the leaves of one model as those of another."""

    def copy(name: str) -> None:
        info = leaves.infos[name]
        if len(info.shape) < 3:
            sink.write(name, leaves.read(name))
        else:
            for position in range(info.shape[0]):  # a stack's layers, or a kernel's rows
                sink.write(name, leaves.read(name, position), position)
        on_tensor(name, info.nbytes)

    with sink.open(leaves.infos):
        run_in_threads(copy, leaves.infos)


def default_stored_dtypes(table: WeightTable, leaves: LeafSource) -> StoredDtypes:
    """The record of a model that came from no checkpoint: what the original would have saved."""
    record = {entry.tensor: NAMES[leaves.infos[entry.leaf].dtype] for entry in table.mappings()}
    for name, unread in table.unmapped_by_name().items():
        if unread.compute is not None and "pixel_" not in name:  # those it does not save (trap 27)
            record[name] = NAMES[unread.compute().dtype]
    return record


def run_in_threads(work: Callable[..., None], items: Iterable) -> None:
    """Work on every item, a few at a time; the first error ends it."""
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def convert_dtype(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in another dtype; between bfloat16 and float32 bit for bit, NaNs included."""
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
    """The narrowest dtype that holds numbers of all these exactly.

    Raises: WeightsError when there is none.
    """
    kinds = set(dtypes)
    if len(kinds) == 1:
        return kinds.pop()
    floats = {BFLOAT16, np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)}
    if not kinds <= floats:
        raise WeightsError(f"the layers of one leaf are stored as {sorted(map(str, kinds))}")
    return np.dtype(np.float64 if np.dtype(np.float64) in kinds else np.float32)


def _leaf_infos(table: WeightTable, source: TensorSource, leaves: Shapes) -> dict[str, TensorInfo]:
    """Dtype and shape of every leaf, in the model's order."""
    dtypes: dict[str, list[np.dtype]] = {}
    for entry in table.mappings():
        dtypes.setdefault(entry.leaf, []).append(source.infos[entry.tensor].dtype)
    return {leaf: TensorInfo(common_dtype(dtypes[leaf]), shape) for leaf, shape in leaves.items()}


def _compare_recomputed(
    name: str, unread: UnmappedTensor, tensor: np.ndarray
) -> tuple[str | None, bool]:
    """(what is wrong with a buffer that we compute ourselves, whether it is ours to the bit)."""
    assert unread.compute is not None
    ours = convert_dtype(unread.compute(), tensor.dtype)
    if ours.tobytes() == tensor.tobytes():
        return None, True
    close = np.allclose(
        ours.astype(np.float64),
        tensor.astype(np.float64),
        rtol=ROUNDING.get(tensor.dtype.itemsize, 0.0),
        atol=0.0,
    )
    problem = f"{name}: does not hold {unread.reason}, which the configuration asks for"
    return None if close else problem, False


def _unread_shape(name: str, unread: UnmappedTensor, leaves: LeafSource) -> tuple[int, ...]:
    if CARRIED + name in leaves.infos:
        return leaves.infos[CARRIED + name].shape
    if unread.compute is None:
        raise WeightsError(f"{name}: the model folder does not hold this carried tensor")
    return unread.compute().shape
