"""Checkpoints of a run: what training changes, and the position in the data.

checkpoints/STEP/
    state/    step, trained parameters and optimizer state, by leaf path; written by all processes
    data/     position of the data loader, of all batch slices
    about/    fingerprint of the parameters that are not trained, which are not saved

Orbax writes to a temporary name while the next steps run, then renames: a folder STEP is complete.
No random state is saved: it follows from the seed and the step.
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
from glamm_jax.training.losses import LOSS_NAMES
from glamm_jax.training.run_folder import CHECKPOINTS, RunError
from glamm_jax.training.state import TrainState

_TRAINABLE, _VALUE = "trainable/", "/value"  # around the path of a trained leaf


class RestoredState(NamedTuple):
    """A restored checkpoint.

    Attributes:
        state: on the mesh.
        loader_state: for `Batches.set_state`.
    """

    state: TrainState
    loader_state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run, written in the background."""

    def __init__(self, folder: Path, config: CheckpointConfig):
        self._folder = folder.absolute()
        policies: list[Any] = [LatestN(config.keep_last)]
        if config.keep_best:
            sign = -1 if config.best_metric in LOSS_NAMES else 1  # of a loss, lower is better
            best = BestN(
                get_metric_fn=lambda scores: sign * scores.get(config.best_metric, -np.inf),
                n=config.keep_best,
                keep_checkpoints_without_metrics=False,
            )
            policies.append(best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._manager = _manager(self._folder, options)

    @property
    def latest(self) -> int | None:
        """Step of the latest complete checkpoint; None without one."""
        return self._manager.latest_step()

    def check_free_space(self, state: TrainState) -> None:
        """Check that a checkpoint of this state fits on the disk.

        Raises:
            RunError: it does not fit.
        """
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
        loader_state: Mapping[str, Any],
        base_fingerprint: str,
        scores: Mapping[str, float],
    ) -> bool:
        """Start to write a checkpoint in the background. The state may change meanwhile.

        Args:
            state: to save; its step names the checkpoint.
            loader_state: position of this process's data loader.
            base_fingerprint: of the parameters that are not trained.
            scores: decide which checkpoints are the best.

        Returns:
            False if there is a checkpoint of this step already.

        Raises:
            RunError: the previous checkpoint could not be written.
        """
        step = int(state.step)
        if self.latest == step:
            return False
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_leaves_by_path(state)),
            data=ocp.args.JsonSave(_merge_processes(loader_state)),
            about=ocp.args.JsonSave({"base": base_fingerprint}),
        )
        try:
            return self._manager.save(step, args=items, metrics=dict(scores))
        except OSError as error:
            raise self._write_error(error) from error

    def restore(self, step: int, state: TrainState, base_fingerprint: str) -> RestoredState:
        """Restore a checkpoint onto the mesh.

        Args:
            step: of the checkpoint.
            state: of the same model; gives shapes, dtypes and shardings.
            base_fingerprint: of the run's parameters that are not trained.

        Raises:
            RunError: it is a checkpoint of another model, or was trained on other frozen
                parameters.
        """
        where = f"{self._folder}/{step}"
        leaves = _leaves_by_path(state)
        stored = self._manager.item_metadata(step)["state"].tree
        problems = _differences(leaves, stored)
        if problems:
            raise RunError(f"{where}: a checkpoint of another model: {'; '.join(problems)}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, leaves)
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(abstract, restore_args=restore_args),
            data=ocp.args.JsonRestore(),
            about=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=items)
        if restored["about"]["base"] != base_fingerprint:
            raise RunError(
                f"{where}: was trained on other weights than the run now starts from; set "
                "init.model to the model that it started from"
            )
        values = [restored["state"][path] for path in leaves]
        structure = jax.tree.structure(state)
        return RestoredState(jax.tree.unflatten(structure, values), restored["data"])

    def wait(self) -> None:
        """Wait until all checkpoints are written.

        Raises:
            RunError: one could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Stop the writing threads."""
        self._manager.close()

    def _write_error(self, error: OSError) -> RunError:
        return RunError(
            f"{self._folder}: a checkpoint could not be written: {error.strerror or error}. "
            f"The last complete one is {self.latest}; the same command resumes from it"
        )


def load_trained_leaves(run: Path, step: int | None = None) -> tuple[dict[str, np.ndarray], str]:
    """Load what a run has trained.

    Args:
        run: folder of the run.
        step: of the checkpoint; None: the latest.

    Returns:
        {leaf path: value} of the trained parameters, and the fingerprint of all others.

    Raises:
        RunError: there is no such checkpoint.
    """
    folder = (run / CHECKPOINTS).absolute()
    if not folder.is_dir():
        raise RunError(f"{folder}: no checkpoints")
    with _manager(folder, ocp.CheckpointManagerOptions(create=False)) as manager:
        steps = manager.all_steps()
        step = manager.latest_step() if step is None else step
        if step not in steps:
            raise RunError(
                f"{folder}: no complete checkpoint {step or ''}; there are {list(steps)}"
            )
        stored = manager.item_metadata(step)["state"].tree
        on_host = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in stored}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(restore_args=on_host), about=ocp.args.JsonRestore()
        )
        restored = manager.restore(step, args=items)
    leaves = {
        path.removeprefix(_TRAINABLE).removesuffix(_VALUE).replace("/", "."): value
        for path, value in restored["state"].items()
        if path.startswith(_TRAINABLE)
    }
    return leaves, restored["about"]["base"]


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
        "about": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _leaves_by_path(state: TrainState) -> dict[str, Any]:
    """Return {path: array} of everything that is saved, in the order of the state's leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _differences(expected: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Describe how the leaves of a checkpoint differ from those of a state, at most five."""
    problems = [f"lacks {path}" for path in expected if path not in stored]
    problems += [f"has {path} in addition" for path in stored if path not in expected]
    problems += [
        f"{path} is {tuple(stored[path].shape)}, not {tuple(array.shape)}"
        for path, array in expected.items()
        if path in stored and tuple(stored[path].shape) != tuple(array.shape)
    ]
    return [*problems[:5], f"and {len(problems) - 5} more"] if len(problems) > 5 else problems


def _merge_processes(loader_state: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the loader states of all processes; each has those of its own batch slices."""
    if jax.process_count() == 1:
        return dict(loader_state)
    text = np.frombuffer(json.dumps(loader_state).encode(), np.uint8)
    length = int(np.max(multihost_utils.process_allgather(np.asarray(len(text)))))
    padded = np.pad(text, (0, length - len(text)), constant_values=ord(" "))
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return merge_states(json.loads(row.tobytes()) for row in texts)
