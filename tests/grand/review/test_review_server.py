"""The requests of the review page: what is answered, and what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.grand.review.segmenting import BoxSegmenter, SegmentationError
from glamm_jax.grand.review.server import FILES, PAGE
from glamm_jax.grand.run_folder import AnnotationRun
from tests.grand.review.conftest import ROLES, ROOT
from tests.grand.review.desk import content
from tests.grand.review.serving import ReviewClient, review_server

NAME = "scene_000000.png"


@pytest.fixture
def client(review_run: AnnotationRun) -> Iterator[ReviewClient]:
    with review_server(review_run) as running:
        yield running


@pytest.fixture(scope="module")
def unchanged(
    annotated_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReviewClient]:
    """The page of a run about which nothing is decided."""
    folder = tmp_path_factory.mktemp("unchanged") / "run"
    shutil.copytree(annotated_folder, folder)
    with review_server(AnnotationRun.open(folder)) as running:
        yield running
        assert running.decisions() == []


def image_of(client: ReviewClient, name: str = NAME) -> dict[str, Any]:
    status, _, data = client.send("GET", f"/api/image?{urlencode({'image': name})}")
    assert status == 200, data
    return data


def decision(data: dict[str, Any], action: str, **fields: Any) -> dict[str, Any]:
    known = {name: data[name] for name in ("image", "base", "record")}
    return {**known, "author": "ann", "action": action, **fields}


def test_the_page_is_complete_and_loads_nothing_from_elsewhere(unchanged: ReviewClient) -> None:
    for path in FILES:
        status, headers, body = unchanged.send("GET", path)
        assert status == 200
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert {path.name for path in PAGE.iterdir()} == {name for name, _ in FILES.values()}
    text = "".join(path.read_text() for path in PAGE.glob("*.js"))
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert name not in text


def test_an_image_its_pixels_and_the_state_of_the_run(unchanged: ReviewClient) -> None:
    status, _, run = unchanged.send("GET", "/api/run")
    assert (status, run["images"], run["read"], run["author"]) == (200, 6, 6, "ann")
    assert run["counts"]["unreviewed"] == 6
    data = image_of(unchanged)
    assert data["objects"][0]["outline"]["path"].startswith("M")
    assert data["dense_caption"]["phrases"]
    status, headers, body = unchanged.send("GET", f"/api/pixels?image={quote(NAME)}")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(body)).size == (data["width"], data["height"])


def test_a_correction_is_saved_relative_to_the_automatic_record(client: ReviewClient) -> None:
    data = image_of(client)
    value = content(data)
    value["objects"][0]["label"] = "renamed"
    status, _, result = client.send("POST", "/api/decide", decision(data, "correct", content=value))
    assert (status, result["base"]) == (200, 1)
    (line,) = client.decisions()
    assert list(line["correction"]) == ["objects"]
    assert [x["id"] for x in line["correction"]["objects"]] == [value["objects"][0]["id"]]
    # The next one has the earlier correction too; changed back, nothing is left of it.
    original = data["objects"][0]["label"]
    data = image_of(client)
    value = content(data)
    client.send("POST", "/api/decide", decision(data, "correct", content=value))
    assert client.decisions()[1]["correction"] == line["correction"]
    data = image_of(client)
    value["objects"][0]["label"] = original
    client.send("POST", "/api/decide", decision(data, "correct", content=value))
    assert client.decisions()[2]["correction"] == {}
    data = image_of(client, "scene_000001.png")
    status, _, result = client.send(
        "POST", "/api/decide", decision(data, "correct", content=content(data))
    )
    assert (status, result["action"]) == (200, "approve")


def test_the_second_of_two_reviewers_is_refused(client: ReviewClient) -> None:
    data = image_of(client)
    assert client.send("POST", "/api/decide", decision(data, "discard", author="bob"))[0] == 200
    status, _, answer = client.send("POST", "/api/decide", decision(data, "approve"))
    assert status == 409
    assert answer["error"].startswith("bob discarded it at 20")
    value = content(data)
    value["objects"].clear()
    body = decision(data, "correct", content=value)
    assert client.send("POST", "/api/decide", body)[0] == 409
    body = {**decision(image_of(client), "approve"), "record": "0" * 64}
    status, _, answer = client.send("POST", "/api/decide", body)
    assert status == 409
    assert "annotated again" in answer["error"]
    assert len(client.decisions()) == 1


def test_the_mask_of_a_box(unchanged: ReviewClient) -> None:
    box = image_of(unchanged)["objects"][0]["box"]
    status, _, answer = unchanged.send("POST", "/api/mask", {"image": NAME, "box": box})
    assert status == 200
    mask = rle.decode(answer["mask"])
    assert mask.any()
    assert answer["mask_source"] == "segmenter"
    assert answer["outline"]["path"]
    status, _, answer = unchanged.send("POST", "/api/mask", {"image": NAME, "box": [0, 0, 500, 5]})
    assert (status, answer["error"]) == (400, "the box is not in the image")


def test_without_a_segmenter_the_answer_says_what_to_do(review_run: AnnotationRun) -> None:
    with review_server(review_run, has_segmenter=False) as client:
        assert client.send("GET", "/api/run")[2]["segmenter"] is None
        body = {"image": NAME, "box": [0, 0, 5, 5]}
        status, _, answer = client.send("POST", "/api/mask", body)
        assert status == 400
        assert "start the review with --roles" in answer["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example.org"},
        {"Host": "127.0.0.1:1"},
        {"Host": ""},
        {"Origin": "http://evil.example.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_of_other_pages_and_names_are_refused(
    unchanged: ReviewClient, headers: dict[str, str]
) -> None:
    body = decision(image_of(unchanged), "discard")
    for method, path, sent in (
        ("GET", "/api/run", None),
        ("GET", "/review.js", None),
        ("POST", "/api/decide", body),
    ):
        status, _, answer = unchanged.send(method, path, sent, headers)
        assert (status, list(answer)) == (403, ["error"])
    assert unchanged.decisions() == []


def test_names_of_the_server_and_links_to_the_page_are_answered(unchanged: ReviewClient) -> None:
    for host in (f"localhost:{unchanged.port}", f"[::1]:{unchanged.port}", "review.example.org"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert unchanged.send("GET", "/api/run", headers=headers)[0] == 200
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert unchanged.send("GET", "/", headers=visit)[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not valid JSON"),
        ([], 400, "is not an object"),
        ({"action": "delete"}, 400, "'delete' is no decision"),
        ({"author": ""}, 400, "is not a name"),
        ({"author": "a\tb"}, 400, "is not a name"),
        ({"base": -1}, 400, "at least 0"),
        ({"base": 9}, 409, "there are only 0 decisions"),
        ({"image": "../../etc/passwd"}, 404, "the run has no image '../../etc/passwd'"),
        ({"action": "undo"}, 409, "no decision about this image to undo"),
        ({"action": "correct"}, 400, "no field 'content'"),
        ({"action": "correct", "content": {"objects": [{"id": 0}]}}, 400, "no field 'box'"),
        ({"surplus": 1}, 400, "no key 'surplus'"),
    ],
)
def test_a_bad_decision_is_refused_and_not_saved(
    unchanged: ReviewClient, body: Any, status: int, message: str
) -> None:
    if isinstance(body, dict):
        body = {**decision(image_of(unchanged), "approve"), **body}
    answered, _, answer = unchanged.send("POST", "/api/decide", body)
    assert answered == status
    assert message in answer["error"]
    assert unchanged.decisions() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["objects"][0].update(box=[0, 0, 500, 5]), "not in the image of 128 x 128"),
        (lambda v: v["objects"][0].update(mask=99), "there is no object 99 to have its mask"),
        (lambda v: v["objects"].append(dict(v["objects"][0])), "an id is repeated"),
        (lambda v: v["dense_caption"]["phrases"][0].update(ids=[99]), "which does not exist"),
        (lambda v: v["short_captions"].pop(), "short captions in the correction"),
        (lambda v: v["dense_caption"].update(caption="x"), "are not the characters of a phrase"),
    ],
)
def test_a_correction_that_does_not_fit_is_not_saved(
    unchanged: ReviewClient, change: Any, message: str
) -> None:
    data = image_of(unchanged)
    value = content(data)
    change(value)
    status, _, answer = unchanged.send(
        "POST", "/api/decide", decision(data, "correct", content=value)
    )
    assert status == 400
    assert message in answer["error"]
    assert unchanged.decisions() == []


def test_other_requests_are_refused(unchanged: ReviewClient) -> None:
    plain = {"Content-Type": "text/plain"}
    assert unchanged.send("POST", "/api/decide", b"{}", plain)[0] == 400
    assert unchanged.send("GET", "/api/decide")[0] == 405
    assert unchanged.send("GET", "/../pyproject.toml")[0] == 404
    assert unchanged.send("GET", "/api/image?image=nothing.png")[0] == 404
    assert unchanged.send("GET", "/api/pixels?image=%2Fetc%2Fpasswd")[0] == 404
    assert unchanged.send("GET", "/api/list?state=all&offset=-1&limit=2")[0] == 400
    assert unchanged.send("GET", "/api/next?state=nothing")[0] == 400


def test_a_segmenter_that_fails_gives_a_message() -> None:
    class Failing:
        name, fingerprint, needs_device = "failing", "1", False
        result: Any = None

        def setup(self) -> None:
            pass

        def __call__(self, images: Any, boxes: Any) -> Any:
            if isinstance(self.result, Exception):
                raise self.result
            return self.result

    role = Failing()
    segmenter = BoxSegmenter(role)
    empty = rle.encode(np.zeros((8, 8), bool))
    for result, message in (
        (RuntimeError("no memory"), "failing: RuntimeError: no memory"),
        ([[empty]], "failing found nothing in this box"),
        ([[]], "failing: not enough values"),
        ([[{"size": [4, 4], "counts": [16]}]], "a mask of 8 x 8 is due, got 4 x 4"),
        ([["x"]], "failing: a mask is due"),
    ):
        role.result = result
        with pytest.raises(SegmentationError, match=message):
            segmenter.mask("x", np.zeros((8, 8, 3), np.uint8), (0.0, 0.0, 5.0, 5.0))


def test_the_program_serves_the_page_and_ends_at_a_signal(review_run: AnnotationRun) -> None:
    options = ("--port", "0", "--roles", str(ROLES / "oracle.toml"), "--author", "eve")
    command = [sys.executable, "-m", "glamm_jax", "annotate", "review", str(review_run.path)]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[0].endswith(": 6 images\n")
        assert lines[1].startswith("review at http://127.0.0.1:")
        port = int(lines[1].rstrip("/\n").rpartition(":")[2])
        client = ReviewClient(port, review_run)
        assert client.send("GET", "/api/run")[2]["author"] == "eve"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "", "")
    finally:
        process.kill()
        process.wait()


def test_unusable_input_is_one_line(
    review_run: AnnotationRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from glamm_jax.cli.annotate import main

    roles = tmp_path / "roles.toml"
    roles.write_text('[llm]\nclass = "oracle"\n')
    run = str(review_run.path)
    for arguments, message in (
        ([str(tmp_path)], "not the folder of a run"),
        ([run, "--roles", str(roles)], "has no [segmenter]"),
        ([run, "--roles", str(tmp_path / "none.toml")], "no such file"),
        ([run, "--host", "203.0.113.1"], "Cannot assign requested address"),
        ([run, "--author", " "], "--author ' ' is not a name"),
    ):
        assert main(["review", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert json.loads((Path(run) / "manifest.json").read_text())["num_images"] == 6
