"""Detectors in ONNX and TFLite files.

detector = ONNXDetector("nanodet.toml", "nanodet")
detector.setup()
detector([RoleImage("a.jpg", pixels)])[0][0].label      # "dog"
"""

from __future__ import annotations

from collections.abc import Sequence

from glamm_jax.grand.adapters.onnx_models.decoding import Outputs, decode_boxes
from glamm_jax.grand.adapters.onnx_models.described_model import DescribedModel
from glamm_jax.grand.adapters.onnx_models.images import PreparedImage
from glamm_jax.grand.adapters.onnx_models.mask import mask_regions
from glamm_jax.grand.record import Detection
from glamm_jax.grand.roles import Results, RoleImage


class ONNXDetector(DescribedModel):
    """A detector with a fixed list of classes; arguments as of `DescribedModel`.

    With the decoding "mask" its detections are the regions of a mask, and have masks.
    """

    decodings = ("boxes", "detr", "ssd", "dfl", "mask")

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        return self.answer_each(images)

    def answer(self, outputs: Outputs, image: PreparedImage) -> list[Detection]:
        """Return the detections of one image, the highest score (of masks: the largest) first.

        Boxes without a pixel of the photograph and classes without a name are left out.

        Args:
            outputs: of the model.
            image: its input.
        """
        if self.description.output.decoding == "mask":
            return mask_regions(outputs, self.description, image)
        raw = decode_boxes(outputs, self.description, image.input_size)
        boxes = image.to_image(raw.boxes).tolist()
        detections = []
        for (x0, y0, x1, y1), score, label in zip(
            boxes, raw.scores.tolist(), raw.labels.tolist(), strict=True
        ):
            name = self.description.classes[label]
            if name and x0 < x1 and y0 < y1:
                detections.append(Detection((x0, y0, x1, y1), score, name))
        return detections
