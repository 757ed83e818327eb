"""What every adapter of a model must do, as tests of a base class.

    @pytest.fixture(scope="module", params=[...])
    def case(request): return AdapterCase("detector", make, images)

    class TestDetectors(AdapterContract): ...

An adapter is called with items: images, or requests to a language model.
"""

from __future__ import annotations

import gc
import math
import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.images import image_stage, scan_images
from glamm_jax.grand.record import Detection
from glamm_jax.grand.roles import (
    LANDMARKS,
    Landmark,
    LLMAnswer,
    LLMRequest,
    RoleError,
    RoleImage,
    Tag,
)
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import Stage, StageGraph, StageImage

DETECTING = ("detector", "open_detector", "dense_captioner", "region_proposer", "region_classifier")
# The part of a detection that each role must fill in.
FILLED = {"dense_captioner": "description", "region_proposer": "mask"}
MAX_PICKLE = 200_000  # bytes of an adapter that has loaded its weights
NO_PIXELS = RoleImage("no pixels", np.zeros((0, 5, 3), np.uint8))


@dataclass(frozen=True, eq=False)
class AdapterCase:
    """An adapter and items that it can process.

    Attributes:
        role: name of the role, "detector".
        make: returns a new adapter, without its weights.
        items: at least three images or requests.
        columns: further inputs of a call, each with an element for every item.
        unusable: an item for which the adapter has an error of kind "input".
        tolerance: largest difference of numbers that may depend on the batch, relative to 1 or to
            the number if it is larger; for masks the share of pixels.
        limited: makes the model of an adapter raise the framework's error of memory for more items
            than a number; None: the adapter uses no memory that depends on the batch.
        allocated: bytes that the framework holds for the weights and arrays of all models; None:
            there is no such framework.
    """

    role: str
    make: Callable[[], Any]
    items: Sequence[RoleImage | LLMRequest]
    columns: Sequence[Sequence[Any]] = ()
    unusable: RoleImage | LLMRequest = NO_PIXELS
    tolerance: float = 0.0
    limited: Callable[[Any, int], AbstractContextManager[Any]] | None = None
    allocated: Callable[[], int] | None = None

    @cached_property
    def adapter(self) -> Any:
        """An adapter that is ready."""
        adapter = self.make()
        adapter.setup()
        return adapter

    @cached_property
    def results(self) -> list[Any]:
        """The results of all items in one call."""
        return self.adapter(list(self.items), *map(list, self.columns))

    def call(self, adapter: Any, places: Sequence[int]) -> list[Any]:
        """Call an adapter with some of the items."""
        columns = [[column[i] for i in places] for column in self.columns]
        return adapter([self.items[i] for i in places], *columns)


class AdapterContract:
    """The tests; the module of a subclass has a fixture `case`."""

    def test_it_has_what_a_role_has(self, case: AdapterCase) -> None:
        adapter = case.make()
        assert isinstance(adapter.name, str)
        assert adapter.name
        assert isinstance(adapter.fingerprint, str)
        assert isinstance(adapter.needs_device, bool)
        assert adapter.fingerprint == case.make().fingerprint
        if hasattr(adapter, "batch_size"):
            assert adapter.batch_size >= 1

    def test_results_are_valid(self, case: AdapterCase) -> None:
        assert len(case.results) == len(case.items) >= 3
        for i, (item, result) in enumerate(zip(case.items, case.results, strict=True)):
            assert not isinstance(result, RoleError), result.message
            check_result(case.role, result, item, [column[i] for column in case.columns])

    def test_results_are_in_the_order_of_the_items(self, case: AdapterCase) -> None:
        places = list(range(len(case.items)))[::-1]
        check_same(case.call(case.adapter, places)[::-1], case.results, case.tolerance)

    def test_without_items_there_are_no_results(self, case: AdapterCase) -> None:
        assert case.call(case.adapter, []) == []

    def test_a_batch_of_one_equals_a_batch_of_many(self, case: AdapterCase) -> None:
        alone = [case.call(case.adapter, [i])[0] for i in range(len(case.items))]
        check_same(alone, case.results, case.tolerance)

    def test_an_unusable_item_is_one_error(self, case: AdapterCase) -> None:
        items = list(case.items)
        items[1] = case.unusable
        results = case.adapter(items, *map(list, case.columns))
        assert isinstance(results[1], RoleError)
        assert results[1].kind == "input"
        assert results[1].message.strip()
        assert "\n" not in results[1].message
        others = [i for i in range(len(items)) if i != 1]
        check_same([results[i] for i in others], [case.results[i] for i in others], case.tolerance)

    def test_it_can_be_sent_to_another_process(self, case: AdapterCase) -> None:
        content = pickle.dumps(case.adapter)
        assert len(content) < MAX_PICKLE
        copy = pickle.loads(content)
        assert (copy.name, copy.fingerprint) == (case.adapter.name, case.adapter.fingerprint)
        copy.setup()
        check_same(case.call(copy, [0]), case.results[:1], case.tolerance)

    def test_memory_is_released(self, case: AdapterCase) -> None:
        if case.allocated is None:
            assert not case.make().needs_device
            return
        gc.collect()
        gc.freeze()  # what exists already need not be searched
        try:
            self._check_memory(case, case.allocated)
        finally:
            gc.unfreeze()

    def _check_memory(self, case: AdapterCase, allocated: Callable[[], int]) -> None:
        places = range(len(case.items))
        before = _after_collection(allocated)
        adapter = case.make()
        adapter.setup()
        loaded = _after_collection(allocated)
        assert loaded > before
        for _ in range(2):  # results hold no arrays of the device either
            results = case.call(adapter, places)
            assert _after_collection(allocated) == loaded
            del results
        del adapter
        assert _after_collection(allocated) == before

    def test_a_batch_that_does_not_fit_the_memory_is_halved(
        self, case: AdapterCase, tmp_path: Path
    ) -> None:
        if case.limited is None:
            assert not case.make().needs_device
            return
        (tmp_path / "photos").mkdir()
        for i in range(len(case.items)):
            Image.new("RGB", (32, 32)).save(tmp_path / "photos" / f"{i}.png")
        run = AnnotationRun.create(
            tmp_path / "run", scan_images(tmp_path / "photos"), tmp_path / "photos"
        )
        sizes: list[int] = []
        results: dict[int, Any] = {}
        with case.limited(case.adapter, 1):
            process = partial(_answer, case, sizes, results)
            stage = Stage(name="role", inputs=("image",), process=process, batch_size=2)
            run_local(run, StageGraph([image_stage(), stage]), processes=1)
        assert sizes[0] == 2
        assert 1 in sizes
        check_same([results.get(i) for i in range(len(results))], case.results, case.tolerance)


def _answer(
    case: AdapterCase, sizes: list[int], results: dict[int, Any], images: Sequence[StageImage]
) -> list[Any]:
    """The process of a stage: the adapter gets the items whose numbers the images have."""
    places = [int(image.image_id.partition(".")[0]) for image in images]
    sizes.append(len(places))
    answers = case.call(case.adapter, places)
    results.update(zip(places, answers, strict=True))
    return [x if isinstance(x, RoleError) else {"done": True} for x in answers]


def _after_collection(allocated: Callable[[], int]) -> int:
    gc.collect()
    return allocated()


def check_same(first: Any, second: Any, tolerance: float) -> None:
    """Compare results.

    Args:
        first: a list of results, or a part of one.
        second: the same.
        tolerance: as of `AdapterCase`.
    """
    assert type(first) is type(second)
    if isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        scale = max(1.0, float(np.abs(second).max(initial=0.0)))
        assert float(np.abs(first - second).max(initial=0.0)) <= tolerance * scale
    elif isinstance(first, float):
        assert abs(first - second) <= tolerance * max(1.0, abs(second)), (first, second)
    elif isinstance(first, dict) and "counts" in first:
        assert first["size"] == second["size"]
        if first != second:
            assert (rle.decode(first) != rle.decode(second)).mean() <= tolerance
    elif isinstance(first, Detection):
        for name in ("box", "score", "label", "description", "mask"):
            check_same(getattr(first, name), getattr(second, name), tolerance)
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), (first, second)
        for one, other in zip(first, second, strict=True):
            check_same(one, other, tolerance)
    else:
        assert first == second


def check_result(role: str, result: Any, item: Any, inputs: Sequence[Any]) -> None:
    """Check a result of a role.

    Args:
        role: its name.
        result: no error.
        item: that it belongs to.
        inputs: what else the role got for this item.
    """
    size = (0, 0) if isinstance(item, LLMRequest) else item.pixels.shape[:2]
    if role in DETECTING:
        _check_detections(result, size, FILLED.get(role, "label"))
        if role == "open_detector":
            assert {detection.label for detection in result} <= set(inputs[0])
        if role == "region_classifier":
            assert [detection.box for detection in result] == [tuple(box) for box in inputs[0]]
    elif role == "phrase_grounder":
        assert len(result) == len(inputs[0])
        for detections in result:
            _check_detections(detections, size, "")
    elif role == "segmenter":
        assert len(result) == len(inputs[0])
        for mask in result:
            assert rle.decode(mask).shape == size
    elif role == "depth_estimator":
        assert isinstance(result, np.ndarray)
        assert (result.dtype, result.shape) == (np.float32, size)
        assert np.isfinite(result).all()
    elif role == "landmark_classifier":
        assert isinstance(result, Landmark)
        assert result.fine_category in LANDMARKS[result.category]
    elif role in ("tagger", "label_chooser"):
        for tag in result:
            assert isinstance(tag, Tag)
            assert 0.0 <= tag.score <= 1.0
        if role == "label_chooser":
            for tag, question in zip(result, inputs[0], strict=True):
                assert tag.text in question.labels
    elif role == "captioner":
        assert isinstance(result, str)
        assert result == result.strip() != ""
    elif role == "region_captioner":
        assert len(result) == len(inputs[0])
        assert all(isinstance(text, str) and text == text.strip() for text in result)
    elif role == "llm":
        assert isinstance(result, LLMAnswer)
        assert result.finish_reason in ("stop", "length")
    else:
        raise AssertionError(f"no such role: {role}")


def _check_detections(detections: Any, size: tuple[int, int], filled: str) -> None:
    assert isinstance(detections, list)
    height, width = size
    for detection in detections:
        assert isinstance(detection, Detection)
        x0, y0, x1, y1 = detection.box
        assert all(isinstance(value, float) and math.isfinite(value) for value in detection.box)
        assert 0.0 <= x0 <= x1 <= width
        assert 0.0 <= y0 <= y1 <= height
        assert 0.0 <= detection.score <= 1.0
        if filled:
            assert getattr(detection, filled) is not None
        if detection.mask is not None:
            assert rle.decode(detection.mask).shape == size
