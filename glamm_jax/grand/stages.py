"""Stages of the annotation, their graph, and the fingerprints that decide what is computed again.

    tags = Stage(name="tags", inputs=("image",), settings={"threshold": 0.65}, process=find_tags)
    count = Stage(name="count", inputs=("tags",), process=count_tags)
    graph = StageGraph([image_stage(), tags, count])
    graph.fingerprints["count"]       # changes with the settings of all three

A stage makes one *section*, a JSON object, of each image, or a `StageError`. It reads the sections
of its inputs and never changes them. The result for an image must depend on nothing but these, the
pixels, the settings, the roles and the seed: not on the batch, nor on what was processed before.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.roles import Pixels, RoleError, RoleImage, RolePlayer

FORMAT = 1  # of chunk files; part of every fingerprint
MAX_MESSAGE = 500  # characters
REJECTED, SKIPPED, UNREAD = "rejected", "skipped", "unread"
# Addresses of objects differ between processes; results may not.
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
Section = dict[str, Any]
Parsed = TypeVar("Parsed")


class GraphError(GLaMMError):
    """Stages that do not form a graph. Names the stage and says why."""


class UnreadError(GLaMMError):
    """An image file cannot be read now, whatever is in it. Names it and says why."""


@dataclass(frozen=True, slots=True)
class StageError:
    """Why an image has no section of a stage.

    Attributes:
        kind: "input", "output", "memory" or "model", as of `RoleError`; "rejected": the image
            cannot be used at all; "skipped": a stage that this one needs has an error; "unread":
            the image file could not be read, and the next run tries it again.
        message: in one line.
        stage: of "rejected" and "skipped": the stage where the error occurred; else None.
    """

    kind: str
    message: str
    stage: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return the fields that are not None."""
        fields = {"kind": self.kind, "message": self.message}
        return fields if self.stage is None else fields | {"stage": self.stage}


def one_line(text: object) -> str:
    """Return a message in one line of bounded length, without the addresses of objects."""
    line = _ADDRESS.sub("0x...", " ".join(str(text).split()))
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 3] + "..."


def stage_seed(image_id: str, stage: str, attempt: int) -> int:
    """Return the seed of an image in a stage, in [0, 2^31), which every framework accepts.

    Args:
        image_id: of the run.
        stage: name of the stage.
        attempt: 0, or 1 if it is processed again because of an error.
    """
    text = f"{image_id}\0{stage}\0{attempt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1


class StageImage:
    """An image as a stage gets it.

    Attributes:
        image_id: of the run.
        file: path of the image file, relative to the folder of the photographs.
        stage: name of the stage that processes it.
        sections: those of the inputs by name; None where an optional input has an error. They are
            shared with other stages: read only.
        attempt: 0, or 1 if it is processed again because of an error.
    """

    __slots__ = ("_content", "attempt", "file", "image_id", "sections", "stage")

    def __init__(
        self,
        content: ImageContent,
        stage: str,
        sections: Mapping[str, Section | None],
        attempt: int = 0,
    ):
        """Combine what all stages share of an image with what one stage gets.

        Args:
            content: the file and its pixels.
            stage: name of the stage.
            sections: of its inputs.
            attempt: number of the attempt.
        """
        self.image_id, self.file = content.image_id, content.file
        self.stage, self.sections, self.attempt = stage, sections, attempt
        self._content = content

    @property
    def seed(self) -> int:
        """The seed of this image, stage and attempt."""
        return stage_seed(self.image_id, self.stage, self.attempt)

    def read_bytes(self) -> bytes:
        """Return the content of the image file.

        Raises:
            GLaMMError: it cannot be read.
        """
        return self._content.reader.read_bytes(self.file)

    def pixels(self, data: bytes | None = None) -> Pixels:
        """Return the upright pixels; stages that one worker runs share them: read only.

        Args:
            data: content of the file, if it was read already.

        Raises:
            GLaMMError: the file is not an image that can be used.
        """
        return self._content.reader.pixels(self.file, data)

    def role_image(self) -> RoleImage:
        """Return the image as roles get it."""
        return RoleImage(self.image_id, self.pixels(), self.seed)

    def parse(self, name: str, parser: Callable[[Section], Parsed]) -> Parsed | None:
        """Return the section of an input, parsed; stages that one worker runs share the result.

        Args:
            name: of the input.
            parser: a function without side effects.

        Returns:
            None if an optional input has an error.
        """
        parsed = self._content.parsed.setdefault(name, {})
        if parser not in parsed:
            section = self.sections[name]
            if section is None:
                return None
            parsed[parser] = parser(section)
        return parsed[parser]

    def hand_over(self, result: ParsedSection) -> None:
        """Keep the parsed form of the section that this stage made."""
        self._content.parsed[self.stage] = {result.parser: result.value}

    def next_attempt(self) -> StageImage:
        """Return the image for another attempt, with another seed."""
        return StageImage(self._content, self.stage, self.sections, self.attempt + 1)


@runtime_checkable  # by the tests
class Reader(Protocol):
    """Reads image files; `glamm_jax.grand.images.ImageReader`."""

    def read_bytes(self, file: str) -> bytes: ...

    def pixels(self, file: str, data: bytes | None = None) -> Pixels: ...


class ImageContent:
    """What all stages share of an image.

    Attributes:
        image_id: of the run.
        file: path relative to the folder of the photographs.
        reader: of the file.
        parsed: results of `StageImage.parse`, by stage and parser.
    """

    __slots__ = ("file", "image_id", "parsed", "reader")

    def __init__(self, image_id: str, file: str, reader: Reader):
        """Name an image without opening it.

        Args:
            image_id: of the run.
            file: path relative to the folder of the photographs.
            reader: of the file.
        """
        self.image_id, self.file, self.reader = image_id, file, reader
        self.parsed: dict[str, dict[Any, Any]] = {}


@dataclass(frozen=True, slots=True)
class ParsedSection:
    """A section with its parsed form, so that the following stages need not parse it.

    Attributes:
        section: as JSON; or a function that returns its text, where that is faster.
        parser: the function that `StageImage.parse` of other stages is called with.
        value: equal to `parser(section)`, also after `section` was written and read.
    """

    section: Section | Callable[[], str]
    parser: Callable[[Section], Any]
    value: Any


StageResult = Section | ParsedSection | StageError | RoleError
Process = Callable[[Sequence[StageImage]], Sequence[StageResult]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the annotation.

    Attributes:
        name: unique in a graph; may have any characters, e.g. "detections/eva-02-01".
        process: takes a batch, returns a section (or `ParsedSection`) or an error for each image,
            in order. It must be picklable: a function of a module, a `functools.partial` or an
            instance.
        inputs: names of the stages whose sections it needs; an image with an error in one of them
            is skipped.
        optional_inputs: stages whose sections it uses where they exist. An image that was
            rejected is skipped in any case.
        settings: options and prompts, all that changes results: JSON or dataclasses.
        roles: the models that `process` calls; the worker calls their `setup`.
        version: of the code; to be raised when its results change.
        batch_size: number of images per call, unless a role states its own; results do not depend
            on it.
    """

    name: str
    process: Process
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    settings: Any = None
    roles: tuple[RolePlayer, ...] = ()
    version: int = 1
    batch_size: int = 32

    @property
    def all_inputs(self) -> tuple[str, ...]:
        return self.inputs + self.optional_inputs

    @property
    def images_per_call(self) -> int:
        """The smallest `batch_size` of its roles that have one, otherwise its own."""
        sizes = [role.batch_size for role in self.roles if hasattr(role, "batch_size")]
        return min(sizes, default=self.batch_size)

    @property
    def needs_device(self) -> bool:
        """Whether one of its roles needs an accelerator."""
        return any(role.needs_device for role in self.roles)

    @property
    def role_key(self) -> tuple[tuple[str, str], ...]:
        """Name and fingerprint of its roles."""
        return tuple((role.name, role.fingerprint) for role in self.roles)

    def settings_json(self) -> Any:
        """Return the settings as JSON.

        Raises:
            GraphError: they have a value that JSON does not have.
        """
        try:
            text = json.dumps(self.settings, allow_nan=False, sort_keys=True, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            raise GraphError(
                f"stage {self.name!r}: the settings are not JSON: {one_line(error)}"
            ) from error
        return json.loads(text)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


@dataclass(frozen=True)
class StageGroup:
    """Consecutive stages that the same workers run.

    Attributes:
        names: of the stages, in order.
        needs_device: whether a worker needs an accelerator.
        roles: names and fingerprints of the models; empty: the stages run on the CPU.
    """

    names: tuple[str, ...]
    needs_device: bool
    roles: tuple[tuple[str, str], ...] = ()


class StageGraph:
    """Stages in an order in which they can run, with their fingerprints.

    Attributes:
        stages: by name, in the order of execution: after their inputs; stages that use the same
            device roles are consecutive where the inputs permit it.
        fingerprints: by name; sha256 of all that the sections depend on, but for the images.
    """

    def __init__(self, stages: Iterable[Stage]):
        """Validate the stages and put them in order.

        Raises:
            GraphError: a name is empty or occurs twice, an input is unknown, occurs twice, or
                depends on the stage itself, a batch is empty, or the settings are not JSON.
        """
        declared: dict[str, Stage] = {}
        for stage in stages:
            if stage.name in declared:
                raise GraphError(f"stage {stage.name!r}: there are two of this name")
            declared[stage.name] = stage
        for stage in declared.values():
            _check_stage(stage, declared)
        self.stages: dict[str, Stage] = _in_order(declared)
        self.fingerprints: dict[str, str] = {}
        for stage in self.stages.values():
            self.fingerprints[stage.name] = self._fingerprint(stage)

    def _fingerprint(self, stage: Stage) -> str:
        return digest(
            {
                "format": FORMAT,
                "name": stage.name,
                "version": stage.version,
                "settings": stage.settings_json(),
                "roles": stage.role_key,
                "inputs": {name: self.fingerprints[name] for name in stage.inputs},
                "optional_inputs": {
                    name: self.fingerprints[name] for name in stage.optional_inputs
                },
            }
        )

    @cached_property
    def groups(self) -> tuple[StageGroup, ...]:
        """The stages in groups: all stages on the CPU between two groups; one set of device roles.

        So a worker that has an accelerator loads no model that its stages do not need.
        """
        groups: list[StageGroup] = []
        for stage in self.stages.values():
            key = _device_key(stage)
            if groups and groups[-1].roles == key:
                groups[-1] = StageGroup((*groups[-1].names, stage.name), bool(key), key)
            else:
                groups.append(StageGroup((stage.name,), bool(key), key))
        return tuple(groups)

    def with_inputs_of(self, *names: str) -> StageGraph:
        """Return the graph of some stages and all that they depend on.

        Raises:
            GraphError: there is no stage of a name.
        """
        needed: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in self.stages:
                raise GraphError(f"no stage {name!r}; there are: {', '.join(self.stages)}")
            if name not in needed:
                needed.add(name)
                todo.extend(self.stages[name].all_inputs)
        return StageGraph(stage for name, stage in self.stages.items() if name in needed)

    def describe(self) -> list[dict[str, Any]]:
        """Return the stages as JSON, for the run folder."""
        return [
            {
                "name": stage.name,
                "fingerprint": self.fingerprints[stage.name],
                "version": stage.version,
                "inputs": list(stage.inputs),
                "optional_inputs": list(stage.optional_inputs),
                "roles": [{"name": name, "fingerprint": text} for name, text in stage.role_key],
                "settings": stage.settings_json(),
            }
            for stage in self.stages.values()
        ]


def digest(value: Any) -> str:
    """Return the sha256 of JSON, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_stage(stage: Stage, declared: Mapping[str, Stage]) -> None:
    if not stage.name.strip():
        raise GraphError("a stage has no name")
    if stage.batch_size < 1:
        raise GraphError(f"stage {stage.name!r}: batch_size {stage.batch_size} is below 1")
    for name in stage.all_inputs:
        if name not in declared:
            raise GraphError(
                f"stage {stage.name!r}: its input {name!r} is no stage; there are: "
                + ", ".join(declared)
            )
        if stage.all_inputs.count(name) > 1:
            raise GraphError(f"stage {stage.name!r}: its input {name!r} occurs twice")


def _device_key(stage: Stage) -> tuple[tuple[str, str], ...]:
    return stage.role_key if stage.needs_device else ()


def _in_order(declared: Mapping[str, Stage]) -> dict[str, Stage]:
    """Sort topologically; among the possible stages those of the last stage's worker come first."""
    ordered: dict[str, Stage] = {}
    waiting = dict(declared)
    last: tuple[tuple[str, str], ...] = ()
    while waiting:
        ready = [
            stage for stage in waiting.values() if not any(x in waiting for x in stage.all_inputs)
        ]
        if not ready:
            raise GraphError(f"the inputs of these stages form a cycle: {_cycle(waiting)}")
        # Stages on the CPU before other models: they finish what one worker has begun.
        stage = min(ready, key=lambda item: (_device_key(item) != last, item.needs_device))
        last = _device_key(stage)
        ordered[stage.name] = waiting.pop(stage.name)
    return ordered


def _cycle(waiting: Mapping[str, Stage]) -> str:
    trail = [next(iter(waiting))]
    while trail.count(trail[-1]) < 2:
        trail.append(next(name for name in waiting[trail[-1]].all_inputs if name in waiting))
    return " <- ".join(trail[trail.index(trail[-1]) :])
