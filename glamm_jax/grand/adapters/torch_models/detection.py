"""Detectors with a fixed list of classes: RT-DETR, D-FINE, DETR and their like.

Source: the documentation of transformers, `AutoModelForObjectDetection`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from glamm_jax.errors import ConfigError
from glamm_jax.grand.adapters.torch_models.adapter import (
    NOT_FINITE,
    TransformersAdapter,
    detections_of,
    image_size,
    is_finite,
    share,
)
from glamm_jax.grand.record import Detection
from glamm_jax.grand.roles import Results, RoleImage

NO_CLASS = "N/A"  # of the numbers that COCO does not use
_UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls classes without names


@dataclass(eq=False, kw_only=True)
class TransformersDetector(TransformersAdapter):
    """Boxes of the classes that a model was trained with.

    Attributes:
        threshold: smallest score of a detection.
        labels: names of all classes; empty: those of the model's configuration.
    """

    model: str = "ustc-community/dfine-xlarge-coco"
    threshold: float = share(0.05)
    labels: Sequence[str] = ()

    role: ClassVar[str] = "a detector"
    auto_class: ClassVar[str] = "AutoModelForObjectDetection"
    processor_class: ClassVar[str] = "AutoImageProcessor"

    def _prepare(self) -> None:
        if not hasattr(self._processor, "post_process_object_detection"):
            raise ConfigError(f"{self.model}: its image processor is none for detection")
        names = {int(key): str(value) for key, value in self._config.id2label.items()}
        if self.labels:
            if len(self.labels) != len(names):
                raise ConfigError(
                    f"{self.model}: has {len(names)} classes, and labels names {len(self.labels)}"
                )
            names = dict(enumerate(self.labels))
        if all(_UNNAMED.fullmatch(value) for value in names.values()):
            raise ConfigError(
                f"{self.model}: the configuration does not name the {len(names)} classes; list "
                "their names as labels"
            )
        self._names = names

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        """Return the detections of each image, the highest score first."""
        return self.answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[Any]:
        results: list[Any] = [None] * len(images)
        inputs = [self.image_inputs(image) for image in images]
        for places, arrays in self.batches(inputs, len(images)):
            outputs = self.run(self._network, **arrays)
            outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
            sizes = [image_size(images[i]) for i in places]
            rows = self._processor.post_process_object_detection(
                outputs, threshold=self.threshold, target_sizes=sizes
            )
            for k, place in enumerate(places):
                finite = is_finite(outputs.logits[k], outputs.pred_boxes[k])
                results[place] = self._detections(rows[k], sizes[k]) if finite else NOT_FINITE
        return results

    def _detections(self, row: Any, size: tuple[int, int]) -> list[Detection]:
        names = [self._names.get(label, NO_CLASS) for label in row["labels"].tolist()]
        rows = zip(row["boxes"].tolist(), row["scores"].tolist(), names, strict=True)
        return detections_of([item for item in rows if item[2] != NO_CLASS], size)
