"""The configuration of the model as frozen dataclasses, and its presets.

A size that follows from others (the number of image tokens, say) is a property, so that it cannot
contradict them. Every class validates itself on construction; the error names the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args

from glamm_jax.config.checks import require, require_choice, require_positive

Activation = Literal["gelu", "quick_gelu", "relu", "silu"]
Remat = Literal["none", "full", "dots"]
DType = Literal["float32", "bfloat16"]
RegionOutput = Literal["own", "shared"]
Preset = Literal["released", "paper"]
RopeType = Literal["linear", "llama3"]

RGB = tuple[float, float, float]

# Metadata of a field that older releases lack: JSON has it only where it is not the default.
OPTIONAL: dict[str, Any] = {"optional": True}

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class CLIPConfig:
    """Global image encoder. The default is ViT-L/14 at 336 px, as released.

    Hidden states are numbered as by Hugging Face: 0 is the embedding after the pre-layernorm, k the
    output of layer k; negative numbers count from the end.

    Attributes:
        image_size: side of the square input image.
        patch_size: side of a patch in pixels.
        hidden_dim: width of the residual stream.
        mlp_dim: width of the MLPs.
        num_layers: layers of the checkpoint; see `num_computed_layers`.
        num_heads: attention heads.
        activation: of the MLPs.
        norm_eps: epsilon of the layer norms.
        pixel_mean: of each channel, in units of 0..255.
        pixel_std: of each channel, in units of 0..255.
        projector_layer: hidden state that the V-L projector uses.
        region_layers: hidden states that the region encoder uses, shallowest first.
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
        require(
            self.image_size % self.patch_size == 0,
            self,
            "image_size",
            "must be a multiple of patch_size",
        )
        require(self.hidden_dim % self.num_heads == 0, self, "num_heads", "must divide hidden_dim")
        num_states = self.num_layers + 1
        for name, layers in (
            ("projector_layer", (self.projector_layer,)),
            ("region_layers", self.region_layers),
        ):
            exist = all(-num_states <= layer < num_states for layer in layers)
            require(exist, self, name, f"there are {num_states} hidden states")
        used = self.num_computed_layers > 0
        require(used, self, "region_layers", "the output of no layer is used")

    def hidden_state_index(self, layer: int) -> int:
        """Return the non-negative index of a hidden state."""
        return layer % (self.num_layers + 1)

    @property
    def grid_size(self) -> int:
        """Number of patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Number of patches of an image, which is its number of tokens in the sequence."""
        return self.grid_size**2

    @property
    def output_states(self) -> tuple[int, ...]:
        """Hidden states that the projector or the region encoder uses, ascending."""
        layers = (*self.region_layers, self.projector_layer)
        return tuple(sorted({self.hidden_state_index(layer) for layer in layers}))

    @property
    def num_computed_layers(self) -> int:
        """Number of layers up to the last hidden state that is used; later layers do not exist."""
        return max(self.output_states)


@dataclass(frozen=True)
class RopeScaling:
    """A change of the rotary frequencies, for sequences longer than those of the pretraining.

    Attributes:
        kind: "linear": all frequencies are divided by `factor`; "llama3": only low ones are.
        factor: divisor.
        low_freq_factor: of "llama3": waves longer than original_max_positions / low_freq_factor
            are divided.
        high_freq_factor: of "llama3": waves shorter than original_max_positions / high_freq_factor
            are kept; between both limits the frequencies are interpolated.
        original_max_positions: of "llama3": longest sequence of the pretraining.
    """

    kind: RopeType
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192

    def __post_init__(self) -> None:
        require_choice(self, "kind", RopeType)
        require_positive(self, "factor", "low_freq_factor", "high_freq_factor")
        require_positive(self, "original_max_positions")
        message = "must be above low_freq_factor"
        require(self.high_freq_factor > self.low_freq_factor, self, "high_freq_factor", message)


@dataclass(frozen=True)
class LlamaConfig:
    """LLaMA decoder: LLaMA 1 to 3, Vicuna, SmolLM2. The default is 7B with GLaMM's added tokens.

    Attributes:
        vocab_size: tokens, added ones included.
        hidden_dim: width of the residual stream.
        mlp_dim: width of the gated MLPs.
        num_layers: decoder layers.
        num_heads: attention heads.
        max_positions: longest sequence, image patches included.
        rope_theta: base of the rotary frequencies.
        norm_eps: epsilon of the RMS norms.
        remat: what is recomputed in the backward pass: "none", all of a layer ("full"), or all but
            the results of matrix products ("dots").
        num_kv_heads: heads of the keys and values, each shared by a group of query heads; None:
            as many as `num_heads`.
        head_width: width of a head; None: hidden_dim / num_heads.
        tie_embeddings: the embeddings are also the matrix of the logits; there is no lm_head.
        rope_scaling: change of the rotary frequencies.
    """

    vocab_size: int = 32007
    hidden_dim: int = 4096
    mlp_dim: int = 11008
    num_layers: int = 32
    num_heads: int = 32
    max_positions: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    remat: Remat = "full"
    num_kv_heads: int | None = field(default=None, metadata=OPTIONAL)
    head_width: int | None = field(default=None, metadata=OPTIONAL)
    tie_embeddings: bool = field(default=False, metadata=OPTIONAL)
    rope_scaling: RopeScaling | None = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "hidden_dim", "mlp_dim", "num_layers", "num_heads")
        require_positive(self, "max_positions", "rope_theta", "norm_eps")
        if self.head_width is None:
            divides = self.hidden_dim % self.num_heads == 0
            require(divides, self, "num_heads", "must divide hidden_dim")
        else:
            require_positive(self, "head_width")
        name = "num_heads" if self.head_width is None else "head_width"
        require(self.head_dim % 2 == 0, self, name, "the width of a head must be even")
        if self.num_kv_heads is not None:
            require_positive(self, "num_kv_heads")
            divides = self.num_heads % self.num_kv_heads == 0
            require(divides, self, "num_kv_heads", f"must divide num_heads = {self.num_heads}")
        require_choice(self, "remat", Remat)

    @property
    def head_dim(self) -> int:
        return self.head_width or self.hidden_dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Number of heads of the keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def query_dim(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key heads together, or of all value heads."""
        return self.kv_heads * self.head_dim

    def projection_dims(self, name: str) -> tuple[int, int]:
        """Return the widths of a projection's input and output; the name is from `PROJECTIONS`."""
        return {
            "q_proj": (self.hidden_dim, self.query_dim),
            "k_proj": (self.hidden_dim, self.kv_dim),
            "v_proj": (self.hidden_dim, self.kv_dim),
            "o_proj": (self.query_dim, self.hidden_dim),
            "gate_proj": (self.hidden_dim, self.mlp_dim),
            "up_proj": (self.hidden_dim, self.mlp_dim),
            "down_proj": (self.mlp_dim, self.hidden_dim),
        }[name]


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters on projections of the decoder; the update is alpha / rank * A B.

    Attributes:
        rank: inner width of the adapters.
        alpha: numerator of the scale.
        dropout: rate of the dropout on the input of the adapters.
        targets: projections with an adapter, from `PROJECTIONS`.
    """

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
    """Region encoder: CLIP levels, a pyramid, fusion rounds, RoIAlign, an MLP of the box position.

    Attributes:
        mid_dim: width of a region's vector before the output projection.
        position_dim: width of the MLP of the box position.
        num_fusion_rounds: rounds of convolutions that mix the levels.
        norm_groups: groups of the group norms.
        roi_size: bins of RoIAlign along one side of a box.
        samples_per_bin: samples of RoIAlign along one side of a bin.
        patch_frame: width of a CLIP patch in the frame of the scaled boxes.
        box_scale: factor from boxes in [0, 1] to that frame; None: the true size of the grid. The
            original always multiplies by 224, also on a 336-pixel grid, so that a box over the
            complete image covers 16 of 24 cells (quirk 11).
        output: "own": a separate linear layer to the LLM's width; "shared": the V-L projector
            (paper, section 3.1).
        compute_dtype: dtype of the feature maps; None: the model's. The original always uses
            bfloat16 (quirk 13).
        remat: as in `LlamaConfig`, for a fusion round; its maps take 0.1 GB per image in half
            precision, a dozen times.
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

    Attributes:
        hypernetwork_layers: layers of the MLP of each mask token.
        image_size: side of the padded input image (the canvas).
        patch_size: side of a patch in pixels.
        hidden_dim: width of the encoder's residual stream.
        num_layers: encoder blocks.
        num_heads: attention heads of the encoder.
        mlp_ratio: width of the encoder's MLPs relative to `hidden_dim`.
        window_size: side of an attention window in patches.
        global_blocks: indices of the encoder blocks with global attention, ascending.
        out_dim: width of image and prompt embeddings and of the mask decoder.
        mask_channels: width of the convolutions over mask prompts.
        decoder_layers: two-way blocks of the mask decoder.
        decoder_heads: attention heads of the mask decoder.
        decoder_mlp_dim: width of the mask decoder's MLPs.
        num_multimasks: masks of the multi-mask output.
        iou_dim: width of the IoU head.
        iou_layers: layers of the IoU head.
        pixel_mean: of each channel, in units of 0..255.
        pixel_std: of each channel, in units of 0..255.
    """

    hypernetwork_layers: ClassVar[int] = 3

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
        require(self.out_dim % 8 == 0, self, "out_dim", "must be a multiple of 8")
        divides = self.out_dim // 2 % self.decoder_heads == 0
        require(divides, self, "decoder_heads", f"must divide half of out_dim = {self.out_dim}")
        require(self.mask_channels % 4 == 0, self, "mask_channels", "must be a multiple of 4")
        require(
            self.image_size % self.patch_size == 0,
            self,
            "image_size",
            "must be a multiple of patch_size",
        )
        require(self.hidden_dim % self.num_heads == 0, self, "num_heads", "must divide hidden_dim")
        exist = all(0 <= block < self.num_layers for block in self.global_blocks)
        message = f"blocks are numbered from 0 to {self.num_layers - 1}"
        require(exist, self, "global_blocks", message)
        ascending = list(self.global_blocks) == sorted(set(self.global_blocks))
        require(ascending, self, "global_blocks", "must be strictly ascending")

    @property
    def grid_size(self) -> int:
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution masks of the decoder."""
        return 4 * self.grid_size

    @property
    def mlp_dim(self) -> int:
        return int(self.hidden_dim * self.mlp_ratio)

    @property
    def window_blocks(self) -> tuple[int, ...]:
        """Indices of the encoder blocks with windowed attention."""
        return tuple(i for i in range(self.num_layers) if i not in self.global_blocks)


@dataclass(frozen=True)
class TokenConfig:
    """Ids of the tokens that the model treats specially."""

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
        for token in fields(self):
            require(getattr(self, token.name) >= 0, self, token.name, "must not be negative")

    @classmethod
    def appended_to(cls, base_vocab_size: int) -> TokenConfig:
        """Return the ids of the seven added tokens after a vocabulary of this size (quirk 24)."""
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
    """Weights of the losses (paper, section A.2).

    Attributes:
        ce: of the cross-entropy of the text.
        bce: of the binary cross-entropy of the masks.
        dice: of the dice loss of the masks.
        iou: of SAM's loss of the mask decoder's IoU estimate, its squared error. 0: the estimate is
            not trained, as in the released training.
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    iou: float = 0.0

    def __post_init__(self) -> None:
        for weight in fields(self):
            require(getattr(self, weight.name) >= 0, self, weight.name, "must not be negative")


@dataclass(frozen=True)
class GLaMMConfig:
    """The complete model; see the presets `released()` and `paper()`.

    Attributes:
        clip: global image encoder.
        llama: language model.
        region: region encoder.
        sam: grounding encoder and pixel decoder.
        lora: adapters of the language model; None: no adapters.
        tokens: ids of special tokens.
        projector_activation: of the V-L projector.
        text_projection_activation: of the L-P projection.
        compute_dtype: dtype of activations.
    """

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
        clip_dim, region = self.clip.hidden_dim, self.region
        message = "must be a multiple of 4 for the region fusion"
        require(clip_dim % 4 == 0, self.clip, "hidden_dim", message)
        divides = clip_dim % region.norm_groups == 0
        require(divides, region, "norm_groups", f"must divide clip.hidden_dim = {clip_dim}")
        matches = region.output == "own" or region.mid_dim == clip_dim
        message = f"must equal clip.hidden_dim = {clip_dim} for the shared V-L projector"
        require(matches, region, "mid_dim", message)
        vocab = self.llama.vocab_size
        for token in fields(self.tokens):
            exists = getattr(self.tokens, token.name) < vocab
            require(exists, self.tokens, token.name, f"outside the vocabulary of {vocab} tokens")


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
    """Return the configuration of the public checkpoints, in which LoRA is merged."""
    return GLaMMConfig(llama=llama)


def paper(llama: LlamaConfig = LLAMA_7B) -> GLaMMConfig:
    """Return the configuration of the paper's text, which differs from the released code."""
    return GLaMMConfig(
        clip=CLIP_H14_224,
        llama=llama,
        region=RegionConfig(mid_dim=CLIP_H14_224.hidden_dim, box_scale=None, output="shared"),
        text_projection_activation="gelu",
    )


def preset_of(config: GLaMMConfig) -> str:
    """Return the preset whose variants of the architecture a model of any size has.

    Returns:
        "released", "paper", or "mixed" where it has variants of both.
    """
    own, *presets = (
        (
            x.clip.activation,
            x.region.box_scale is None,
            x.region.output,
            x.text_projection_activation,
        )
        for x in (config, released(), paper())
    )
    matches = [
        name for name, preset in zip(get_args(Preset), presets, strict=True) if own == preset
    ]
    return matches[0] if matches else "mixed"


def with_lora(config: GLaMMConfig, preset: Preset = "released") -> GLaMMConfig:
    """Add the LoRA adapters of a preset: alpha is 16 in the released code, 8 in the paper."""
    return replace(config, lora=LoRAConfig(alpha=16.0 if preset == "released" else 8.0))


def tiny(base_vocab_size: int = 200, preset: Preset = "released") -> GLaMMConfig:
    """Return a small model with all parts of a preset; it trains in seconds on one core."""
    full = released() if preset == "released" else paper()
    return GLaMMConfig(
        clip=CLIPConfig(
            image_size=48,
            patch_size=2,
            hidden_dim=64,
            mlp_dim=128,
            num_layers=11,
            num_heads=4,
            activation=full.clip.activation,
        ),
        llama=LlamaConfig(
            vocab_size=base_vocab_size + 7,
            hidden_dim=64,
            mlp_dim=128,
            num_layers=2,
            num_heads=4,
            remat="none",
        ),
        region=replace(full.region, mid_dim=64, norm_groups=16),
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
        text_projection_activation=full.text_projection_activation,
    )
