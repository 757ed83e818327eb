"""SAM and SAM-HQ: masks of boxes, and masks of everything.

Masks of everything are those of a grid of points: of three masks for each point those remain whose
estimated quality is high and that hardly change with the threshold (their *stability*); of masks
whose boxes overlap the best remains.

Source: arXiv:2304.02643, appendix B; facebookresearch/segment-anything, automatic_mask_generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pycocotools.mask import toBbox

from glamm_jax.data import rle
from glamm_jax.grand.adapters.torch_models.adapter import (
    NOT_FINITE,
    TransformersAdapter,
    arrays_of,
    clipped,
    image_size,
    in_range,
    is_finite,
    picture,
    share,
)
from glamm_jax.grand.geometry import suppress
from glamm_jax.grand.options import MergeOptions
from glamm_jax.grand.record import Box, Detection, RunLengths
from glamm_jax.grand.roles import Results, RoleError, RoleImage

MAX_PIXELS = 1 << 26  # of the masks that are enlarged at once


class _Embedded(NamedTuple):
    """An image that the encoder has seen.

    Attributes:
        features: what the mask decoder gets of it.
        scale: pixels of the network for each pixel of the image, of x and y.
        input_size: height and width in the network, without padding.
        size: height and width of the image.
    """

    features: dict[str, Any]
    scale: tuple[float, float]
    input_size: tuple[int, int]
    size: tuple[int, int]


@dataclass(eq=False, kw_only=True)
class SamModel(TransformersAdapter):
    """What the roles have in common.

    Attributes:
        prompts_per_call: number of boxes or points that the mask decoder gets at once.
    """

    batch_size: int = in_range(4, 1)
    prompts_per_call: int = in_range(64, 1)

    auto_class: ClassVar[str] = "AutoModelForMaskGeneration"
    only_types: ClassVar[tuple[str, ...]] = ("sam", "sam_hq")

    def embed(self, images: Sequence[RoleImage]) -> Iterator[tuple[int, _Embedded]]:
        """Yield place and features of each image."""
        encodings = [
            arrays_of(self._processor(images=picture(image), return_tensors="pt"))
            for image in images
        ]
        inputs = [{"pixel_values": encoding["pixel_values"]} for encoding in encodings]
        for places, arrays in self.batches(inputs, len(images)):
            outputs = self.run(self._network.vision_encoder, **arrays)
            for k, place in enumerate(places):
                features: dict[str, Any] = {"image_embeddings": outputs[0][k : k + 1]}
                if self._config.model_type == "sam_hq":
                    features["intermediate_embeddings"] = [
                        level[k : k + 1] for level in outputs.intermediate_embeddings
                    ]
                height, width = image_size(images[place])
                rows, columns = encodings[place]["reshaped_input_sizes"][0].tolist()
                scale = columns / width, rows / height
                yield place, _Embedded(features, scale, (rows, columns), (height, width))

    def decode(self, embedded: _Embedded, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits of low resolution (prompts, masks, h, w) and estimated IoUs."""
        outputs = self.run(self._network, **embedded.features, **prompts)
        return outputs.pred_masks[0].float(), outputs.iou_scores[0].float()

    def enlarge(self, logits: torch.Tensor, embedded: _Embedded) -> Iterator[torch.Tensor]:
        """Yield the logits of each mask at the size of the image, (h, w).

        Args:
            logits: of low resolution, (masks, h, w).
            embedded: the image.
        """
        pad = self._processor.image_processor.pad_size
        padded = (pad["height"], pad["width"])
        height, width = embedded.size
        rows, columns = embedded.input_size
        step = max(1, MAX_PIXELS // max(height * width, padded[0] * padded[1]))
        for at in range(0, len(logits), step):
            masks = torch.nn.functional.interpolate(
                logits[at : at + step, None], padded, mode="bilinear", align_corners=False
            )[..., :rows, :columns]
            yield from torch.nn.functional.interpolate(
                masks, embedded.size, mode="bilinear", align_corners=False
            )[:, 0]


@dataclass(eq=False, kw_only=True)
class TransformersSegmenter(SamModel):
    """A mask for each box."""

    model: str = "syscv-community/sam-hq-vit-huge"

    role: ClassVar[str] = "a segmenter"

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[RunLengths]]:
        """Return the mask of each box.

        Args:
            images: the batch.
            boxes: of each image.
        """
        return self.answer_usable(images, self._answer, boxes)

    def _answer(self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]) -> list[Any]:
        results: list[Any] = [[] for _ in images]
        needed = [i for i, group in enumerate(boxes) if group]
        if needed:
            for k, embedded in self.embed([images[i] for i in needed]):
                results[needed[k]] = self._masks(embedded, boxes[needed[k]])
        return results

    def _masks(self, embedded: _Embedded, boxes: Sequence[Box]) -> list[RunLengths] | RoleError:
        (x, y), masks = embedded.scale, []
        scaled = torch.tensor([clipped(box, embedded.size) for box in boxes])
        scaled = self.to_device(scaled * torch.tensor([x, y, x, y]))
        for part in scaled.split(self.prompts_per_call):
            logits, _ = self.decode(embedded, input_boxes=part[None], multimask_output=False)
            if not is_finite(logits):
                return NOT_FINITE
            masks += [
                rle.encode((mask > 0).cpu().numpy())
                for mask in self.enlarge(logits[:, 0], embedded)
            ]
        return masks


@dataclass(eq=False, kw_only=True)
class TransformersRegionProposer(SamModel):
    """Masks of everything, the best first.

    Attributes:
        points_per_side: of the grid.
        min_iou: smallest estimated IoU of a mask.
        min_stability: smallest IoU of the masks with a higher and a lower threshold.
        stability_offset: between the thresholds.
        nms_iou: a mask is dropped whose box overlaps that of a better one more.
    """

    model: str = "facebook/sam-vit-huge"
    batch_size: int = in_range(1, 1)
    points_per_side: int = in_range(32, 1, 256)
    min_iou: float = share(0.88)
    min_stability: float = share(0.95)
    stability_offset: float = in_range(1.0, 0.0)
    nms_iou: float = share(0.7)

    role: ClassVar[str] = "a region proposer"

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        """Return the regions of each image."""
        return self.answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[Any]:
        results: list[Any] = [None] * len(images)
        for place, embedded in self.embed(images):
            results[place] = self._regions(embedded)
        return results

    def _regions(self, embedded: _Embedded) -> list[Detection] | RoleError:
        height, width = embedded.size
        steps = (torch.arange(self.points_per_side) + 0.5) / self.points_per_side
        x, y = embedded.scale
        grid = torch.cartesian_prod(steps * height * y, steps * width * x).flip(1)
        regions: list[Detection] = []
        for part in self.to_device(grid).split(self.prompts_per_call):
            labels = torch.ones(1, len(part), 1, dtype=torch.long, device=part.device)
            logits, scores = self.decode(
                embedded, input_points=part[None, :, None], input_labels=labels
            )
            if not is_finite(logits, scores):
                return NOT_FINITE
            logits, scores = logits.flatten(0, 1), scores.flatten()
            is_good = scores >= self.min_iou
            for mask, score in zip(
                self.enlarge(logits[is_good], embedded), scores[is_good].tolist(), strict=True
            ):
                if self._stability(mask) >= self.min_stability and bool((mask > 0).any()):
                    regions.append(_region((mask > 0).cpu().numpy(), score))
        return suppress(regions, MergeOptions(min_score=0.0, nms_iou=self.nms_iou))

    def _stability(self, logits: torch.Tensor) -> float:
        smaller = (logits > self.stability_offset).sum().item()
        larger = (logits > -self.stability_offset).sum().item()
        return smaller / larger if larger else 0.0


def _region(mask: Any, score: float) -> Detection:
    runs = rle.encode(mask)
    compressed: Any = runs
    x, y, width, height = map(float, toBbox(compressed))
    return Detection((x, y, x + width, y + height), min(max(score, 0.0), 1.0), mask=runs)
