"""The part `e2e`: every `e2e_*` folder, the whole model at a size that differentiates quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flax import nnx

from glamm_jax.config import LossWeights
from glamm_jax.data.collate import BatchShape, Sample, fit
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

    Raises: GoldenError when there is none, or one cannot be read.
    """
    found = sorted(path for path in folder.glob("e2e_*") if path.is_dir())
    if not found:
        raise GoldenError(f"{folder}: no e2e_* folder")
    for path in found:
        with report.guard(str(path)):
            E2EFolder(path, report).check()


class E2EFolder:
    """One e2e folder: its configuration, its model and its recorded cases."""

    def __init__(self, path: Path, report: ComparisonReport):
        self.path, self.report, self.part = path, report, path.name
        self.info = RecordedFile.open(report, self.part, path / "info.json")
        described = subtree(self.info, "config.")
        self.config = glamm_config(described)
        self.salt = described.get("salt", "")
        self._check_special_ids()
        self.weights = LossWeights(
            **{name: self.info.input(f"loss_weights.{name}") for name in ("ce", "bce", "dice")}
        )

    def check(self) -> None:
        """Run everything the folder holds."""
        with self.info:
            model = golden_glamm(self.config, self.salt)
            self._check_state_dict(model)
            trained = self._check_training(model)
            check_inference_branch(self.path, self.report, self.part, model, self.salt)
            check_evaluations(self.path, self.report, self.info, model, self.salt)
            check_bf16_variants(self.path, self.info, self.config, self.salt, self.weights)
            check_lora(self.path, self.report, self.part, self.config, self.salt, self.weights)
        unopened = {p.name for p in self.path.iterdir()} - trained - self._known_files()
        for name in sorted(unopened):
            with RecordedFile.open(self.report, self.part, self.path / name):
                pass  # every array in it is unknown

    def _known_files(self) -> set[str]:
        opened = {row.file.split("/")[-1] for row in self.report.rows if row.part == self.part}
        return opened | {"info.json"}

    def _check_special_ids(self) -> None:
        """The seven added tokens are ours to know: their ids follow the base vocabulary."""
        ours = self.config.tokens
        names = {
            "<im_start>": ours.image_start,
            "<im_end>": ours.image_end,
            "<bbox>": ours.region,
            "<point>": ours.point,
            "[SEG]": ours.seg,
            "<p>": ours.phrase_start,
            "</p>": ours.phrase_end,
        }
        for name, value in names.items():
            self.info.compare(f"special_ids.{name}", value, "exact")

    def _check_state_dict(self, model: Any) -> None:
        """Names and shapes of the original's state dict are those that our tables speak of."""
        if not (self.path / "state_dict.json").is_file():
            return
        table = glamm_table(self.config)
        ours = tensor_shapes(table, state_shapes(nnx.state(model)))
        unread = table.unmapped_by_name()
        with RecordedFile.open(self.report, self.part, self.path / "state_dict.json") as recorded:
            for name in recorded.names:
                if name in ours:
                    recorded.compare(name, [list(ours[name]), "float32"], "exact")
                elif name in unread:
                    recorded.exclude(name, f"{unread[name].kind}: {unread[name].reason}")
            for name in sorted(set(ours) - set(recorded.names)):
                raise GoldenError(f"{recorded.file}: tensor {name} is missing")

    def _check_training(self, model: Any) -> set[str]:
        """All `train_*.npz`, through one compiled program."""
        cases: dict[str, tuple[RecordedFile, list[Sample]]] = {}
        capacity = BatchShape()
        for name in case_names(self.info):
            recorded = RecordedFile.open(self.report, self.part, self.path / f"train_{name}.npz")
            samples = read_samples(recorded)
            cases[name] = recorded, samples
            capacity = capacity.union(fit(samples, self.config))
        if not cases:
            return set()
        runner = TrainRunner(model, self.weights, capacity)
        for name, (recorded, samples) in cases.items():
            with recorded:
                run = runner.run_agreeing(recorded, samples)
                check_inputs(recorded, self.config, [name], self.salt)
                compare_case(recorded, samples, run, self.config)
            prefix = f"cases.{name}."
            compare_losses(self.info, run.losses, "loss", f"{prefix}losses.")
            compare_gradient_norms(self.info, f"{prefix}grad_norm_sum_absmax.", run.gradients)
            self._compare_sizes(prefix, samples)
        by_name = {name: samples for name, (_, samples) in cases.items()}
        check_steps(self.info, self.path, model, by_name, self.weights)
        return {f"train_{name}.npz" for name in cases}

    def _compare_sizes(self, prefix: str, samples: list[Sample]) -> None:
        seg = self.config.tokens.seg
        counts = [sum(int((r.token_ids == seg).sum()) for r in s.rows) for s in samples]
        self.info.compare(f"{prefix}nseg_per_image", counts, "exact")
        sizes = [list(s.original_size) for s in samples]
        self.info.compare(f"{prefix}sizes", sizes, "exact")
        self.info.compare(f"{prefix}resize", [list(s.resized_size) for s in samples], "exact")


def case_names(info: RecordedFile) -> list[str]:
    """Names of the training cases, in order."""
    return list(dict.fromkeys(n.split(".")[1] for n in info.names_under("cases.")))


def subtree(recorded: RecordedFile, prefix: str) -> dict[str, Any]:
    """The nested dictionary below a prefix of a flattened JSON file; settled as input."""
    tree: dict[str, Any] = {}
    for name in recorded.names_under(prefix):
        *path, leaf = name.removeprefix(prefix).split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = recorded.input(name, "configuration")
    return tree
