"""The part `e2e`: all `e2e_*` folders, complete models small enough to differentiate quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flax import nnx

from glamm_jax.config import LossWeights
from glamm_jax.data.collate import BatchShape, Sample, build_batch
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.glamm import glamm_table
from glamm_jax.weights.rules import tensor_shapes
from tools.parity.e2e_eval import check_evaluations, check_inference_branch
from tools.parity.e2e_inputs import check_inputs, read_samples
from tools.parity.e2e_steps import check_steps
from tools.parity.e2e_train import (
    TrainRunner,
    compare_case,
    compare_gradient_norms,
    compare_losses,
)
from tools.parity.e2e_variants import check_bf16_variants, check_lora
from tools.parity.golden_model import glamm_config, golden_glamm
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile


def check(folder: Path, report: ComparisonReport) -> None:
    """Compare every `e2e_*` folder.

    Args:
        folder: the golden folder.
        report: receives the results.

    Raises:
        GoldenError: there is no such folder.
    """
    paths = sorted(path for path in folder.glob("e2e_*") if path.is_dir())
    if not paths:
        raise GoldenError(f"{folder}: no e2e_* folder")
    for path in paths:
        with report.guard(str(path)):
            E2EFolder(path, report).check()


class E2EFolder:
    """One e2e folder: its configuration, its model and its recorded cases.

    Attributes:
        path: the folder.
        report: receives the results.
        part: name of the folder.
        info: its `info.json`.
        config: configuration of the model.
        salt: of the random weights and inputs.
        weights: weights of the losses.
    """

    def __init__(self, path: Path, report: ComparisonReport):
        self.path, self.report, self.part = path, report, path.name
        self.info = RecordedFile.open(report, self.part, path / "info.json")
        described = subtree(self.info, "config.")
        self.config = glamm_config(described)
        self.salt = described.get("salt", "")
        self._compare_special_ids()
        self.weights = LossWeights(
            **{name: self.info.input(f"loss_weights.{name}") for name in ("ce", "bce", "dice")}
        )

    def check(self) -> None:
        """Compare everything in the folder."""
        with self.info:
            model = golden_glamm(self.config, self.salt)
            self._compare_state_dict(model)
            training_files = self._compare_training(model)
            check_inference_branch(self.path, self.report, self.part, model, self.salt)
            check_evaluations(self.path, self.report, self.info, model, self.salt)
            check_bf16_variants(self.path, self.info, self.config, self.salt, self.weights)
            check_lora(self.path, self.report, self.part, self.config, self.salt, self.weights)
        opened = {row.file.split("/")[-1] for row in self.report.rows if row.part == self.part}
        opened |= training_files | {"info.json"}
        for name in sorted({path.name for path in self.path.iterdir()} - opened):
            with RecordedFile.open(self.report, self.part, self.path / name):
                pass  # on closing, every array in it is unknown

    def _compare_special_ids(self) -> None:
        """Compare the ids of the seven added tokens: they follow the base vocabulary."""
        tokens = self.config.tokens
        names = {
            "<im_start>": tokens.image_start,
            "<im_end>": tokens.image_end,
            "<bbox>": tokens.region,
            "<point>": tokens.point,
            "[SEG]": tokens.seg,
            "<p>": tokens.phrase_start,
            "</p>": tokens.phrase_end,
        }
        for name, value in names.items():
            self.info.compare(f"special_ids.{name}", value, "exact")

    def _compare_state_dict(self, model: Any) -> None:
        """Compare names and shapes of the original's state dict with the weight table."""
        if not (self.path / "state_dict.json").is_file():
            return
        table = glamm_table(self.config)
        shapes = tensor_shapes(table, state_shapes(nnx.state(model)))
        unmapped = table.unmapped_by_name()
        with RecordedFile.open(self.report, self.part, self.path / "state_dict.json") as recorded:
            for name in recorded.names:
                if name in shapes:
                    recorded.compare(name, [list(shapes[name]), "float32"], "exact")
                elif name in unmapped:
                    recorded.exclude(name, f"{unmapped[name].disposition}: {unmapped[name].reason}")
            for name in sorted(set(shapes) - set(recorded.names)):
                raise GoldenError(f"{recorded.file}: tensor {name} is missing")

    def _compare_training(self, model: Any) -> set[str]:
        """Compare all `train_*.npz` with one compiled program; return their names."""
        cases: dict[str, tuple[RecordedFile, list[Sample]]] = {}
        batch_shape = BatchShape()
        for name in case_names(self.info):
            recorded = RecordedFile.open(self.report, self.part, self.path / f"train_{name}.npz")
            samples = read_samples(recorded)
            cases[name] = recorded, samples
            batch_shape = batch_shape.union(build_batch(samples, self.config).required_shape)
        if not cases:
            return set()
        runner = TrainRunner(model, self.weights, batch_shape)
        for name, (recorded, samples) in cases.items():
            with recorded:
                result = runner.run_agreeing(recorded, samples)
                check_inputs(recorded, self.config, [name], self.salt)
                compare_case(recorded, samples, result, self.config)
            prefix = f"cases.{name}."
            compare_losses(self.info, result.losses, "loss", f"{prefix}losses.")
            compare_gradient_norms(self.info, f"{prefix}grad_norm_sum_absmax.", result.gradients)
            self._compare_sizes(prefix, samples)
        by_name = {name: samples for name, (_, samples) in cases.items()}
        check_steps(self.info, self.path, model, by_name, self.weights)
        return {f"train_{name}.npz" for name in cases}

    def _compare_sizes(self, prefix: str, samples: list[Sample]) -> None:
        seg = self.config.tokens.seg
        counts = [sum(int((r.token_ids == seg).sum()) for r in s.conversations) for s in samples]
        self.info.compare(f"{prefix}nseg_per_image", counts, "exact")
        sizes = [list(s.original_size) for s in samples]
        self.info.compare(f"{prefix}sizes", sizes, "exact")
        self.info.compare(f"{prefix}resize", [list(s.resized_size) for s in samples], "exact")


def case_names(info: RecordedFile) -> list[str]:
    """Return the names of the training cases, in order."""
    return list(dict.fromkeys(n.split(".")[1] for n in info.names_under("cases.")))


def subtree(recorded: RecordedFile, prefix: str) -> dict[str, Any]:
    """Return the nested dictionary below a prefix of a flattened JSON file; exclude it as input."""
    tree: dict[str, Any] = {}
    for name in recorded.names_under(prefix):
        *path, leaf = name.removeprefix(prefix).split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = recorded.input(name, "configuration")
    return tree
