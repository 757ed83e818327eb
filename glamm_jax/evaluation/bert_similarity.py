"""Similarity of phrases: the cosine between the means of a BERT's last hidden states.

    similarity = BertSimilarity("bert-base-uncased")      # a hub id, or a folder
    similarity.embed_all(["a red car", "the car"])        # optional: in large batches
    table = similarity(["a red car"], ["the car", "a dog"])      # float[1, 2]

transformers runs the model. It is the only part of the evaluation that needs torch.

Source: eval/gcg/evaluate.py, get_bert_embedding.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from glamm_jax.errors import GLaMMError

BERT = "bert-base-uncased"  # the original's
MAX_TOKENS = 512
HASHED = ("*.safetensors", "*.bin", "config.json", "vocab.txt", "tokenizer*")
# A head that no hidden state depends on; some folders lack it.
UNUSED_PREFIX = "pooler."


class EncoderError(GLaMMError):
    """An encoder that does not exist or cannot be run."""


class BertSimilarity:
    """A `Similarity` that embeds every text once, in batches.

    The mean of the hidden states is over all tokens of a text, [CLS] and [SEP] included, padding
    excluded.

    Args:
        path: hub id or folder of the encoder.
        batch_size: of texts.

    Attributes:
        name: path of the encoder, and the hash of its files or its commit.

    Raises:
        EncoderError: torch, the encoder, or a part of its weights is missing.
    """

    def __init__(self, path: str | Path = BERT, batch_size: int = 64):
        self._tokenizer, self._model, version = _load(str(path))
        self._batch_size = batch_size
        self._vectors: dict[str, np.ndarray] = {}
        self.name = f"{path} ({version})"

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Return cosines, in -1 to 1."""
        self.embed_all((*some, *others))
        return self._stacked(some) @ self._stacked(others).T

    def embed_all(self, texts: Iterable[str]) -> None:
        """Embed all new texts; sorted by length, so that batches need little padding."""
        new = sorted({text for text in texts if text not in self._vectors}, key=len)
        for start in range(0, len(new), self._batch_size):
            batch = new[start : start + self._batch_size]
            self._vectors.update(zip(batch, self._embed(batch), strict=True))

    def _stacked(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        width = self._model.config.hidden_size
        return np.array([self._vectors[text] for text in texts], np.float32).reshape(-1, width)

    def _embed(self, texts: list[str]) -> Float[np.ndarray, "n d"]:
        """Return the normalized means of the last hidden states."""
        inputs = self._tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS
        )
        hidden = self._model(**inputs).last_hidden_state.numpy()
        is_token = inputs["attention_mask"].numpy()[..., None]
        mean = (hidden * is_token).sum(1) / is_token.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _load(path: str) -> tuple[Any, Any, str]:
    """Load tokenizer and model, and return them with the version of their files."""
    if importlib.util.find_spec("torch") is None:
        raise EncoderError(
            f"{path}: a BERT needs torch: pip install 'glamm-jax[eval]', or use --similarity "
            "words, which needs no model"
        )
    from transformers import AutoModel, AutoTokenizer  # slow to import, and torch with it

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model, loading = AutoModel.from_pretrained(path, output_loading_info=True)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EncoderError(
            f"{path}: not an encoder: {reason} Without network access use a folder with "
            "config.json, model.safetensors and vocab.txt"
        ) from error
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith(UNUSED_PREFIX))
    if missing:
        raise EncoderError(
            f"{path}: {len(missing)} tensors are missing, such as {missing[0]}; they would be "
            "random"
        )
    model.requires_grad_(False)
    return tokenizer, model.eval(), _version(path, model)


def _version(path: str, model: Any) -> str:
    """Return the commit of a hub's model, or the hash of a folder's files."""
    if not Path(path).is_dir():
        return f"commit {model.config._commit_hash}"
    digest = hashlib.sha256()
    for file in sorted({file for pattern in HASHED for file in Path(path).glob(pattern)}):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"sha256 {digest.hexdigest()[:12]}"
