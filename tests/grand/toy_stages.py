"""Four cheap stages over small images, with models that fail on the images whose names say so."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.grand.images import image_stage, scan_images
from glamm_jax.grand.roles import RoleError, RoleImage
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import Section, Stage, StageError, StageGraph, StageImage

STAGES = ("image", "mean/colour", "size", "sum")
FAILING = (
    "huge.png",
    "large 1.png",
    "large 2.png",
    "nan.png",
    "raises a.png",
    "second.png",
    "short.png",
    "sub/unlucky.png",
    "text.png",
    "ünï cödé.png",
)


@dataclass
class MeanColour:
    """A model: the mean colour of an image, plus its seed."""

    name: str = "mean"
    fingerprint: str = "mean-1"
    needs_device: bool = False
    log: str | None = None
    checkpoint: str | None = None
    is_set_up: bool = field(default=False, init=False)

    def setup(self) -> None:
        if self.checkpoint is not None:
            raise OSError(f"no such checkpoint: {self.checkpoint}")
        self.is_set_up = True

    def __call__(self, images: Sequence[RoleImage]) -> Any:
        assert self.is_set_up
        ids = [image.image_id for image in images]
        if any("raises" in image_id for image_id in ids):
            raise RuntimeError(f"cannot process a batch: {object()}")
        if len(ids) > 2 and any("large" in image_id for image_id in ids):
            raise RuntimeError("RESOURCE_EXHAUSTED: 1 GiB")
        if any("huge" in image_id for image_id in ids):
            raise MemoryError
        if any("killer" in image_id for image_id in ids):
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does for lack of memory
        results: list[Any] = [self._mean(image) for image in images]
        return results[:-1] if any("short" in image_id for image_id in ids) else results

    def _mean(self, image: RoleImage) -> Any:
        if "unlucky" in image.image_id:
            return RoleError("model", "no mean")
        if "second" in image.image_id and image.seed != second_seed(image.image_id):
            return RoleError("model", "not at the first attempt")
        if "text" in image.image_id:
            return "not a section"
        if "nan" in image.image_id:
            return {"mean": float("nan")}
        mean = image.pixels.mean(axis=(0, 1))
        return {"mean": [round(float(value), 3) for value in mean], "seed": image.seed}


def second_seed(image_id: str) -> int:
    from glamm_jax.grand.stages import stage_seed

    return stage_seed(image_id, "mean/colour", 1)


def _note(log: str | None, stage: str, images: Sequence[StageImage]) -> None:
    if log:
        with open(log, "a") as file:  # appending one line is atomic
            file.write("".join(f"{stage}\t{image.image_id}\t{image.attempt}\n" for image in images))
        time.sleep(
            float(os.environ.get("TOY_SECONDS", "0"))
        )  # after it: a call that is killed counts


def size_of(log: str | None, factor: int, images: Sequence[StageImage]) -> list[Section]:
    _note(log, "size", images)
    sizes = [image.sections["image"] or {} for image in images]
    return [{"pixels": factor * size["height"] * size["width"], "é": (1, 2)} for size in sizes]


def mean_of(role: MeanColour, images: Sequence[StageImage]) -> Any:
    _note(role.log, "mean/colour", images)
    return role([image.role_image() for image in images])


def sum_of(log: str | None, images: Sequence[StageImage]) -> list[Section | StageError]:
    _note(log, "sum", images)
    results: list[Section | StageError] = []
    for image in images:
        pixels = image.parse("size", _pixels)
        mean = image.sections["mean/colour"]
        if mean is None and "lonely" in image.image_id:
            raise AssertionError("the image has no colour")
        results.append({"sum": pixels, "mean": mean and mean["mean"], "seed": image.seed})
    return results


def _pixels(section: Section) -> int:
    return section["pixels"]


def toy_graph(
    log: str | None = None,
    *,
    factor: int = 1,
    fingerprint: str = "mean-1",
    device: bool = False,
    checkpoint: str | None = None,
) -> StageGraph:
    """Return the graph of the toy stages; calls are noted in a file."""
    role = MeanColour(fingerprint=fingerprint, needs_device=device, log=log, checkpoint=checkpoint)
    return StageGraph(
        [
            Stage(
                name="sum",
                inputs=("size",),
                optional_inputs=("mean/colour",),
                process=partial(sum_of, log),
            ),
            image_stage(),
            Stage(
                name="size",
                inputs=("image",),
                settings={"factor": factor},
                process=partial(size_of, log, factor),
            ),
            Stage(
                name="mean/colour",
                inputs=("image",),
                roles=(role,),
                process=partial(mean_of, role),
                batch_size=5,
            ),
        ]
    )


def write_photographs(folder: Path, number: int, names: Sequence[str] = ()) -> Path:
    """Write small random images: 000.png, ... and some of given names."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate([*(f"{index:03}.png" for index in range(number)), *names]):
        random = np.random.default_rng(index)
        pixels = random.integers(0, 256, (16 + index % 5, 24, 3), np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
    return folder


def make_run(tmp_path: Path, number: int = 20, **arguments: Any) -> AnnotationRun:
    photographs = tmp_path / "photos"
    if not photographs.exists():
        write_photographs(photographs, number, arguments.pop("names", ()))
        (photographs / "notes.txt").write_text("not an image")
    path = tmp_path / arguments.pop("name", "run")
    return AnnotationRun.create(path, scan_images(photographs), photographs, **arguments)


def sections(run: AnnotationRun, graph: StageGraph | None = None) -> dict[str, str]:
    """The lines of every stage in the order of the images."""
    texts = {}
    for name, fingerprint in (graph or toy_graph()).fingerprints.items():
        paths = sorted(Path(run.stage_folder(name, fingerprint)).glob("chunk-*"))
        texts[name] = "".join(path.read_text() for path in paths)
    return texts


def calls(log: Path) -> list[tuple[str, str, int]]:
    """Return stage, image and attempt of every call that was noted."""
    if not log.exists():
        return []
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    return [(stage, image_id, int(attempt)) for stage, image_id, attempt in lines]


def main(arguments: Sequence[str]) -> None:
    """Run the toy graph as a program: PHOTOS RUN CHUNK_SIZE PROCESSES LOG [ENGINE]."""
    from glamm_jax.grand.drivers.local import run_local

    photographs, folder, chunk_size, processes, log, *engine = arguments
    run = AnnotationRun.create(folder, scan_images(photographs), photographs, int(chunk_size))
    graph = toy_graph(log)
    if engine == ["beam"]:
        from glamm_jax.grand.drivers.beam import run_beam

        result = run_beam(run, graph, processes=int(processes))
    elif engine == ["ray"]:
        from glamm_jax.grand.drivers.ray import run_ray

        result = run_ray(run, graph, processes=int(processes))
    else:
        result = run_local(run, graph, processes=int(processes))
    print(result.computed_chunks, result.complete)


if __name__ == "__main__":
    main(sys.argv[1:])
