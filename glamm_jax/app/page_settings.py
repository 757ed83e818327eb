"""What the page of the app is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from glamm_jax.app.inpainting import InpaintingPipeline
from glamm_jax.app.presets import ImageExample, scene_examples
from glamm_jax.app.server_client import ServerClient


@dataclass(frozen=True)
class PageSettings:
    """The parts of the page that the command line decides.

    Attributes:
        client: of the API server.
        folder: of files for downloads, in the temporary folder of the machine; private.
        examples: to click.
        pipeline: paints masks; None: the page says how to get one instead.
    """

    client: ServerClient
    folder: Path
    examples: list[ImageExample] = field(default_factory=scene_examples)
    pipeline: InpaintingPipeline | None = None
