"""The files of an answer."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from PIL import Image

from glamm_jax.app.downloads import write_files
from glamm_jax.data import rle
from tests.app.answers import HEIGHT, LEFT, WIDTH, conversation, grounding


def test_the_files_are_those_of_the_answer(tmp_path: Path) -> None:
    text = "A dog runs."
    answer = conversation((text, [grounding(text, "A dog", LEFT)])).last_answer()
    files = write_files(answer, tmp_path)
    assert [path.name for path in files] == ["answer.png", "answer.json", "answer.svg"]
    saved = json.loads(files.json.read_text())
    assert saved == answer.to_json()
    np.testing.assert_array_equal(rle.decode(saved["groundings"][0]["mask"]), LEFT)
    with Image.open(files.png) as image:
        assert image.width >= WIDTH
        assert image.height > HEIGHT
    assert ElementTree.parse(files.svg).getroot().tag.endswith("svg")
    assert write_files(answer, tmp_path) == files  # replaces them
