"""What a training run is made of: the model, what it sees, how it learns. Frozen dataclasses.

A file in `configs/` returns an `ExperimentConfig`; `glamm_jax.config.overrides` changes fields by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.config.checks import require, require_choice, require_positive
from glamm_jax.types import Capacity

Schedule = Literal["linear_decay", "constant"]
Untouched = Literal["skip", "zero"]
TrainedSet = Literal["released", "paper", "all_but_encoders", "everything"]
AskedTask = Literal["gcg", "referring", "semantic", "grounding", "region", "caption", "vqa"]
MASKED_TASKS = ("gcg", "referring", "semantic", "grounding")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a clipped gradient. The defaults are the released training's (trap 29).

    muon_lr: peak rate of Muon, which then moves the matrices of transformer blocks instead of
        Adam; None: Adam moves everything.
    trained: which parameters learn; see `glamm_jax.training.optimizer`.
    untouched: what becomes of a part that no example of a batch reaches. "skip" leaves it and its
        moments alone, as torch does with a parameter without gradient; "zero" counts the step as
        one with gradient zero, so momentum moves it on.
    accumulate: batches of the loader that make up one step, whose gradient is that of one batch of
        them all (the released training's 10 of 2, on each of 8 GPUs, are its 160).
    max_skipped: steps in a row with a loss or gradient that is not finite before the run gives up.
    """

    peak_lr: float = 3e-4
    muon_lr: float | None = None
    schedule: Schedule = "linear_decay"
    warmup_steps: int = 100
    total_steps: int = 5000
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    trained: TrainedSet = "released"
    untouched: Untouched = "skip"
    accumulate: int = 1
    max_skipped: int = 10

    def __post_init__(self) -> None:
        require_positive(self, "peak_lr", "total_steps", "eps", "clip_norm")
        require_positive(self, "accumulate", "max_skipped")
        require_choice(self, "schedule", Schedule)
        fits = 0 <= self.warmup_steps <= self.total_steps
        require(fits, self, "warmup_steps", f"must be in 0 to total_steps = {self.total_steps}")
        require(all(0 <= beta < 1 for beta in self.betas), self, "betas", "must be in [0, 1)")
        require(self.weight_decay >= 0, self, "weight_decay", "must not be negative")
        if self.muon_lr is not None:
            require_positive(self, "muon_lr")
        require_choice(self, "trained", TrainedSet)
        require_choice(self, "untouched", Untouched)


@dataclass(frozen=True)
class Asking:
    """How a conversation is made of what a record says. The defaults are the released training's.

    max_turns: classes or expressions that one conversation asks for (trap 41).
    max_regions: regions that one conversation asks about (trap 42).
    shuffled: draw what is asked for, and in which order; False takes the first, as they come.
    overlaps_count: pixels that two polygons of one thing cover are 2 in its mask (trap 22).
    bare_image: the image stands in front of the question without a sentence about it, as the
        released weights have seen LLaVA-Instruct and the regions of refCOCO and refCOCO+.
    questions, group_questions, answers: instead of the lists in `glamm_jax.text.questions`;
        `{name}` and `{regions}` are filled in. Answers are those of segmentation.
    """

    max_turns: int = 3
    max_regions: int = 10
    shuffled: bool = True
    overlaps_count: bool = True
    bare_image: bool = False
    questions: tuple[str, ...] = ()
    group_questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_positive(self, "max_turns", "max_regions")


@dataclass(frozen=True)
class Part:
    """One share of the mixture: a dataset, and what it is asked for.

    dataset: a folder of shards (`python -m convert dataset`), or `miniworld/NAME`, a world that is
        drawn on the fly.
    tasks: several are several conversations about one picture.
    weight: how many records are drawn from it, relative to the other parts.
    """

    dataset: str
    tasks: tuple[AskedTask, ...]
    weight: float = 1.0
    split: str = "train"
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        require(bool(self.dataset), self, "dataset", "name a folder, or miniworld/NAME")
        known = bool(self.tasks) and set(self.tasks) <= set(get_args(AskedTask))
        require(known, self, "tasks", f"choose some of {get_args(AskedTask)}")
        require_positive(self, "weight")

    @property
    def needs(self) -> tuple[str, ...]:
        """Parts of a batch, beside rows and images, that it fills."""
        regions = ("region_images", "regions") if "region" in self.tasks else ()
        masked = not set(self.tasks).isdisjoint(MASKED_TASKS)
        return (*regions, *(("grounding_images", "masks") if masked else ()))


FOUR_PICTURES = Capacity(
    rows=4,
    tokens=1024,
    targets=256,
    images=4,
    grounding_images=4,
    masks=32,
    mask_height=128,
    mask_width=128,
)


@dataclass(frozen=True)
class DataConfig:
    """What examples are made of, and what shapes a batch has.

    tokenizer: a folder with LLaMA's `tokenizer.model`, from the working directory.
    image_size: side in pixels of a picture that is drawn.
    quotas: the shapes of one shard's batch. Tokens are those of a row, an image's patches included;
        `grounding_images` are slots of SAM, `region_images` of the region encoder: they may be
        fewer than `images`, and then only so many examples of a batch have masks, or regions.
    share_prefix: conversations about one picture go into one row, behind its image (exact).
    fill_rows: a row takes further pictures while they fit (exact).
    max_deferred: examples that may wait for a batch with room for them before one is closed.
    shards: batches that make up the batch of a step, one after another. Fixed for a run; divided
        among the processes, however many there are.
    workers: processes that read and prepare, for each shard; 0 prepares in threads.
    prefetch: batches that are made ahead.
    """

    mixture: tuple[Part, ...] = (
        Part("miniworld/easy", ("gcg",)),
        Part("miniworld/easy", ("referring",)),
    )
    tokenizer: str = "tokenizer"
    seed: int = 0
    image_size: int = 128
    quotas: Capacity = field(default_factory=lambda: FOUR_PICTURES)
    share_prefix: bool = False
    fill_rows: bool = False
    max_deferred: int = 16
    shards: int = 1
    workers: int = 0
    prefetch: int = 1

    def __post_init__(self) -> None:
        require(bool(self.mixture), self, "mixture", "name at least one part")
        require(bool(self.tokenizer), self, "tokenizer", "name a folder")
        require(self.seed >= 0, self, "seed", "must not be negative")
        require_positive(self, "image_size", "max_deferred", "shards", "prefetch")
        require_positive(self.quotas, "rows", "tokens", "targets", "images")
        for part in self.mixture:
            for name in part.needs:
                message = f"tasks {part.tasks} of the mixture need some"
                require(getattr(self.quotas, name) > 0, self.quotas, name, message)
        require(self.workers >= 0, self, "workers", "must not be negative")


@dataclass(frozen=True)
class StartConfig:
    """What a run begins with. With nothing named, every weight is drawn from the seed.

    model: a model folder, as `convert from-torch` or `train.export` write it. Adapters that it
        lacks are drawn: they begin as no change at all.
    run: instead of it, a run's folder: what its latest checkpoint holds, on what it began with.
    region_encoder: a model folder whose region encoder replaces the model's, as the released
        training takes it from GPT4RoI.
    """

    model: str = ""
    run: str = ""
    region_encoder: str = ""

    def __post_init__(self) -> None:
        require(not (self.model and self.run), self, "run", "name a model or a run, not both")


@dataclass(frozen=True)
class MeshConfig:
    """How many devices share the batch (data), the batch and the weights (fsdp), and each layer's
    width (tensor). 0 devices for data: as many as are left over.
    """

    data: int = 0
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        require(self.data >= 0, self, "data", "must not be negative")
        require_positive(self, "fsdp", "tensor")


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved, and what stays. The end of a run and SIGTERM save, too.

    every: steps between two saves.
    keep_last: the newest ones that stay.
    keep_best: the best ones that stay besides.
    best: what they are judged by: a loss (its mean since the last save; lower is better), or a
        score of the periodic evaluation (higher is better).
    """

    every: int = 500
    keep_last: int = 2
    keep_best: int = 0
    best: str = "loss"

    def __post_init__(self) -> None:
        require_positive(self, "every", "keep_last")
        require(self.keep_best >= 0, self, "keep_best", "must not be negative")


@dataclass(frozen=True)
class EvaluationConfig:
    """The look at held-out examples during a run.

    every: steps between two looks; 0 never looks.
    dataset, split: what is looked at, named as in the mixture.
    examples: how many of it.
    panels: how many of them are shown as pictures.
    max_tokens: of an answer.
    """

    every: int = 0
    dataset: str = "miniworld/easy"
    split: str = "val"
    examples: int = 32
    panels: int = 8
    max_tokens: int = 96

    def __post_init__(self) -> None:
        require(self.every >= 0, self, "every", "must not be negative")
        require_positive(self, "examples", "max_tokens")
        require(self.panels >= 0, self, "panels", "must not be negative")


@dataclass(frozen=True)
class ExperimentConfig:
    """One training run, whole. `seed` draws the first weights and the dropout of every step."""

    model: GLaMMConfig
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    start: StartConfig = field(default_factory=StartConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, self, "seed", "must not be negative")
        adapted = self.optim.trained in ("released", "paper")
        message = f"optim.trained = {self.optim.trained!r} trains adapters; use with_lora(model)"
        require(not adapted or self.model.lora is not None, self.model, "lora", message)
        room = self.model.llama.max_positions
        message = f"a row exceeds model.llama.max_positions = {room}"
        require(self.data.quotas.tokens <= room, self.data.quotas, "tokens", message)
