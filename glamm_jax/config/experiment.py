"""Configuration of a training run: model, data, optimizer, mesh, checkpoints. Frozen dataclasses.

A file in `configs/` returns an `ExperimentConfig` from `get_config()`;
`glamm_jax.config.overrides` changes fields by their dotted names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from glamm_jax.config.checks import require, require_choice, require_positive
from glamm_jax.config.model import GLaMMConfig, LossWeights
from glamm_jax.types import BatchShape

Schedule = Literal["linear_decay", "constant"]
UnusedParts = Literal["skip", "zero"]
TrainableSet = Literal["released", "paper", "all_but_encoders", "everything"]
ConversationTask = Literal["gcg", "referring", "semantic", "grounding", "region", "caption", "vqa"]
# Fields of later versions, and the value that runs without them have.
ADDED_FIELDS: Mapping[str, Any] = {
    "losses.iou": 0.0,
    "data.max_unreadable": 0.05,
    "data.max_dropped": 0.5,
    "data.cache_dir": "",
    "data.cache_bytes": 32 << 30,
    "data.step_images": 0,
    "mesh.devices": 0,
    "checkpoint.every_minutes": 0.0,
    "checkpoint.keep_every": 0,
    "validation.every_minutes": 0.0,
}
MIN_CACHE_BYTES = 8 << 20
MASK_TASKS = ("gcg", "referring", "semantic", "grounding")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW behind a clipped gradient. The defaults are those of the released training (quirk 29).

    Attributes:
        peak_lr: learning rate at the end of the warm-up.
        muon_lr: peak learning rate of Muon, which then updates the matrices of transformer blocks
            instead of Adam; None: Adam updates everything.
        schedule: after the warm-up, decay linearly to 0 at `total_steps`, or stay constant.
        warmup_steps: steps of linear warm-up.
        total_steps: length of the schedule.
        betas: decay rates of Adam's first and second moments, each in [0, 1).
        eps: added to the denominator of Adam.
        weight_decay: decoupled weight decay.
        clip_norm: largest global norm of the gradient.
        trainable: which parameters are trained (`glamm_jax.training.parameter_groups`).
        unused_parts: what happens to a part of the model that no example of a batch uses. "skip"
            leaves it and its moments unchanged, as torch does with a parameter without gradient;
            "zero" takes a step with gradient zero, so that momentum still moves it.
        accumulation_steps: loader batches whose gradients are accumulated in one step. The result
            is that of one batch of all of them (the released training: 10 of 2 on each of 8 GPUs).
        max_skipped_steps: consecutive steps with a loss or gradient that is not finite before the
            run ends with an error.
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
    trainable: TrainableSet = "released"
    unused_parts: UnusedParts = "skip"
    accumulation_steps: int = 1
    max_skipped_steps: int = 10

    def __post_init__(self) -> None:
        require_positive(self, "peak_lr", "total_steps", "eps", "clip_norm")
        require_positive(self, "accumulation_steps", "max_skipped_steps")
        require_choice(self, "schedule", Schedule)
        fits = 0 <= self.warmup_steps <= self.total_steps
        require(fits, self, "warmup_steps", f"must be in 0 to total_steps = {self.total_steps}")
        require(all(0 <= beta < 1 for beta in self.betas), self, "betas", "must be in [0, 1)")
        require(self.weight_decay >= 0, self, "weight_decay", "must not be negative")
        if self.muon_lr is not None:
            require_positive(self, "muon_lr")
        require_choice(self, "trainable", TrainableSet)
        require_choice(self, "unused_parts", UnusedParts)


@dataclass(frozen=True)
class ConversationConfig:
    """How a record's annotations become a conversation. Defaults: the released training's.

    Attributes:
        max_turns: classes or expressions in one conversation (quirk 41).
        max_regions: regions in one conversation (quirk 42).
        shuffle: sample annotations and their order; False takes the first, in stored order.
        count_overlaps: a pixel that two polygons of one object cover has the value 2 in its mask,
            as in the original (quirk 22); False: 1.
        bare_image: put the image in front of the question without a sentence about it, as the
            released weights were trained on LLaVA-Instruct and the regions of refCOCO(+).
        questions: templates used instead of those in `glamm_jax.text.questions`; `{name}` and
            `{regions}` are filled in.
        group_questions: the same, for questions about several regions together.
        answers: the same, for answers to segmentation questions.
    """

    max_turns: int = 3
    max_regions: int = 10
    shuffle: bool = True
    count_overlaps: bool = True
    bare_image: bool = False
    questions: tuple[str, ...] = ()
    group_questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_positive(self, "max_turns", "max_regions")


@dataclass(frozen=True)
class MixtureEntry:
    """A dataset of the mixture, and the tasks that its records are used for.

    Attributes:
        dataset: folder of record shards (`glamm-jax convert dataset`), or SCHEME/NAME of a
            registered record source (`glamm_jax.data.record_sources`).
        tasks: each gives one conversation about an image.
        weight: sampling weight, relative to the other entries.
        split: of the dataset.
        conversation: how conversations are sampled.
    """

    dataset: str
    tasks: tuple[ConversationTask, ...]
    weight: float = 1.0
    split: str = "train"
    conversation: ConversationConfig = field(default_factory=ConversationConfig)

    def __post_init__(self) -> None:
        require(bool(self.dataset), self, "dataset", "name a folder, or SCHEME/NAME")
        known = bool(self.tasks) and set(self.tasks) <= set(get_args(ConversationTask))
        require(known, self, "tasks", f"choose some of {get_args(ConversationTask)}")
        require_positive(self, "weight")

    @property
    def required_parts(self) -> tuple[str, ...]:
        """Fields of `BatchShape`, besides rows and images, that its tasks need."""
        regions = ("region_images", "regions") if "region" in self.tasks else ()
        has_masks = not set(self.tasks).isdisjoint(MASK_TASKS)
        return (*regions, *(("grounding_images", "masks") if has_masks else ()))


DEFAULT_BATCH_SHAPE = BatchShape(
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
    """The training data and the shapes of its batches.

    Attributes:
        mixture: the datasets.
        tokenizer: folder with LLaMA's `tokenizer.model`, relative to the working directory.
        seed: of the order of the examples and of everything sampled from them.
        batch_shape: static shape of one batch slice. `tokens` counts a row's text and image
            patches; `grounding_images` are images for SAM and `region_images` for the region
            encoder: with fewer of them than `images`, only that many images of a batch may have
            masks, or regions.
        share_prefix: put conversations about one image into one row behind the image. Losses are
            equal to those of separate rows.
        fill_rows: put further images into a row while they fit. Losses are equal.
        max_deferred: samples that may wait for a batch with room before a batch is closed.
        batch_slices: slices that make up the batch of a step, one behind the other. Each is read
            and packed by itself, so the result does not depend on the number of processes, among
            which they are divided. Fixed for a run.
        step_images: images of a step. Where the devices cannot divide `batch_slices`, their number
            decides it, `optim.accumulation_steps`, and how much of `batch_shape` a slice has
            (`glamm_jax.training.step_layout`). 0: all three are as they are set.
        workers: worker processes for each slice; 0 reads in threads.
        prefetch: batches made ahead of the device.
        cache_dir: folder of this machine for what is read of record shards in a bucket; "": the
            folder glamm-jax-cache in that of temporary files. Runs may share it.
        cache_bytes: its largest size.
        max_unreadable: the run stops if a larger share of the records of a mixture entry (and more
            than 10 of them) cannot be read: a damaged file, image or mask.
        max_dropped: the same for records that give no sample for any reason: unreadable, no
            annotation of its tasks, or more than a batch has room for. It also stops if a complete
            pass over an entry gives no sample. 1 for both: never stop.
    """

    mixture: tuple[MixtureEntry, ...]
    tokenizer: str = "tokenizer"
    seed: int = 0
    batch_shape: BatchShape = DEFAULT_BATCH_SHAPE
    share_prefix: bool = False
    fill_rows: bool = False
    max_deferred: int = 16
    batch_slices: int = 1
    step_images: int = 0
    workers: int = 0
    prefetch: int = 1
    cache_dir: str = ""
    cache_bytes: int = 32 << 30
    max_unreadable: float = 0.05
    max_dropped: float = 0.5

    def __post_init__(self) -> None:
        require(bool(self.mixture), self, "mixture", "name at least one dataset")
        require(bool(self.tokenizer), self, "tokenizer", "name a folder")
        require(self.seed >= 0, self, "seed", "must not be negative")
        require_positive(self, "max_deferred", "batch_slices", "prefetch")
        require_positive(self.batch_shape, "rows", "tokens", "targets", "images")
        for entry in self.mixture:
            for name in entry.required_parts:
                message = f"tasks {entry.tasks} of the mixture need some"
                require(getattr(self.batch_shape, name) > 0, self.batch_shape, name, message)
        require(self.cache_bytes >= MIN_CACHE_BYTES, self, "cache_bytes", "must be at least 8 MiB")
        for name in ("workers", "step_images"):
            require(getattr(self, name) >= 0, self, name, "must not be negative")
        for name in ("max_unreadable", "max_dropped"):
            require(0 <= getattr(self, name) <= 1, self, name, "must be in [0, 1]")


@dataclass(frozen=True)
class InitConfig:
    """Initial weights of a run. With nothing named, all are initialized randomly from the seed.

    Attributes:
        model: a model folder, written by `convert from-torch` or `glamm-jax export`. LoRA adapters
            that it lacks are added; they start without effect.
        run: the folder of another run, instead: its latest checkpoint on its own initial weights.
        region_encoder: a model folder whose region encoder replaces that of the model, as the
            released training takes it from GPT4RoI.
    """

    model: str = ""
    run: str = ""
    region_encoder: str = ""

    def __post_init__(self) -> None:
        require(not (self.model and self.run), self, "run", "name a model or a run, not both")


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the device mesh's axes. Their product is the number of devices.

    Attributes:
        data: devices that divide the batch; 0: all that the other axes leave.
        fsdp: devices that divide the batch and the weights.
        tensor: devices that divide the width of each layer.
        devices: the first so many of all devices are used, the others idle; 0: all are used.
    """

    data: int = 0
    fsdp: int = 1
    tensor: int = 1
    devices: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "devices"):
            require(getattr(self, name) >= 0, self, name, "must not be negative")
        require_positive(self, "fsdp", "tensor")


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved and which are kept. The end of a run and SIGTERM save as well.

    Attributes:
        every: steps between checkpoints.
        every_minutes: a checkpoint is also saved when so many minutes have passed since the last
            one, by the clock of process 0; 0: never.
        keep_last: newest checkpoints that are kept.
        keep_every: steps; at every multiple a checkpoint is saved, and kept for ever. 0: none is.
        keep_best: best checkpoints that are kept in addition.
        best_metric: a loss ("loss", "ce", "bce", "dice": mean since the last checkpoint, lower is
            better), or a metric of the validation (higher is better).
    """

    every: int = 500
    every_minutes: float = 0.0
    keep_last: int = 2
    keep_every: int = 0
    keep_best: int = 0
    best_metric: str = "loss"

    def __post_init__(self) -> None:
        require_positive(self, "every", "keep_last")
        require(self.every_minutes >= 0, self, "every_minutes", "must not be negative")
        require(self.keep_every >= 0, self, "keep_every", "must not be negative")
        require(self.keep_best >= 0, self, "keep_best", "must not be negative")


@dataclass(frozen=True)
class ValidationConfig:
    """Validation on held-out examples during a run.

    Attributes:
        every: steps between validations; 0: steps do not matter.
        every_minutes: minutes between validations, by the clock of process 0; 0: time does not
            matter. If both are 0, there is no validation.
        dataset: as in `MixtureEntry`.
        split: of the dataset.
        num_examples: questions that are answered.
        num_panels: images saved of them, prediction beside reference.
        max_tokens: longest answer.
    """

    every: int = 0
    every_minutes: float = 0.0
    dataset: str = ""
    split: str = "val"
    num_examples: int = 32
    num_panels: int = 8
    max_tokens: int = 96

    def __post_init__(self) -> None:
        require(self.every >= 0, self, "every", "must not be negative")
        require(self.every_minutes >= 0, self, "every_minutes", "must not be negative")
        has_dataset = bool(self.dataset) or not self.is_enabled
        require(has_dataset, self, "dataset", "name a folder, or SCHEME/NAME")
        require_positive(self, "num_examples", "max_tokens")
        require(self.num_panels >= 0, self, "num_panels", "must not be negative")

    @property
    def is_enabled(self) -> bool:
        """Whether there is any validation."""
        return bool(self.every or self.every_minutes)


@dataclass(frozen=True)
class ExperimentConfig:
    """A training run.

    Attributes:
        seed: of the initial weights and the dropout.
    """

    model: GLaMMConfig
    data: DataConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    init: InitConfig = field(default_factory=InitConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, self, "seed", "must not be negative")
        has_adapters = self.optim.trainable in ("released", "paper")
        message = (
            f"optim.trainable = {self.optim.trainable!r} trains adapters; use with_lora(model)"
        )
        require(not has_adapters or self.model.lora is not None, self.model, "lora", message)
        context = self.model.llama.max_positions
        message = f"a row is longer than model.llama.max_positions = {context}"
        shape = self.data.batch_shape
        require(shape.tokens <= context, shape, "tokens", message)
