"""Which annotations training uses: one function for readers of datasets and for the sampler.

A reader reports an annotation that training would drop as a defect, so a dataset that is converted
without defects loses none of its texts to these rules.
"""

from __future__ import annotations

from glamm_jax.data.record import Annotation
from glamm_jax.text.special_tokens import find_reserved_token

# The event of an annotation or a conversation that is dropped.
RESERVED_TOKEN = "dropped: its text contains a reserved token"


def annotation_problem(annotation: Annotation) -> str | None:
    """Return why training drops an annotation; None if it uses it.

    Expressions and class names are lower-cased in training, so `<IMAGE>` is reserved in them, too.
    """
    if annotation.task == "vqa":
        texts = {f"turn {i}": turn for i, turn in enumerate(annotation.turns)}
    elif annotation.task in ("referring", "semantic"):
        texts = {"the text": f"{annotation.text}\n{annotation.text.lower()}"}
    else:
        texts = {"the text": annotation.text}
    for name, text in texts.items():
        token = find_reserved_token(text)
        if token is not None:
            return f"{name} contains {token}, a token of the model; remove or rename it"
    return None
