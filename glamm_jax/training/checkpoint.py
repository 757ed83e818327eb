"""Checkpoints of a run: what training changes, and the position in the data.

checkpoints/STEP/
    state/    step, trained parameters and optimizer state, by leaf path; written by all processes
    data/     position of the data loader, of all batch slices
    about/    fingerprint of the parameters that are not trained, which are not saved; how many
              consecutive steps before this one were skipped
    metrics/  scores, if `checkpoint.keep_best` compares them
    checksums.json    of all other files (`glamm_jax.training.checksums`)

Orbax writes to a temporary name while the next steps run, then renames: a folder STEP is complete.
In a bucket, where renaming is not atomic, it writes to the final name, and `commit_success.txt` at
the end: a folder STEP with it is complete, all others are removed when the run resumes.
Restoring verifies the checksums first: a checkpoint is restored to the bit or refused, with the
damaged file and what to do. Checkpoints of earlier versions have none; a line says so.
No random state is saved: it follows from the seed and the step.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    EveryNSteps,
    LatestN,
)

from glamm_jax.config.experiment import CheckpointConfig
from glamm_jax.data.loader import merge_states
from glamm_jax.storage import AnyPath, absolute
from glamm_jax.training import checksums
from glamm_jax.training.losses import LOSS_NAMES
from glamm_jax.training.run_folder import (
    CHECKPOINTS,
    DISCARDED,
    RunError,
    checkpoint_folders,
    print_line,
)
from glamm_jax.training.state import TrainState

_TRAINABLE, _VALUE = "trainable/", "/value"  # around the path of a trained leaf


class DamagedCheckpointError(RunError):
    """A file of a checkpoint is damaged. Names it, and the newest intact checkpoint."""


class RestoredState(NamedTuple):
    """A restored checkpoint.

    Attributes:
        state: on the mesh.
        loader_state: for `Batches.set_state`.
        num_skipped: consecutive steps before it whose loss was not finite.
    """

    state: TrainState
    loader_state: dict[str, Any]
    num_skipped: int = 0


class Checkpoints:
    """The checkpoints of a run, written in the background."""

    def __init__(self, folder: AnyPath, config: CheckpointConfig):
        self._folder = absolute(folder)
        policies: list[Any] = [LatestN(config.keep_last)]
        if config.keep_every:
            policies.append(EveryNSteps(config.keep_every))
        rank = functools.partial(_rank, metric=config.best_metric) if config.keep_best else None
        if rank is not None:
            best = BestN(
                get_metric_fn=rank, n=config.keep_best, keep_checkpoints_without_metrics=False
            )
            policies.append(best)
        options = ocp.CheckpointManagerOptions(
            best_fn=rank,  # without it the scores are not written, and a resumed run has none
            preservation_policy=AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        self._saving: int | None = None  # step of the checkpoint that is being written
        self._started = 0.0
        self._seconds: float | None = None
        self._has_failed = False
        self._manager = _open_manager(self._folder, options, _how_to_resume)

    @property
    def latest(self) -> int | None:
        """Step of the latest complete checkpoint; None without one."""
        return self._manager.latest_step()

    def check_free_space(self, state: TrainState) -> None:
        """Check that a checkpoint of this state fits on the disk; a bucket has no limit.

        Raises:
            RunError: it does not fit.
        """
        if not isinstance(self._folder, Path):
            return
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
        num_skipped: int = 0,
    ) -> bool:
        """Start to write a checkpoint in the background. The state may change meanwhile.

        Args:
            state: to save; its step names the checkpoint.
            loader_state: position of this process's data loader.
            base_fingerprint: of the parameters that are not trained.
            scores: decide which checkpoints are the best.
            num_skipped: consecutive steps before this one whose loss was not finite.

        Returns:
            False if there is a checkpoint of this step already.

        Raises:
            RunError: this checkpoint or the previous one could not be written.
        """
        step = int(state.step)
        self.wait()
        if self.latest == step:
            return False
        about = {"base": base_fingerprint, "checksums": True, "skipped": num_skipped}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_leaves_by_path(state)),
            data=ocp.args.JsonSave(_merge_processes(loader_state)),
            about=ocp.args.JsonSave(about),
        )
        self._saving, self._started = step, time.monotonic()
        with self._write_errors():
            return self._manager.save(step, args=items, metrics=dict(scores))

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is being written; `wait` returns at once if not."""
        return self._saving is not None and self._manager.is_saving_in_progress()

    @property
    def last_seconds(self) -> float | None:
        """Seconds from the start of the last checkpoint until all of it was written.

        None: no checkpoint was written, or this is not the first process.
        """
        return self._seconds

    def restore(self, step: int, state: TrainState, base_fingerprint: str) -> RestoredState:
        """Restore a checkpoint onto the mesh.

        Args:
            step: of the checkpoint.
            state: of the same model; gives shapes, dtypes and shardings.
            base_fingerprint: of the run's parameters that are not trained.

        Raises:
            DamagedCheckpointError: a file of it is damaged.
            RunError: it is a checkpoint of another model, or was trained on other frozen
                parameters.
        """
        where = f"{self._folder}/{step}"
        leaves = _leaves_by_path(state)
        _verify(self._folder, step, _how_to_resume)
        with _read_errors(where):
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
        with _read_errors(where):
            restored = self._manager.restore(step, args=items)
        if restored["about"]["base"] != base_fingerprint:
            raise RunError(
                f"{where}: was trained on other weights than the run now starts from; set "
                "init.model to the model that it started from"
            )
        values = [restored["state"][path] for path in leaves]
        structure = jax.tree.structure(state)
        return RestoredState(
            jax.tree.unflatten(structure, values),
            restored["data"],
            restored["about"].get("skipped", 0),
        )

    def wait(self) -> None:
        """Wait until all checkpoints are written.

        Raises:
            RunError: one could not be written.
        """
        with self._write_errors():
            self._manager.wait_until_finished()
        self._saving = None

    def close(self) -> None:
        """Stop the writing threads."""
        try:
            self._manager.close()
        except Exception:
            if not self._has_failed:  # otherwise it was raised before
                raise

    def _write_checksums(self) -> None:
        """Called in the first process after all processes have written, before the rename."""
        # Orbax writes the handlers of the items into _CHECKPOINT_METADATA in a thread.
        self._manager._non_blocking_metadata_store.wait_until_finished()
        checksums.write_checksums(_unfinished_folder(self._folder, self._saving))
        self._seconds = time.monotonic() - self._started

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turn errors of writing into an error in one line; tensorstore raises ValueError."""
        try:
            yield
        except Exception as error:
            self._has_failed, self._saving = True, None
            folders = checkpoint_folders(self._folder)
            last = f"The last complete one is {folders[-1].name}" if folders else "There is none"
            raise RunError(
                f"{self._folder}: a checkpoint could not be written: {_reason(error)}. {last}; "
                "the same command resumes from it"
            ) from error


def _unfinished_folder(folder: AnyPath, step: int | None) -> AnyPath:
    """Return where the files of a checkpoint are that is not complete yet."""
    if not isinstance(folder, Path):
        return folder / str(step)
    # Of an interrupted save there may be another one, which was removed or is incomplete.
    folders = folder.glob(f"{step}.orbax-checkpoint-tmp*")
    return max(folders, key=lambda path: path.stat().st_mtime_ns)


def _rank(scores: Mapping[str, float], metric: str) -> float:
    """Return how good a checkpoint is; one without a finite score is worse than all others."""
    score = scores.get(metric, np.nan)
    if not np.isfinite(score):
        return -np.inf
    return -score if metric in LOSS_NAMES else score  # of a loss, lower is better


def verify_checkpoint(run: AnyPath, step: int) -> None:
    """Verify the checksums of a checkpoint; all processes read a part of its files.

    Args:
        run: folder of the run.
        step: of the checkpoint; 0 stands for none and is always intact.

    Raises:
        RunError: there is no such checkpoint.
        DamagedCheckpointError: a file of it is damaged.
    """
    folder = absolute(run / CHECKPOINTS)
    steps = _steps(folder)
    if step and step not in steps:
        raise RunError(f"{folder}: no complete checkpoint {step}; there are {steps}")
    if step:
        _verify(folder, step, _how_to_resume)


def load_trained_leaves(run: AnyPath, step: int | None = None) -> tuple[dict[str, np.ndarray], str]:
    """Load what a run has trained.

    Args:
        run: folder of the run.
        step: of the checkpoint; None: the latest.

    Returns:
        {leaf path: value} of the trained parameters, and the fingerprint of all others.

    Raises:
        RunError: there is no such checkpoint.
        DamagedCheckpointError: a file of it is damaged.
    """
    folder = absolute(run / CHECKPOINTS)
    if not folder.is_dir():
        raise RunError(f"{folder}: no checkpoints")
    steps = _steps(folder)
    step = max(steps, default=None) if step is None else step
    if step is None or step not in steps:
        raise RunError(f"{folder}: no complete checkpoint {step or ''}; there are {steps}")
    _verify(folder, step, _how_to_export)
    options = ocp.CheckpointManagerOptions(create=False)
    with (
        closing(_open_manager(folder, options, _how_to_export)) as manager,
        _read_errors(f"{folder}/{step}"),
    ):
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


def _open_manager(
    folder: AnyPath, options: ocp.CheckpointManagerOptions, how_to_continue: Callable[[int], str]
) -> ocp.CheckpointManager:
    """Open the checkpoints of a folder.

    Raises:
        DamagedCheckpointError: a file of any of them, which orbax reads at once, is damaged.
    """
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
        "about": ocp.JsonCheckpointHandler(),
    }
    logging.getLogger("absl").addFilter(_is_not_of_orbax)  # a filter is added only once
    try:
        return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)
    except Exception as error:
        for step in reversed(_steps(folder)):
            _verify(folder, step, how_to_continue, other_than_latest=True)
        raise RunError(f"{folder}: cannot be opened: {_reason(error)}") from error


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Drop what orbax logs: its errors are raised as well, and reported in one line."""
    return "orbax" not in record.pathname


def _steps(folder: AnyPath) -> list[int]:
    return [int(path.name) for path in checkpoint_folders(folder)]


def _verify(
    folder: AnyPath,
    step: int,
    how_to_continue: Callable[[int], str],
    other_than_latest: bool = False,
) -> None:
    """Verify the checksums of a checkpoint.

    Args:
        folder: of all checkpoints.
        step: of the checkpoint.
        how_to_continue: (step of an intact checkpoint, 0: none) -> what to do.
        other_than_latest: it need not be the one that will be restored.

    Raises:
        DamagedCheckpointError: a file of it is damaged.
    """
    problem = _damage(folder, step)
    if not problem:
        return
    steps = _steps(folder)
    if other_than_latest and step != steps[-1]:
        advice = f"It is not the latest; move {folder / str(step)} away and run the same command"
        raise DamagedCheckpointError(f"{problem}. {advice}")
    earlier = (x for x in reversed(steps) if x < step and not _damage(folder, x))
    raise DamagedCheckpointError(f"{problem}. {how_to_continue(next(earlier, 0))}")


def _damage(folder: AnyPath, step: int) -> str:
    """Return what is wrong with a checkpoint, "" for nothing; processes divide its files."""
    path = folder / str(step)
    if not checksums.has_checksums(path):
        try:
            about = json.loads((path / "about" / "metadata").read_bytes())
            has_lost_them = bool(about.get("checksums"))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            return f"{path / 'about' / 'metadata'}: damaged, cannot be read ({error})"
        if has_lost_them:
            return f"{path / checksums.CHECKSUMS}: is missing"
        if jax.process_index() == 0:
            print_line(f"{path}: has no checksums (an earlier version wrote it); not verified")
        return ""
    problem = checksums.damage(path, jax.process_index(), jax.process_count())
    if jax.process_count() > 1:
        problems = multihost_utils.process_allgather(np.asarray(bool(problem)))
        if np.any(problems):
            return problem or f"{path}: damaged, process {int(np.argmax(problems))} names the file"
    return problem


def _how_to_resume(step: int) -> str:
    if not step:
        return (
            "No earlier checkpoint is intact: to start again from step 0, add --from-step 0 to the "
            "same command"
        )
    return (
        f"The newest intact earlier checkpoint is {step}: to continue from it, add "
        f"--from-step {step} to the same command, once; what came later is moved to {DISCARDED}/"
    )


def _how_to_export(step: int) -> str:
    if not step:
        return "No earlier checkpoint is intact"
    return (
        f"The newest intact earlier checkpoint is {step}: glamm-jax export RUN --out MODEL "
        f"--step {step} writes its model"
    )


@contextmanager
def _read_errors(where: str) -> Iterator[None]:
    """Turn what orbax and tensorstore raise for unreadable files into an error in one line."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise DamagedCheckpointError(
            f"{where}: cannot be restored: {_reason(error)}. It has no checksums that name the "
            "file, or was changed meanwhile; continue from an earlier checkpoint (train "
            "--from-step N, export --step N)"
        ) from error


def _reason(error: Exception) -> str:
    """Return the cause of an error of orbax or tensorstore in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    full = "No space left on device"
    if full in text or "RESOURCE_EXHAUSTED" in text:
        return f"{full}; free some space"
    text = re.sub(r"\[(source locations|tensorstore_spec)=.*", "", text)
    return text[:300].rstrip(" .;[") or type(error).__name__


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
