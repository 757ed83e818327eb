"""The region encoder: boxes on an image to vectors in the embedding space of the language model.

    four CLIP levels -> pyramid (192, 96, 48, 24 cells) -> 5 fusion rounds -> RoIAlign 14x14
      -> sum over levels -> vector + MLP of the raw box -> linear

Source: model/layers.py of the original (after GPT4RoI); paper, section 3.1.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from glamm_jax.config import RegionConfig
from glamm_jax.nn.batch_slices import map_slices
from glamm_jax.nn.initializers import normal
from glamm_jax.nn.layer_stack import scan_blocks, unstack
from glamm_jax.nn.linear import Conv, Linear, linear
from glamm_jax.nn.norm import GroupNorm, LayerNorm
from glamm_jax.nn.resize import resize_map
from glamm_jax.nn.roi_align import roi_align
from glamm_jax.parallel import constrain, platform

NORM_EPS = 1e-5


def _round_to_dtype(x: Float[Array, "r 4"], dtype: jnp.dtype) -> Float[Array, "r 4"]:
    """Round float32 numbers to the precision of `dtype`.

    XLA may keep more bits than a pair of casts asks for; it must obey `reduce_precision`.
    """
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)


class FusionRound(nnx.Module):
    """A 3x3 convolution, group norm and ReLU, shared by all levels; stacked over the rounds."""

    def __init__(self, dim: int, groups: int, *, rngs: nnx.Rngs, stack: tuple[int, ...]):
        self.conv = Conv(dim, dim, 3, rngs=rngs, padding=1, use_bias=False, stack=stack)
        self.norm = GroupNorm(dim, groups, NORM_EPS, stack=stack)

    def __call__(self, x: Float[Array, "q h w c"]) -> Float[Array, "q h w c"]:
        return jax.nn.relu(self.norm(self.conv(x)))


class BoxPositionEmbedding(nnx.Module):
    """An embedding of box coordinates: linear, ReLU, LayerNorm, twice."""

    def __init__(self, config: RegionConfig, *, rngs: nnx.Rngs):
        self.linear1 = Linear(4, config.position_dim, (None, "mlp"), rngs=rngs)
        self.norm1 = LayerNorm(config.position_dim, NORM_EPS)
        self.linear2 = Linear(config.position_dim, config.mid_dim, ("mlp", "embed"), rngs=rngs)
        self.norm2 = LayerNorm(config.mid_dim, NORM_EPS)

    def __call__(self, boxes: Float[Array, "r 4"]) -> Float[Array, "r m"]:
        x = self.norm1(jax.nn.relu(self.linear1(boxes)))
        return self.norm2(jax.nn.relu(self.linear2(x)))


class RegionEncoder(nnx.Module):
    """Pyramid, fusion and pooling. Level 0 is the shallowest CLIP state and the largest map."""

    def __init__(
        self,
        config: RegionConfig,
        *,
        input_dim: int,
        output_dim: int,
        num_levels: int,
        rngs: nnx.Rngs,
    ):
        self.config, self.num_levels = config, num_levels
        dim, bins, levels = input_dim, config.roi_size, (num_levels,)
        rounds = (config.num_fusion_rounds,)
        self.input_proj = Linear(dim + 2, dim, (None, "embed"), rngs=rngs, stack=levels)
        self.fusion = FusionRound(dim, config.norm_groups, rngs=rngs, stack=rounds)
        self.level_conv = Conv(dim, dim, 3, rngs=rngs, padding=1, stack=levels)
        self.flatten_kernel = nnx.Param(
            normal(rngs, (bins, bins, dim, config.mid_dim), (bins * bins * dim) ** -0.5),
            axes=(None, None, "embed", "mlp"),
        )
        self.flatten_bias = nnx.Param(jnp.zeros(config.mid_dim), axes=(None,))
        self.position = BoxPositionEmbedding(config, rngs=rngs)
        own = config.output == "own"
        self.output_proj = (
            Linear(config.mid_dim, output_dim, ("embed", "mlp"), rngs=rngs) if own else None
        )

    def __call__(
        self,
        levels: list[Float[Array, "q p c"]],
        boxes: Float[Array, "r 4"],
        box_image: Int[Array, "r"],
        num_slices: int = 1,
    ) -> Float[Array, "r o"]:
        """Compute the feature of every box.

        Args:
            levels: CLIP patches on a square grid, without CLS, shallowest level first.
            boxes: x0 y0 x1 y1 relative to the original image, in [0, 1]. Values outside are
                allowed, and the centre crop of CLIP is not corrected for (quirk 12).
            box_image: index of each box's image among the images of its slice of the batch.
            num_slices: of the batch.

        Returns:
            Features of the width of the LLM, or of CLIP if the shared V-L layer follows.
        """
        grid = round(levels[0].shape[1] ** 0.5)
        maps = self.fuse(self.build_pyramid(levels))
        pooled = self.pool(maps, boxes, box_image, grid, num_slices)
        return self.project(pooled, boxes)

    def build_pyramid(self, levels: list[Float[Array, "q p c"]]) -> list[Float[Array, "q _ _ c"]]:
        """Append coordinates to the CLIP levels, project and enlarge them.

        The shallowest level is enlarged most (quirk 9).

        Differs: the original enlarges, appends x and y in -1..1, then projects (quirk 14). All
            three steps are linear in space and enlarging preserves a linear ramp, so projecting the
            small map first gives the same result with a sixty-fourth of the work.
        """
        q, patches, _ = levels[0].shape
        grid = round(patches**0.5)
        ramp = jnp.linspace(-1, 1, grid, dtype=levels[0].dtype)
        y, x = jnp.meshgrid(ramp, ramp, indexing="ij")
        coordinates = jnp.broadcast_to(jnp.stack([x, y], -1)[None], (q, grid, grid, 2))
        projections = unstack(self.input_proj, self.num_levels)
        maps = []
        for level, features in enumerate(levels):
            features = features.reshape(q, grid, grid, features.shape[-1])
            features = jnp.concatenate([features, coordinates], axis=-1)
            features = projections[level](features)
            size = grid * 2 ** (self.num_levels - 1 - level)
            features = resize_map(features, size, size, align_corners=True)
            maps.append(constrain(features, "batch", None, None, None))
        return maps

    def fuse(self, maps: list[Float[Array, "q _ _ c"]]) -> list[Float[Array, "q _ _ c"]]:
        """Mix neighbouring levels in several rounds (quirk 14).

        The first half of a level's input channels are its own, the next quarter is the LAST quarter
        of the next level's, the rest is the THIRD quarter of the previous level's. The first and
        the last level are their own missing neighbours.
        """
        half, quarter = maps[0].shape[-1] // 2, maps[0].shape[-1] // 4

        def fusion_round(block: FusionRound, maps: list[Array], _: None) -> list[Array]:
            mixed = []
            for level, own in enumerate(maps):
                following = maps[min(level + 1, self.num_levels - 1)][..., half + quarter :]
                previous = maps[max(level - 1, 0)][..., half : half + quarter]
                size = own.shape[1:3]
                following = resize_map(following, *size, align_corners=True)
                previous = resize_map(previous, *size, align_corners=True)
                mixed.append(jnp.concatenate([own[..., :half], following, previous], axis=-1))
            return [constrain(block(x), "batch", None, None, None) for x in mixed]

        unroll, remat = platform() == "cpu", self.config.remat
        return scan_blocks(fusion_round, self.fusion, maps, remat=remat, unroll=unroll)

    def pool(
        self,
        maps: list[Float[Array, "q _ _ c"]],
        boxes: Float[Array, "r 4"],
        box_image: Int[Array, "r"],
        grid: int,
        num_slices: int = 1,
    ) -> list[Float[Array, "r bins bins c"]]:
        """Pool the boxes from every level with RoIAlign.

        Args:
            maps: fused feature maps.
            boxes: x0 y0 x1 y1 in [0, 1].
            box_image: index of each box's image in its slice of the batch.
            grid: side of CLIP's patch grid.
            num_slices: of the batch.
        """
        config = self.config
        # quirk 11: released weights expect boxes scaled by 224 although the image has 336 pixels.
        scale = config.patch_frame * grid if config.box_scale is None else config.box_scale
        # quirk 13: at evaluation the original scales boxes in bfloat16.
        boxes_xyxy_pixel = _round_to_dtype(boxes.astype(jnp.float32) * scale, boxes.dtype)
        strides = [config.patch_frame / 2 ** (self.num_levels - 1 - i) for i in range(len(maps))]
        settings = {"bins": config.roi_size, "samples": config.samples_per_bin}
        return [
            map_slices(
                partial(roi_align, stride=stride, **settings),
                num_slices,
                *(x, boxes_xyxy_pixel, box_image),
            )
            for x, stride in zip(maps, strides, strict=True)
        ]

    def project(
        self, pooled: list[Float[Array, "r bins bins c"]], boxes: Float[Array, "r 4"]
    ) -> Float[Array, "r o"]:
        """Sum the levels, flatten, add the embedding of the box position, project.

        Args:
            pooled: result of `pool`.
            boxes: x0 y0 x1 y1 in [0, 1].
        """
        level_convs = unstack(self.level_conv, self.num_levels)
        convs = [conv(x) for conv, x in zip(level_convs, pooled, strict=True)]
        x = constrain(jax.nn.relu(sum(convs[1:], convs[0])), "batch", None, None, None)
        kernel = self.flatten_kernel[...]
        flat = kernel.reshape(-1, kernel.shape[-1])
        x = linear(x.reshape(x.shape[0], flat.shape[0]), flat, self.flatten_bias[...])
        x = constrain(x + self.position(boxes.astype(x.dtype)), "batch", None)
        return x if self.output_proj is None else self.output_proj(x)
