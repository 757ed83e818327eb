"""The questions that are asked about the images of a folder.

    questions = folder_questions(Path("photos"), "gcg", template)
    questions = folder_questions(Path("photos"), "refer", template, expressions=("the dog",))
    questions = file_questions(Path("photos"), "region", template, Path("boxes.jsonl"))

    gcg       a description with a mask for every phrase
    refer     the mask of an expression
    region    a description of a box
    caption   a description without masks

A file of questions has a JSON object on one line for each image: {"image": "a/b.jpg",
"expressions": ["the dog"]} for the task `refer`, {"image": "a/b.jpg", "boxes": [[9, 4, 80, 60]]}
for `region`, with x0 y0 x1 y1 in pixels of the upright image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from glamm_jax.data.record import Record
from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Benchmark, Item, PromptTemplate
from glamm_jax.evaluation.benchmarks.original_annotations import ImageFiles
from glamm_jax.files import bounded_lines
from glamm_jax.grand.images import listed_images, scan_images
from glamm_jax.json_files import JSONError, JSONObject, parse_json, show

AnswerTask = Literal["gcg", "refer", "region", "caption"]
# The benchmark that has the prompts of a task.
TASKS: Mapping[AnswerTask, Benchmark] = {
    "gcg": BENCHMARKS["gcg"],
    "refer": BENCHMARKS["refseg"],
    "region": BENCHMARKS["region_caption"],
    "caption": BENCHMARKS["image_caption"],
}
SEPARATOR = "#"  # between the id of an image and the number of a question about it
_MAX_LINE = 1 << 20  # bytes
Box = tuple[float, float, float, float]


class QuestionsError(GLaMMError):
    """Questions about a folder cannot be made. The message says why."""


@dataclass(frozen=True)
class FolderQuestions:
    """Questions and the images that they are about.

    Attributes:
        folder: of the images.
        names: path of each image relative to the folder, with "/"; its id, too.
        items: the questions; `Item.record` is an index into `names`.
        prompt: the text of their template.
        subjects: id of a question -> the expression that it is about.
        refused: files that are not taken -> the reason.
    """

    folder: Path
    names: Sequence[str]
    items: Sequence[Item]
    prompt: str
    subjects: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def records(self) -> ImageFiles:
        """Return the images, by index."""
        return ImageFiles(self.folder, self.names, self.names)

    def read(self, name: str) -> Record:
        """Read an image.

        Raises:
            RecordError: the file does not exist or cannot be read.
        """
        return ImageFiles(self.folder, [name], [name])[0]


def folder_questions(
    folder: Path, task: AnswerTask, prompt: PromptTemplate, expressions: Sequence[str] = ()
) -> FolderQuestions:
    """Ask the same about every file of a folder and of the folders in it, in order of their names.

    Args:
        folder: of the images.
        task: every one but `region`, which needs boxes for each image.
        prompt: of the questions.
        expressions: of the task `refer`; every image is asked for each.

    Raises:
        QuestionsError: the task lacks expressions or boxes, or the folder has no files.
        RunFolderError: the folder cannot be read.
    """
    if task == "region":
        raise QuestionsError("the task region needs the boxes of each image: --questions FILE")
    if (task == "refer") != bool(expressions):
        raise QuestionsError(
            "the task refer needs --expression TEXT, or --questions FILE"
            if task == "refer"
            else f"--expression is for the task refer, not {task}"
        )
    refused: dict[str, str] = {}
    names = sorted(entry.file for entry in scan_images(folder, refused.__setitem__))
    if not names:
        raise QuestionsError(f"{folder}: has no files")
    subjects = tuple(expressions) or ("",)
    return _questions(folder, task, prompt, dict.fromkeys(names, subjects), refused)


def file_questions(
    folder: Path, task: AnswerTask, prompt: PromptTemplate, file: Path
) -> FolderQuestions:
    """Ask what a file of questions says.

    Args:
        folder: of the images.
        task: every one; for `gcg` and `caption` the file is a list of images.
        prompt: of the questions.
        file: lines of JSON, see the module.

    Raises:
        QuestionsError: a line is invalid, or names an image twice.
        RunFolderError: there is no such image in the folder.
    """
    subjects_of: dict[str, list[str | Box]] = {}
    try:
        with file.open("rb") as stream:
            for number, (line, _) in enumerate(bounded_lines(stream, _MAX_LINE), start=1):
                if line.strip():
                    _read_line(line, f"{file}: line {number}", task, subjects_of)
    except (OSError, JSONError) as error:
        raise QuestionsError(f"{file}: cannot be read: {error}") from error
    if not subjects_of:
        raise QuestionsError(f"{file}: has no lines")
    for _ in listed_images(folder, subjects_of):
        pass  # raises for a name that is no file of the folder
    return _questions(folder, task, prompt, subjects_of, {})


def _read_line(
    line: bytes, where: str, task: AnswerTask, subjects_of: dict[str, list[str | Box]]
) -> None:
    """Add the questions of a line about its image."""
    fields = JSONObject(parse_json(line, where), where)
    name = fields.text("image")
    key = {"refer": "expressions", "region": "boxes"}.get(task)
    if unknown := sorted({*fields} - {"image", key}):
        raise QuestionsError(f"{where}: {', '.join(unknown)}: unknown for the task {task}")
    if name in subjects_of:
        raise QuestionsError(f"{where}: {name} has a line already")
    if key is None:
        subjects_of[name] = [""]
        return
    values = fields.array(key)
    if not values:
        raise QuestionsError(f"{where}: {key} is empty")
    subjects_of[name] = [
        _value(value, task, f"{where}: {key}[{i}]") for i, value in enumerate(values)
    ]


def _value(value: object, task: AnswerTask, where: str) -> str | Box:
    if task == "refer":
        if isinstance(value, str) and value.strip():
            return value
        raise QuestionsError(f"{where}: {show(value)} is not an expression")
    if isinstance(value, list) and len(value) == 4:
        numbers = [x for x in value if isinstance(x, int | float) and not isinstance(x, bool)]
        if len(numbers) == 4:
            x0, y0, x1, y1 = map(float, numbers)
            return x0, y0, x1, y1
    raise QuestionsError(f"{where}: {show(value)} is not a box; write [x0, y0, x1, y1]")


def _questions(
    folder: Path,
    task: AnswerTask,
    prompt: PromptTemplate,
    subjects_of: Mapping[str, Iterable[str | Box]],
    refused: Mapping[str, str],
) -> FolderQuestions:
    items: list[Item] = []
    subjects: dict[str, str] = {}
    for index, (name, values) in enumerate(subjects_of.items()):
        for number, value in enumerate(values):
            item_id = f"{name}{SEPARATOR}{number}"
            if isinstance(value, str):
                text, regions = prompt.format(value), ()
                if value:
                    subjects[item_id] = value
            else:
                text, regions = prompt.format(num_regions=1), (value,)
            items.append(Item(item_id, name, index, text, regions=regions))
    return FolderQuestions(folder, [*subjects_of], items, prompt.text, subjects, refused)
