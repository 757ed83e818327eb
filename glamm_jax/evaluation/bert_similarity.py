"""How alike two phrases are to a BERT: the cosine between the means of its last hidden states.

    similarity = BertSimilarity("bert-base-uncased")       a hub id, or a folder
    similarity.warm(every_phrase)                          in large batches; the rest asks by itself
    similarity(["a red car"], ["the car", "a dog"])        float[1, 2]

transformers runs the model; its torch is the only one that evaluation needs.
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
# A head on top of the encoder; no hidden state depends on it, and some folders lack it.
UNUSED = "pooler."


class EncoderError(GLaMMError):
    """There is no such encoder, or nothing to run it. Says what to do."""


class BertSimilarity:
    """Texts are embedded once each, in batches, and compared by cosine.

    The mean is over all tokens of a text, [CLS] and [SEP] among them, and none of the filler of a
    batch. name: which encoder judged: its path or id, and the hash of its files.

    Raises: EncoderError at once where torch, the folder or part of the weights is missing.
    """

    def __init__(self, path: str | Path = BERT, batch_size: int = 64):
        self._tokenizer, self._model, version = _load(str(path))
        self._batch_size = batch_size
        self._vectors: dict[str, np.ndarray] = {}
        self.name = f"{path} ({version})"

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Cosines, in -1 to 1."""
        self.warm((*some, *others))
        return self._stacked(some) @ self._stacked(others).T

    def warm(self, texts: Iterable[str]) -> None:
        """Embed all that are new; texts of a length go together, for there is less filler."""
        new = sorted({text for text in texts if text not in self._vectors}, key=len)
        for start in range(0, len(new), self._batch_size):
            batch = new[start : start + self._batch_size]
            self._vectors.update(zip(batch, self._embedded(batch), strict=True))

    def _stacked(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        width = self._model.config.hidden_size
        return np.array([self._vectors[text] for text in texts], np.float32).reshape(-1, width)

    def _embedded(self, texts: list[str]) -> Float[np.ndarray, "n d"]:
        """Means of the last hidden states, of length 1."""
        inputs = self._tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS
        )
        hidden = self._model(**inputs).last_hidden_state.numpy()
        kept = inputs["attention_mask"].numpy()[..., None]
        mean = (hidden * kept).sum(1) / kept.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _load(path: str) -> tuple[Any, Any, str]:
    """Tokenizer, model, and what its files are known by."""
    if importlib.util.find_spec("torch") is None:
        raise EncoderError(
            f"{path}: a BERT needs torch: pip install 'glamm-jax[eval]', or choose the similarity "
            "of words, which needs no model"
        )
    from transformers import AutoModel, AutoTokenizer  # slow to import, and torch with it

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model, loading = AutoModel.from_pretrained(path, output_loading_info=True)
    except (OSError, ValueError, ImportError) as error:
        why = str(error).strip().partition("\n")[0]
        raise EncoderError(
            f"{path}: no encoder there: {why} Without a network give a folder that holds its "
            "config.json, model.safetensors and vocab.txt"
        ) from error
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        raise EncoderError(
            f"{path}: {len(missing)} tensors are missing, {missing[0]} among them; such an encoder "
            "would be random"
        )
    model.requires_grad_(False)
    return tokenizer, model.eval(), _version(path, model)


def _version(path: str, model: Any) -> str:
    """The commit of a hub's model; the hash of a folder's files."""
    if not Path(path).is_dir():
        return f"commit {model.config._commit_hash}"
    told = hashlib.sha256()
    for file in sorted({file for pattern in HASHED for file in Path(path).glob(pattern)}):
        with file.open("rb") as stream:
            told.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"sha256 {told.hexdigest()[:12]}"
