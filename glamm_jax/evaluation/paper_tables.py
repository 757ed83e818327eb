"""The tables of the paper: their datasets and splits, where the data is, the released checkpoints.

    entry, *others = TABLES["table4"].select(["refcoco"])
    assert (entry.name, entry.checkpoint) == ("refcoco-val", "MBZUAI/GLaMM-RefSeg")
    data = entry.data(Path("."))    # for annotation files, ItemsError if there is none

The data is expected below one folder, in the layout of docs/datasets.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glamm_jax.evaluation.items import EvaluationData, ItemsError
from glamm_jax.storage import local_path

NO_CHECKPOINT = "none is named"


@dataclass(frozen=True)
class TableEntry:
    """One dataset and split of a table.

    Attributes:
        name: of its folder in the output, and for `--only`.
        split: of the data.
        checkpoint: released checkpoint that the row of the paper is of.
        files: where the data may be, relative to the folder of all data; the first that exists is
            used. "": that folder itself.
        dataset: name of the dataset that the folder has in its original layout; "": annotation
            files.
        images: folder of the images, relative to the folder of all data; "": searched for.
    """

    name: str
    split: str
    checkpoint: str
    files: tuple[str, ...] = ("",)
    dataset: str = ""
    images: str = ""

    def data(self, root: Path | str, limit: int | None = None, seed: int = 0) -> EvaluationData:
        """Return the data of the entry.

        Args:
            root: folder of all data.
            limit: largest number of images.
            seed: of sampled expressions.

        Raises:
            ItemsError: none of the files exists.
        """
        base = local_path(str(root))
        places = [base / file for file in self.files]
        path = next((place for place in places if place.exists()), None)
        if path is None:
            raise ItemsError(f"{base}: no {' and no '.join(filter(None, self.files)) or 'folder'}")
        images = base / self.images if self.images else None
        # Without the folder of the layout the images are searched for, as for single files.
        images = images if images is not None and images.is_dir() else None
        return EvaluationData(str(path), self.split, self.dataset, images, limit, seed)


@dataclass(frozen=True)
class TablePlan:
    """What an evaluation of a table consists of.

    Attributes:
        number: of the table in the paper.
        benchmark: its name.
        entries: in the order of the columns.
        metrics: of captions that the table has; they need Java.
        remark: what else to know about the rows of the paper.
    """

    number: int
    benchmark: str
    entries: tuple[TableEntry, ...]
    metrics: tuple[str, ...] = ()
    remark: str = ""

    @property
    def title(self) -> str:
        """The table with its benchmark."""
        return f"Table {self.number}, {self.benchmark}"

    @property
    def checkpoints(self) -> Sequence[str]:
        """The released checkpoints, each once."""
        return [*dict.fromkeys(entry.checkpoint for entry in self.entries)]

    def select(self, names: Sequence[str]) -> list[TableEntry]:
        """Return the entries of these names, or all without any name.

        A name may be the beginning of several: "refcoco+" or "refcoco-val".

        Raises:
            ItemsError: a name fits no entry.
        """
        for name in names:
            if not any(_fits(entry.name, name) for entry in self.entries):
                names = ", ".join(entry.name for entry in self.entries)
                raise ItemsError(f"table {self.number} has no {name!r}; available: {names}")
        return [
            entry
            for entry in self.entries
            if not names or any(_fits(entry.name, name) for name in names)
        ]


def _fits(entry: str, name: str) -> bool:
    return entry == name or entry.startswith(f"{name}-")


_REFCOCO_SPLITS = {
    **dict.fromkeys(("refcoco", "refcoco+"), ("val", "testA", "testB")),
    "refcocog": ("val", "test"),
}

TABLES: dict[str, TablePlan] = {
    "table3": TablePlan(
        3,
        "gcg",
        tuple(TableEntry(split, split, "MBZUAI/GLaMM-GCG") for split in ("val", "test")),
        metrics=("METEOR", "CIDEr"),
        remark="The row without the human-annotated images is that of a model that is not released "
        "(recipe configs/finetune_gcg_without_human.py).",
    ),
    "table4": TablePlan(
        4,
        "refseg",
        tuple(
            TableEntry(f"{dataset}-{split}", split, "MBZUAI/GLaMM-RefSeg", dataset=dataset)
            for dataset, splits in _REFCOCO_SPLITS.items()
            for split in splits
        ),
        remark="cIoU is teacher-forced, as in the paper. The checkpoint is fine-tuned on the three "
        "training splits.",
    ),
    "table5": TablePlan(
        5,
        "region_caption",
        (
            TableEntry(
                "refcocog",
                "val",
                "MBZUAI/GLaMM-RegCap-RefCOCOg",
                ("RefCoco_Reg/mdetr_annotations/finetune_refcocog_val_captions.json",),
                images="coco_2014/train2014",
            ),
            TableEntry(
                "visual_genome",
                "test",
                "MBZUAI/GLaMM-RegCap-VG",
                ("visual_genome/test_caption.json",),
                images="visual_genome/images",
            ),
        ),
        metrics=("METEOR", "CIDEr"),
        remark="Each dataset has a checkpoint of its own, which is its fine-tuned row: evaluate "
        "them one after the other with --only and the same --out. No checkpoint of the zero-shot "
        "rows is named.",
    ),
    "table6": TablePlan(
        6,
        "image_caption",
        (
            TableEntry(
                "nocaps",
                "val",
                NO_CHECKPOINT,
                ("nocaps/nocaps_val_4500_captions.json", "nocaps_val_4500_captions.json"),
            ),
            TableEntry(
                "flickr30k",
                "test",
                NO_CHECKPOINT,
                (
                    *("flikcr_30k/dataset_flickr30k.json", "flickr30k/dataset_flickr30k.json"),
                    "dataset_flickr30k.json",
                ),
            ),
        ),
        metrics=("CIDEr",),
        remark="The rows are zero-shot; no checkpoint of them is named (recipe "
        "configs/finetune_caption.py). SPICE needs CoreNLP: --captions CIDEr SPICE.",
    ),
}
