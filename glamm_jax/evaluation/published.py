"""What the paper published: every row of its tables 3, 4, 5, 6 and 8, as fractions.

    rows("gcg", "val")[0]          GLaMM's own row: .figures["METEOR"] == 0.162
    print(beside_paper("gcg", "val", {"compat": {"METEOR": 0.158, ...}}))

    benchmark         splits
    gcg               val, test
    refseg            refcoco/val, /testA, /testB; refcoco+/the same; refcocog/val, /test
    region_caption    refcocog, visual_genome
    image_caption     nocaps, flickr30k
    conversation      the whole of LLaVA-Bench (in the wild), under any name
    phrase_grounding  nothing is published (appendix B.1 shows pictures)

Metrics that can exceed 1 are divided by 100 like all: CIDEr 106.8 is 1.068.
Source: Rasheed et al., GLaMM: Pixel Grounding Large Multimodal Model, CVPR 2024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from glamm_jax.report.text_table import text_table

ZERO, TUNED, SILENT = "zero-shot", "fine-tuned", "not said"
Setting = Literal["zero-shot", "fine-tuned", "not said"]
GLAMM = "GLaMM"


@dataclass(frozen=True)
class PaperRow:
    """One system on one split.

    setting: trained on that benchmark's training split, or not; "not said" where the paper
        does not tell. figures: fractions, without those that the paper leaves open. table: its
        number in the paper.
    """

    name: str
    benchmark: str
    split: str
    setting: Setting
    figures: Mapping[str, float]
    table: int

    @property
    def is_ours(self) -> bool:
        """Whether this is the original of what is built here."""
        return self.name.startswith(GLAMM)

    @property
    def title(self) -> str:
        """Name, setting and source in a line."""
        setting = "" if self.setting == SILENT else f"{self.setting}, "
        return f"{self.name} ({setting}table {self.table})"


@dataclass(frozen=True)
class _Table:
    """A table as it is printed: a line has its cells split by split, in each figure by figure."""

    number: int
    benchmark: str
    splits: Sequence[str]
    figures: Sequence[str]
    lines: Sequence[tuple[str, Setting, str]]

    def rows(self) -> list[PaperRow]:
        """GLaMM's first, then the others as they stand."""
        found = []
        for name, setting, cells in self.lines:
            numbers = cells.split()
            for i, split in enumerate(self.splits):
                own = numbers[i * len(self.figures) : (i + 1) * len(self.figures)]
                pairs = zip(self.figures, own, strict=True)
                # rounded: 16.2 / 100 is to be the float that 0.162 is
                figures = {key: round(float(x) / 100, 6) for key, x in pairs if x != "-"}
                if figures:
                    row = PaperRow(name, self.benchmark, split, setting, figures, self.number)
                    found.append(row)
        return sorted(found, key=lambda row: not row.is_ours)


# Section 5: BuboGPT and Kosmos-2 as released, LISA trained on GranD-f; GLaMM fine-tuned on it.
_TABLE_3 = _Table(
    3,
    "gcg",
    ("val", "test"),
    ("METEOR", "CIDEr", "AP50", "mIoU", "recall"),
    (
        ("GLaMM", TUNED, "16.2 47.2 30.8 66.3 41.8  15.8 43.5 29.2 65.6 40.8"),
        (
            "GLaMM without the human-annotated images",
            TUNED,
            "15.2 43.1 28.9 65.8 39.6  14.6 37.9 27.2 64.6 38.0",
        ),
        ("LISA, adapted", TUNED, "13.0 33.9 25.2 62.0 36.3  12.9 32.2 24.8 61.7 35.5"),
        ("Kosmos-2", ZERO, "16.1 27.6 17.1 55.6 28.3  15.8 27.2 17.2 56.8 29.0"),
        ("BuboGPT", ZERO, "17.2 3.6 19.1 54.0 29.4  17.1 3.5 17.3 54.1 27.0"),
    ),
)
# Appendix A.3: the GLaMM of this table is fine-tuned on the three.
_TABLE_4 = _Table(
    4,
    "refseg",
    (
        *("refcoco/val", "refcoco/testA", "refcoco/testB"),
        *("refcoco+/val", "refcoco+/testA", "refcoco+/testB"),
        *("refcocog/val", "refcocog/test"),
    ),
    ("cIoU",),
    (
        ("GLaMM", TUNED, "79.5 83.2 76.9  72.6 78.7 64.6  74.2 74.9"),
        ("LISA-7B", SILENT, "74.9 79.1 72.3  65.1 70.8 58.1  67.9 70.6"),
        ("SEEM", SILENT, "- - -  - - -  65.7 -"),
        ("X-Decoder", SILENT, "- - -  - - -  64.6 -"),
        ("GRES", SILENT, "73.8 76.5 70.2  66.0 71.0 57.7  65.0 66.0"),
        ("LAVT", SILENT, "72.7 75.8 68.8  62.1 68.4 55.1  61.2 62.1"),
        ("CRIS", SILENT, "70.5 73.2 66.1  65.3 68.1 53.7  59.9 60.4"),
    ),
)
_TABLE_5 = _Table(
    5,
    "region_caption",
    ("refcocog", "visual_genome"),
    ("METEOR", "CIDEr"),
    (
        ("GLaMM", TUNED, "16.2 106.0  19.7 180.5"),
        ("GLaMM", ZERO, "15.7 104.0  17.0 127.0"),
        ("GPT4RoI", SILENT, "- -  17.4 145.2"),
        ("Kosmos-2", SILENT, "14.1 62.3  - -"),
        ("GRiT", SILENT, "15.2 71.6  17.1 142"),
    ),
)
_TABLE_6 = _Table(
    6,
    "image_caption",
    ("nocaps", "flickr30k"),
    ("CIDEr", "SPICE"),
    (
        ("GLaMM", ZERO, "106.8 15.8  95.3 18.8"),
        ("Kosmos-2", SILENT, "- -  66.7 -"),
        ("Kosmos-1", SILENT, "- -  67.1 14.5"),
        ("Shikra-13B", SILENT, "- -  73.9 -"),
        ("InstructBLIP", SILENT, "123.1 -  82.8 -"),
        ("BLIP-2", SILENT, "121.6 15.8  - -"),
        ("BLIP", SILENT, "113.2 14.7  - -"),
        ("CoCa", SILENT, "120.6 15.5  - -"),
        ("SimVLM", SILENT, "110.3 14.5  - -"),
        ("LEMON", SILENT, "106.8 14.1  - -"),
        ("VinVLM", SILENT, "95.5 13.5  - -"),
    ),
)
# Appendix A.3: fine-tuned on LLaVA's instructions, which are not the benchmark's questions.
_TABLE_8 = _Table(
    8,
    "conversation",
    ("",),
    ("relative score",),
    (
        ("GLaMM (Vicuna-7B)", TUNED, "63.3"),
        ("LLaVA-1.5 (Vicuna-7B)", SILENT, "63.4"),
        ("Qwen-VL-Chat (Qwen-7B)", SILENT, "58.6"),
        ("Qwen-VL (Qwen-7B)", SILENT, "63.4"),
        ("InstructBLIP (Vicuna-7B)", SILENT, "60.9"),
        ("BLIP-2 (Vicuna-13B)", SILENT, "38.1"),
    ),
)
PAPER_ROWS = tuple(
    row for table in (_TABLE_3, _TABLE_4, _TABLE_5, _TABLE_6, _TABLE_8) for row in table.rows()
)


def rows(benchmark: str, split: str) -> list[PaperRow]:
    """The published rows of a benchmark's split, GLaMM's first; none where there are none.

    Spelling is free: `refcoco+|unc|testA` is `refcoco+/testA`, and `refcocog/val` of region
    captioning is `refcocog`.
    """
    asked = _folded(split)
    own = [row for row in PAPER_ROWS if row.benchmark == benchmark]
    return [row for row in own if asked.startswith(_folded(row.split))]


def beside_paper(benchmark: str, split: str, ours: Mapping[str, Mapping[str, float]]) -> str:
    """The paper's rows beside ours, as lines for a terminal.

    ours: name -> figure -> fraction, such as the scores of each mode. The first is compared with
        GLaMM's; it should be `compat`, which counts as the original does.
    """
    text = text_table(*paper_table(benchmark, split, ours))
    published = {key for row in rows(benchmark, split) for key in row.figures}
    if not published:
        return f"{text}\nThe paper publishes no figures of {benchmark}, {split or 'this split'}."
    for name, figures in ours.items():
        others = [f"{key} {value:.4f}" for key, value in figures.items() if key not in published]
        text += f"\n{name}, besides: {', '.join(others)}" if others else ""
    return text


def paper_table(
    benchmark: str, split: str, ours: Mapping[str, Mapping[str, float]]
) -> tuple[list[str], list[list[object]]]:
    """Header and rows: ours, then the paper's, below each of GLaMM's how far the first of ours is.

    The figures are the paper's. Where it has none, all of ours, one below the other.
    """
    title = f"{benchmark}, {split}" if split else benchmark
    published = rows(benchmark, split)
    columns = list(dict.fromkeys(key for row in published for key in row.figures))
    if not columns:
        own = dict.fromkeys(key for figures in ours.values() for key in figures)
        return [title, *(f"ours, {name}" for name in ours)], [
            [key, *(_or_none(figures.get(key)) for figures in ours.values())] for key in own
        ]
    lines: list[list[object]] = [
        [f"ours, {name}", *(_or_none(own.get(key)) for key in columns)]
        for name, own in ours.items()
    ]
    first = next(iter(ours), "")
    for row in published:
        lines.append([f"paper: {row.title}", *(row.figures.get(key) for key in columns)])
        if row.is_ours and first:
            gaps = (_gap(ours[first].get(key), row.figures.get(key)) for key in columns)
            lines.append([f"  {first} minus it", *gaps])
    return [title, *columns], lines


def _or_none(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _gap(own: float | None, published: float | None) -> str | None:
    own = _or_none(own)
    return None if own is None or published is None else f"{own - published:+.4f}"


def _folded(split: str) -> str:
    """Letters, digits and + alone, without the splits' makers whose splits the paper means.

    Google's split of refCOCOg is another one, and its name stays.
    """
    parts = re.split(r"[^a-z0-9+]+", split.lower())
    return "".join(part for part in parts if part not in ("unc", "umd"))
