"""What a training run is made of: the model, what it sees, how it learns. Frozen dataclasses.

A file in `configs/` returns an `ExperimentConfig`; `glamm_jax.overrides` changes fields by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from glamm_jax.checks import require, require_choice, require_positive
from glamm_jax.config import GLaMMConfig, LossWeights

Schedule = Literal["linear_decay", "constant"]
Untouched = Literal["skip", "zero"]
TrainedSet = Literal["released", "paper", "all_but_encoders", "everything"]
Source = Literal["miniworld"]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a clipped gradient. The defaults are the released training's (trap 29).

    trained: which parameters learn; see `glamm_jax.training.optim`.
    untouched: what becomes of a part that no example of a batch reaches. "skip" leaves it and its
        moments alone, as torch does with a parameter without gradient; "zero" counts the step as
        one with gradient zero, so momentum moves it on.
    """

    peak_lr: float = 3e-4
    schedule: Schedule = "linear_decay"
    warmup_steps: int = 100
    total_steps: int = 5000
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    trained: TrainedSet = "released"
    untouched: Untouched = "skip"

    def __post_init__(self) -> None:
        require_positive(self, "peak_lr", "total_steps", "eps", "clip_norm")
        require_choice(self, "schedule", Schedule)
        fits = 0 <= self.warmup_steps <= self.total_steps
        require(fits, self, "warmup_steps", f"must be in 0 to total_steps = {self.total_steps}")
        require(all(0 <= beta < 1 for beta in self.betas), self, "betas", "must be in [0, 1)")
        require(self.weight_decay >= 0, self, "weight_decay", "must not be negative")
        require_choice(self, "trained", TrainedSet)
        require_choice(self, "untouched", Untouched)


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from, and how many make a batch.

    tokenizer: a folder with LLaMA's `tokenizer.model`, from the working directory.
    image_size: side in pixels of a picture that is drawn.
    max_text_tokens: room for the ids of one conversation, its image counted as one.
    """

    source: Source = "miniworld"
    tokenizer: str = "tokenizer"
    seed: int = 0
    batch_size: int = 4
    image_size: int = 128
    max_text_tokens: int = 256

    def __post_init__(self) -> None:
        require_choice(self, "source", Source)
        require(bool(self.tokenizer), self, "tokenizer", "name a folder")
        require(self.seed >= 0, self, "seed", "must not be negative")
        require_positive(self, "batch_size", "image_size", "max_text_tokens")


@dataclass(frozen=True)
class ExperimentConfig:
    """One training run, whole. `seed` draws the first weights and the dropout of every step."""

    model: GLaMMConfig
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, self, "seed", "must not be negative")
        adapted = self.optim.trained in ("released", "paper")
        message = f"optim.trained = {self.optim.trained!r} trains adapters; use with_lora(model)"
        require(not adapted or self.model.lora is not None, self.model, "lora", message)
        room, patches = self.model.llama.max_positions, self.model.clip.num_patches
        message = f"with {patches} patches a row exceeds model.llama.max_positions = {room}"
        fits = self.data.max_text_tokens - 1 + patches <= room
        require(fits, self.data, "max_text_tokens", message)
