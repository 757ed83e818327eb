"""The model card of a model folder, as the Hugging Face Hub shows it."""

from __future__ import annotations

import math

from huggingface_hub import ModelCardData

import glamm_jax
from glamm_jax.config import GLaMMConfig
from glamm_jax.storage import AnyPath
from glamm_jax.weights.config_file import kind_of, read_config
from glamm_jax.weights.safetensors import read_folder

MODEL_CARD = "README.md"
_PIPELINES = {
    "glamm": "image-text-to-text",
    "clip": "image-feature-extraction",
    "llama": "text-generation",
    "sam": "mask-generation",
}
_TAGS = ["glamm", "jax", "flax"]
_TASK_TAGS = ["grounded-conversation-generation", "referring-expression-segmentation"]
_USE = """\
```python
import glamm_jax

assistant = glamm_jax.load("ORG/NAME")
answer = assistant.chat("photograph.jpg", "Where is <p> the dog </p> [SEG]?")
print(answer.text)
answer.save_overlay("answer.png")
```
"""


def model_card(folder: AnyPath, license_id: str | None = None) -> str:
    """Return the model card of a folder: its README.md, or a generated one.

    A README.md without front matter is given that of a generated card, whose text describes the
    use and the sizes of the parts.

    Args:
        folder: the model folder.
        license_id: as the Hub names licenses; None: the card names none.

    Raises:
        ConfigError: the folder's configuration is missing or invalid.
        TensorFileError: a weight file is missing or invalid.
    """
    own = folder / MODEL_CARD
    own_text = own.read_text("utf-8") if own.is_file() else ""
    if own_text.startswith("---\n"):
        return own_text
    config = read_config(folder)
    kind = kind_of(config)
    data = ModelCardData(
        library_name="glamm-jax",
        pipeline_tag=_PIPELINES[kind],
        tags=_TAGS + (_TASK_TAGS if kind == "glamm" else []),
        license=license_id,
    )
    front_matter = f"---\n{data.to_yaml()}\n---\n"
    if own_text:
        return f"{front_matter}\n{own_text}"
    parts: dict[str, list[int]] = {}
    for name, location in read_folder(folder).items():
        size = parts.setdefault(name.partition(".")[0], [0, 0])
        size[0] += math.prod(location.info.shape)
        size[1] += location.info.nbytes
    rows = [
        f"| {part} | {count:,} | {nbytes / 2**20:,.1f} |" for part, (count, nbytes) in parts.items()
    ]
    is_glamm = isinstance(config, GLaMMConfig)
    what = (
        "answers questions about images in text, with a segmentation mask for every phrase (GLaMM, "
        "*Pixel Grounding Large Multimodal Model*, CVPR 2024)"
        if is_glamm
        else f"is a {kind.upper()} model"
    )
    lines = [
        front_matter,
        f"# {folder.name}\n",
        f"This model {what}. It is stored in the format of GLaMM-JAX {glamm_jax.__version__}.\n",
        *([_USE] if is_glamm else []),
        "| part | parameters | MiB |\n|---|---:|---:|",
        *rows,
        "",
    ]
    return "\n".join(lines)
