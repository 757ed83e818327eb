"""Saving a run and finding it again: what training changes, and where the data stands.

checkpoints/STEP/
    state/    step, trained leaves and optimizer, each by its name, written by all processes
    data/     the position of the loader, of all its shards
    about/    the fingerprint of the weights that are not trained, and so not here

Orbax writes under another name while the next steps run, and renames: what is called STEP is
whole. No randomness is saved: it follows from the seed and the step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from glamm_jax.config.experiment import CheckpointConfig
from glamm_jax.data.loader import merge_states
from glamm_jax.training.run_folder import CHECKPOINTS, RunError
from glamm_jax.training.state import TrainState

_TRAINABLE, _VALUE = "trainable/", "/value"  # around the path of a trained leaf
LOSSES = ("loss", "ce", "bce", "dice")  # of these, less is better


class RestoredState(NamedTuple):
    """Where a run goes on."""

    state: TrainState
    data: dict[str, Any]  # for `Batches.set_state`


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, folder: Path, config: CheckpointConfig):
        self._folder = folder.absolute()
        kept: list[Any] = [LatestN(config.keep_last)]
        if config.keep_best:
            kept.append(_best(config))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._manager = _manager(self._folder, options)

    @property
    def latest(self) -> int | None:
        """The last whole checkpoint's number of steps."""
        return self._manager.latest_step()

    def check_room(self, state: TrainState) -> None:
        """Raises: RunError when the disk has no room for another checkpoint."""
        needed = sum(x.nbytes for x in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise RunError(
                f"{self._folder}: a checkpoint needs {needed / 1e9:.2f} GB, "
                f"{free / 1e9:.2f} GB are free there"
            )

    def save(
        self,
        state: TrainState,
        data: Mapping[str, Any],
        base: str,
        scores: Mapping[str, float],
    ) -> bool:
        """Begin to write a checkpoint; the state may change meanwhile. False when it is there.

        Raises: RunError when the one before could not be written.
        """
        step = int(state.step)
        if self.latest == step:
            return False
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_named(state)),
            data=ocp.args.JsonSave(_of_all_processes(data)),
            about=ocp.args.JsonSave({"base": base}),
        )
        try:
            return self._manager.save(step, args=items, metrics=dict(scores))
        except OSError as error:
            raise self._failed(error) from error

    def restore(self, step: int, state: TrainState, base: str) -> RestoredState:
        """A checkpoint, on the mesh and in the place of a state of the same model.

        Raises: RunError when it is of another model, or its other weights are not these.
        """
        where = f"{self._folder}/{step}"
        names = _named(state)
        held = self._manager.item_metadata(step)["state"].tree
        problems = _differences(names, held)
        if problems:
            raise RunError(f"{where}: a checkpoint of another model: {'; '.join(problems)}")
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, names)
        in_place = ocp.checkpoint_utils.construct_restore_args(wanted)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(wanted, restore_args=in_place),
            data=ocp.args.JsonRestore(),
            about=ocp.args.JsonRestore(),
        )
        found = self._manager.restore(step, args=items)
        if found["about"]["base"] != base:
            raise RunError(
                f"{where}: was trained on other weights than the run now begins with; name the "
                "model that it began with in init.model"
            )
        structure = jax.tree.structure(state)
        values = [found["state"][name] for name in names]
        return RestoredState(jax.tree.unflatten(structure, values), found["data"])

    def wait(self) -> None:
        """Until all that was begun is written.

        Raises: RunError when it could not be.
        """
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """End the writing threads."""
        self._manager.close()

    def _failed(self, error: OSError) -> RunError:
        return RunError(
            f"{self._folder}: a checkpoint could not be written: {error.strerror or error}. "
            f"The last whole one is {self.latest}; the same command goes on from it"
        )


def load_trained_leaves(run: Path, step: int | None = None) -> tuple[dict[str, np.ndarray], str]:
    """{leaf: value} of what a run has trained, from its latest checkpoint or that of a step; and
    the fingerprint of all other weights.

    Raises: RunError when there is no such checkpoint.
    """
    folder = (run / CHECKPOINTS).absolute()
    if not folder.is_dir():
        raise RunError(f"{folder}: no checkpoints")
    with _manager(folder, ocp.CheckpointManagerOptions(create=False)) as manager:
        steps = manager.all_steps()
        step = manager.latest_step() if step is None else step
        if step not in steps:
            raise RunError(f"{folder}: no whole checkpoint {step or ''}; there are {list(steps)}")
        held = manager.item_metadata(step)["state"].tree
        on_host = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in held}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(restore_args=on_host), about=ocp.args.JsonRestore()
        )
        found = manager.restore(step, args=items)
    leaves = {
        name.removeprefix(_TRAINABLE).removesuffix(_VALUE).replace("/", "."): value
        for name, value in found["state"].items()
        if name.startswith(_TRAINABLE)
    }
    return leaves, found["about"]["base"]


def _best(config: CheckpointConfig) -> BestN:
    """Keeps the best by the name in the configuration."""
    sign = -1 if config.best_metric in LOSSES else 1
    return BestN(
        get_metric_fn=lambda scores: sign * scores.get(config.best_metric, -np.inf),
        n=config.keep_best,
        keep_checkpoints_without_metrics=False,
    )


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
        "about": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _named(state: TrainState) -> dict[str, Any]:
    """{path: array} of all that is saved, in the order of the state's leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _differences(wanted: Mapping[str, Any], held: Mapping[str, Any]) -> list[str]:
    """What a checkpoint has otherwise than a state; the first few."""
    found = [f"lacks {name}" for name in wanted if name not in held]
    found += [f"has {name} besides" for name in held if name not in wanted]
    found += [
        f"{name} is {tuple(held[name].shape)}, not {tuple(array.shape)}"
        for name, array in wanted.items()
        if name in held and tuple(held[name].shape) != tuple(array.shape)
    ]
    return [*found[:5], f"and {len(found) - 5} more"] if len(found) > 5 else found


def _of_all_processes(data: Mapping[str, Any]) -> dict[str, Any]:
    """The position of the shards of every process; each knows its own."""
    if jax.process_count() == 1:
        return dict(data)
    text = np.frombuffer(json.dumps(data).encode(), np.uint8)
    length = int(np.max(multihost_utils.process_allgather(np.asarray(len(text)))))
    padded = np.pad(text, (0, length - len(text)), constant_values=ord(" "))
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return merge_states(json.loads(row.tobytes()) for row in texts)
