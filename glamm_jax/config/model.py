"""Every number that shapes the model, as frozen dataclasses; the presets; and nothing else.

A size that follows from others is a property (the number of image tokens, say), so it can
never disagree with them. Each class checks itself on construction and names the field at fault.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

from glamm_jax.config.checks import require, require_choice, require_positive

Activation = Literal["gelu", "quick_gelu", "relu", "silu"]
Remat = Literal["none", "full", "dots"]
DType = Literal["float32", "bfloat16"]
RegionOutput = Literal["own", "shared"]
Preset = Literal["released", "paper"]

RGB = tuple[float, float, float]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class CLIPConfig:
    """Global image encoder. The default is ViT-L/14 at 336 px, as released.

    Pixel statistics are in units of 0..255. `projector_layer` and `region_layers` count hidden
    states as Hugging Face does: 0 is the embedding after the pre-layernorm, k the output of layer
    k, negative from the end.
    """

    image_size: int = 336
    patch_size: int = 14
    hidden_dim: int = 1024
    mlp_dim: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5
    pixel_mean: RGB = (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255)
    pixel_std: RGB = (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255)
    projector_layer: int = -2
    region_layers: tuple[int, ...] = (-11, -8, -5, -2)

    def __post_init__(self) -> None:
        require_positive(self, "image_size", "patch_size", "hidden_dim", "mlp_dim", "num_layers")
        require_positive(self, "num_heads", "norm_eps")
        require_choice(self, "activation", Activation)
        require(self.image_size % self.patch_size == 0, self, "image_size", "not whole patches")
        require(self.hidden_dim % self.num_heads == 0, self, "num_heads", "must divide hidden_dim")
        states = self.num_layers + 1
        for name, layers in (
            ("projector_layer", (self.projector_layer,)),
            ("region_layers", self.region_layers),
        ):
            require(
                all(-states <= layer < states for layer in layers),
                self,
                name,
                f"there are {states} hidden states",
            )
        require(self.num_computed_layers > 0, self, "region_layers", "nobody reads the output of a layer")

    def hidden_state_index(self, layer: int) -> int:
        """The index from the front of a hidden state counted from either end."""
        return layer % (self.num_layers + 1)

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Image tokens that one image puts into the sequence."""
        return self.grid_size**2

    @property
    def output_states(self) -> tuple[int, ...]:
        """Hidden states that somebody reads, from the front, ascending."""
        layers = (*self.region_layers, self.projector_layer)
        return tuple(sorted({self.hidden_state_index(layer) for layer in layers}))

    @property
    def num_computed_layers(self) -> int:
        """Layers that are computed: nothing above the last hidden state that is read."""
        return max(self.output_states)


@dataclass(frozen=True)
class LlamaConfig:
    """LLaMA / Vicuna decoder. The default is 7B with GLaMM's seven added tokens."""

    vocab_size: int = 32007
    hidden_dim: int = 4096
    mlp_dim: int = 11008
    num_layers: int = 32
    num_heads: int = 32
    max_positions: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    remat: Remat = "full"

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "hidden_dim", "mlp_dim", "num_layers", "num_heads")
        require_positive(self, "max_positions", "rope_theta", "norm_eps")
        require(self.hidden_dim % self.num_heads == 0, self, "num_heads", "must divide hidden_dim")
        require(self.head_dim % 2 == 0, self, "num_heads", "rotary heads have an even width")
        require_choice(self, "remat", Remat)

    @property
    def head_dim(self) -> int:
        return self.hidden_dim // self.num_heads


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters on a subset of the decoder's projections; the update is alpha/rank A B."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        require_positive(self, "rank")
        require(0.0 <= self.dropout < 1.0, self, "dropout", "must be in [0, 1)")
        require(
            set(self.targets) <= set(PROJECTIONS), self, "targets", f"choose from {PROJECTIONS}"
        )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class RegionConfig:
    """Region encoder: four CLIP levels, a pyramid, fusion rounds, RoIAlign, a position MLP.

    `box_scale` turns boxes in [0, 1] into pixels of the pyramid's coordinate frame, in which one
    patch is `patch_frame` wide: 224 as the released weights were trained, on a 336-pixel grid, so
    that a box over the whole image covers 16 of 24 cells (trap 11). None means the true grid.
    `output` is "own" for a linear layer of its own to the LLM's width, "shared" for the V-L layer
    (paper, section 3.1). `compute_dtype` overrides the model's: the original always computes its
    maps in bfloat16 (trap 13). `remat` is that of a fusion round, whose maps are large: 0.1 GB an
    image in half precision, a dozen times.
    """

    mid_dim: int = 1024
    position_dim: int = 256
    num_fusion_rounds: int = 5
    norm_groups: int = 64
    roi_size: int = 14
    samples_per_bin: int = 2
    patch_frame: float = 14.0
    box_scale: float | None = 224.0
    output: RegionOutput = "own"
    compute_dtype: DType | None = None
    remat: Remat = "none"

    def __post_init__(self) -> None:
        require_positive(self, "mid_dim", "position_dim", "num_fusion_rounds", "norm_groups")
        require_positive(self, "roi_size", "samples_per_bin", "patch_frame")
        require_choice(self, "output", RegionOutput)
        require_choice(self, "remat", Remat)
        if self.compute_dtype is not None:
            require_choice(self, "compute_dtype", DType)


@dataclass(frozen=True)
class SAMConfig:
    """Grounding encoder (a ViT with windows), prompt encoder and pixel decoder. Default: ViT-H.

    Pixel statistics are in units of 0..255.
    """

    hypernetwork_layers: ClassVar[int] = 3  # of the MLP behind every mask token

    image_size: int = 1024
    patch_size: int = 16
    hidden_dim: int = 1280
    num_layers: int = 32
    num_heads: int = 16
    mlp_ratio: float = 4.0
    window_size: int = 14
    global_blocks: tuple[int, ...] = (7, 15, 23, 31)
    out_dim: int = 256
    mask_channels: int = 16
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    num_multimasks: int = 3
    iou_dim: int = 256
    iou_layers: int = 3
    pixel_mean: RGB = (123.675, 116.28, 103.53)
    pixel_std: RGB = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        require_positive(self, "image_size", "patch_size", "hidden_dim", "num_layers", "num_heads")
        require_positive(self, "window_size", "out_dim", "mask_channels", "decoder_layers")
        require_positive(self, "decoder_heads", "decoder_mlp_dim", "iou_dim", "iou_layers")
        require(self.out_dim % 8 == 0, self, "out_dim", "the upscaling divides it by 8")
        whole = self.out_dim // 2 % self.decoder_heads == 0
        require(whole, self, "decoder_heads", f"must divide half of out_dim = {self.out_dim}")
        require(self.mask_channels % 4 == 0, self, "mask_channels", "is divided by 4")
        require(self.image_size % self.patch_size == 0, self, "image_size", "not whole patches")
        require(self.hidden_dim % self.num_heads == 0, self, "num_heads", "must divide hidden_dim")
        exist = all(0 <= block < self.num_layers for block in self.global_blocks)
        message = f"blocks are numbered 0 to {self.num_layers - 1}"
        require(exist, self, "global_blocks", message)
        ascending = list(self.global_blocks) == sorted(set(self.global_blocks))
        require(ascending, self, "global_blocks", "must be ascending, each once")

    @property
    def grid_size(self) -> int:
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Side of the decoder's low-resolution masks."""
        return 4 * self.grid_size

    @property
    def mlp_dim(self) -> int:
        return int(self.hidden_dim * self.mlp_ratio)

    @property
    def window_blocks(self) -> tuple[int, ...]:
        """Blocks that attend inside windows."""
        return tuple(i for i in range(self.num_layers) if i not in self.global_blocks)


@dataclass(frozen=True)
class TokenConfig:
    """Ids of the tokens the model itself must know; the rest is the tokenizer's affair."""

    pad: int = 0
    bos: int = 1
    eos: int = 2
    image_start: int = 32000
    image_end: int = 32001
    region: int = 32002
    point: int = 32003
    seg: int = 32004
    phrase_start: int = 32005
    phrase_end: int = 32006

    def __post_init__(self) -> None:
        for each in fields(self):
            require(getattr(self, each.name) >= 0, self, each.name, "must be an id")

    @classmethod
    def appended_to(cls, base_vocab_size: int) -> TokenConfig:
        """The seven added tokens in their order, behind a vocabulary of this size (trap 24)."""
        first = base_vocab_size
        return cls(
            image_start=first,
            image_end=first + 1,
            region=first + 2,
            point=first + 3,
            seg=first + 4,
            phrase_start=first + 5,
            phrase_end=first + 6,
        )


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses (paper, section A.2)."""

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5


@dataclass(frozen=True)
class GLaMMConfig:
    """The whole model: `released()` as the public checkpoints are, `paper()` as the text says."""

    clip: CLIPConfig = field(default_factory=CLIPConfig)
    llama: LlamaConfig = field(default_factory=LlamaConfig)
    region: RegionConfig = field(default_factory=RegionConfig)
    sam: SAMConfig = field(default_factory=SAMConfig)
    lora: LoRAConfig | None = None
    tokens: TokenConfig = field(default_factory=TokenConfig)
    projector_activation: Activation = "gelu"
    text_projection_activation: Activation = "relu"
    compute_dtype: DType = "float32"

    def __post_init__(self) -> None:
        for name in ("projector_activation", "text_projection_activation"):
            require_choice(self, name, Activation)
        require_choice(self, "compute_dtype", DType)
        width, region = self.clip.hidden_dim, self.region
        require(width % 4 == 0, self.clip, "hidden_dim", "the fusion of regions quarters it")
        whole = width % region.norm_groups == 0
        require(whole, region, "norm_groups", f"must divide clip.hidden_dim = {width}")
        fits = region.output == "own" or region.mid_dim == width
        message = f"the shared V-L layer reads clip.hidden_dim = {width}"
        require(fits, region, "mid_dim", message)
        vocab = self.llama.vocab_size
        for each in fields(self.tokens):
            inside = getattr(self.tokens, each.name) < vocab
            require(inside, self.tokens, each.name, f"outside the vocabulary of {vocab}")


CLIP_L14_336 = CLIPConfig()
CLIP_H14_224 = CLIPConfig(
    image_size=224,
    hidden_dim=1280,
    mlp_dim=5120,
    num_layers=32,
    num_heads=16,
    activation="gelu",
)
LLAMA_7B = LlamaConfig()
LLAMA_13B = LlamaConfig(hidden_dim=5120, mlp_dim=13824, num_layers=40, num_heads=40)
SAM_VIT_B = SAMConfig(hidden_dim=768, num_layers=12, num_heads=12, global_blocks=(2, 5, 8, 11))
SAM_VIT_L = SAMConfig(hidden_dim=1024, num_layers=24, num_heads=16, global_blocks=(5, 11, 17, 23))
SAM_VIT_H = SAMConfig()


def released(llama: LlamaConfig = LLAMA_7B) -> GLaMMConfig:
    """The public checkpoints (design table of section 4; LoRA is merged in them)."""
    return GLaMMConfig(llama=llama)


def paper(llama: LlamaConfig = LLAMA_7B) -> GLaMMConfig:
    """What the paper's text says where it differs from the released code."""
    return GLaMMConfig(
        clip=CLIP_H14_224,
        llama=llama,
        region=RegionConfig(mid_dim=CLIP_H14_224.hidden_dim, box_scale=None, output="shared"),
        text_projection_activation="gelu",
    )


def with_lora(config: GLaMMConfig, preset: Preset = "released") -> GLaMMConfig:
    """The same model with the preset's adapters: alpha 16 in the code, 8 in the paper."""
    return replace(config, lora=LoRAConfig(alpha=16.0 if preset == "released" else 8.0))


def tiny(base_vocab_size: int = 200, preset: Preset = "released") -> GLaMMConfig:
    """Every part of a preset's model, small enough to differentiate in seconds on one core."""
    like = released() if preset == "released" else paper()
    return GLaMMConfig(
        clip=CLIPConfig(
            image_size=48,
            patch_size=2,
            hidden_dim=64,
            mlp_dim=128,
            num_layers=11,
            num_heads=4,
            activation=like.clip.activation,
        ),
        llama=LlamaConfig(
            vocab_size=base_vocab_size + 7,
            hidden_dim=64,
            mlp_dim=128,
            num_layers=2,
            num_heads=4,
            remat="none",
        ),
        region=replace(like.region, mid_dim=64, norm_groups=16),
        sam=SAMConfig(
            image_size=128,
            patch_size=8,
            hidden_dim=64,
            num_layers=4,
            num_heads=4,
            window_size=5,
            global_blocks=(1, 3),
            out_dim=32,
            mask_channels=16,
            decoder_heads=4,
            decoder_mlp_dim=64,
            iou_dim=32,
        ),
        tokens=TokenConfig.appended_to(base_vocab_size),
        text_projection_activation=like.text_projection_activation,
    )
