"""The file of decisions: order, undo, conflicts, torn and hostile lines."""

from __future__ import annotations

import errno
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from glamm_jax.grand.review.correction import Correction
from glamm_jax.grand.review.decisions import (
    Action,
    DecisionConflictError,
    DecisionError,
    DecisionLog,
    DecisionRequest,
)

RECORD, OTHER = "a" * 64, "b" * 64


def request(
    image: str = "dog.jpg", base: int = 0, author: str = "ann", action: Action = "approve", **fields
) -> DecisionRequest:
    return DecisionRequest(image, base, author, action, fields.pop("record", RECORD), **fields)


def new_log(folder: Path) -> DecisionLog:
    return DecisionLog(epath.Path(folder))


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "review" / "decisions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_decisions_of_two_authors_are_in_their_order(tmp_path: Path) -> None:
    ann, bob = new_log(tmp_path), new_log(tmp_path)
    ann.append(request(), lambda: datetime(2026, 11, 30, 2, 12, 5, 123, UTC))
    bob.append(request("cat.jpg", author="bob", action="discard"))
    bob.append(request(base=1, author="bob", action="discard"))
    ann.append(request("cat.jpg", base=1, action="undo"))
    assert [
        (x["sequence"], x["image"], x["base"], x["author"], x["action"]) for x in lines(tmp_path)
    ] == [
        (1, "dog.jpg", 0, "ann", "approve"),
        (2, "cat.jpg", 0, "bob", "discard"),
        (3, "dog.jpg", 1, "bob", "discard"),
        (4, "cat.jpg", 1, "ann", "undo"),
    ]
    assert lines(tmp_path)[0]["time"] == "2026-11-30T02:12:05Z"
    for log in (bob, new_log(tmp_path)):
        log.refresh()
        review = log.review("dog.jpg", RECORD)
        assert review is not None
        assert (review.state, review.authors, review.decisions) == ("discarded", ("ann", "bob"), 2)
        assert log.review("cat.jpg", RECORD) is None


def test_undo_takes_back_one_decision_after_the_other(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    first, second = Correction(removed=(1,)), Correction(removed=(2,))
    log.append(request(action="correct", correction=first))
    log.append(request(base=1, action="correct", correction=second))
    log.append(request(base=2, action="discard"))
    states = []
    for base in (3, 4, 5):
        review = log.review("dog.jpg", RECORD)
        states.append((review and review.state, log.correction("dog.jpg", RECORD)))
        log.append(request(base=base, action="undo"))
    assert states == [("discarded", second), ("corrected", second), ("corrected", first)]
    assert log.review("dog.jpg", RECORD) is None
    assert log.correction("dog.jpg", RECORD) is None
    with pytest.raises(DecisionConflictError, match="no decision about this image to undo"):
        log.append(request(base=6, action="undo"))


def test_who_did_not_see_the_last_decision_is_refused_by_name(tmp_path: Path) -> None:
    ann, bob = new_log(tmp_path), new_log(tmp_path)
    bob.append(request(author="bob", action="correct", correction=Correction(removed=(1,))))
    before = lines(tmp_path)
    with pytest.raises(DecisionConflictError, match=r"bob corrected it at 20.*nothing was saved"):
        ann.append(request())
    assert lines(tmp_path) == before
    ann.append(request(base=1))
    assert ann.correction("dog.jpg", RECORD) == Correction(removed=(1,))


def test_decisions_about_another_record_do_not_apply_and_return_with_it(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    log.append(request(action="discard"))
    review = log.review("dog.jpg", OTHER)
    assert review is not None
    assert review.state == "outdated"
    log.append(request(base=1, record=OTHER))
    for record, state in ((RECORD, "discarded"), (OTHER, "approved")):
        review = log.review("dog.jpg", record)
        assert review is not None
        assert review.state == state


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def work(name: str) -> None:
        log = new_log(tmp_path)
        for i in range(10):
            log.append(request(f"{name}-{i}.jpg", author=name))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [x["sequence"] for x in lines(tmp_path)] == list(range(1, 31))
    assert len({x["image"] for x in lines(tmp_path)}) == 30


@pytest.mark.parametrize("size", [1, 40, -1])
def test_a_torn_last_line_is_ignored_and_removed(tmp_path: Path, size: int) -> None:
    new_log(tmp_path).append(request())
    path = tmp_path / "review" / "decisions.jsonl"
    complete = path.read_bytes()
    path.write_bytes(complete + complete.replace(b"dog", b"cat")[:size])
    log = new_log(tmp_path)
    assert (len(log), log.removed_bytes) == (1, 0)
    log.append(request("cat.jpg"))
    assert log.removed_bytes == size % len(complete)
    assert [x["image"] for x in lines(tmp_path)] == ["dog.jpg", "cat.jpg"]


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log(tmp_path)
    log.append(request())
    before = (tmp_path / "review" / "decisions.jsonl").read_bytes()

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DecisionError, match="No space left on device; nothing was saved"):
        log.append(request("cat.jpg"))
    monkeypatch.undo()
    assert (tmp_path / "review" / "decisions.jsonl").read_bytes() == before
    log.append(request("cat.jpg"))
    assert len(new_log(tmp_path)) == 2


GOOD = {
    "schema": 1,
    "sequence": 1,
    "image": "dog.jpg",
    "base": 0,
    "record": RECORD,
    "author": "ann",
    "time": "2026-11-30T02:12:05Z",
    "action": "approve",
}
PHRASE = {"start": 0, "end": 3, "ids": [1]}


def corrected(**correction: Any) -> dict[str, Any]:
    return {**GOOD, "action": "correct", "correction": correction}


def box(**fields: Any) -> dict[str, Any]:
    return corrected(objects=[{"id": 0, "box": [0, 0, 5, 5], "label": "dog", **fields}])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ("[]", r"line 1: \[\] is not an object"),
        ({**GOOD, "schema": 2}, "schema = 2: at most 1"),
        ({**GOOD, "sequence": 7}, "sequence = 7: at most 1"),
        ({**GOOD, "base": 3}, "base = 3, but there are 0 earlier decisions"),
        ({**GOOD, "base": True}, "base = True is not a whole number"),
        ({**GOOD, "action": "delete"}, "'delete' is not one of approve, discard, correct, undo"),
        ({**GOOD, "action": "undo"}, "line 1: there is nothing to undo"),
        ({**GOOD, "time": "yesterday"}, "'yesterday' is not a time in UTC"),
        ({**GOOD, "time": "2026-02-31T00:00:00Z"}, "line 1: time: day is out of range"),
        ({**GOOD, "author": " "}, "author = ' ' is not a name"),
        ({**GOOD, "author": "a\nb"}, "is not a name"),
        ({**GOOD, "author": "x" * 81}, "81 characters; at most 80"),
        ({**GOOD, "record": "../../etc/passwd"}, "is not a sha256"),
        ({**GOOD, "image": 3}, "image = 3 is not a text"),
        ({**GOOD, "image": "\ud800"}, "half of a surrogate pair"),
        ({**GOOD, "extra": 1}, "no key 'extra'"),
        ({**GOOD, "correction": {}}, "'approve' has a correction"),
        ({**GOOD, "action": "correct"}, "'correct' has no correction"),
        (corrected(objects=3), "objects = 3 is not a list"),
        (corrected(removed=[1, 1]), "removed: an id is repeated"),
        (corrected(removed=[-1]), "-1 is not the id of an object"),
        (box(box=[0, 0, 5]), "is not .x0, y0, x1, y1."),
        (box(box=[0, 0, 0, 5]), "has no area"),
        (box(box=[0, 0, 1e999, 5]), "is not finite"),
        (box(id=1 << 40), "id = 1099511627776: at most"),
        (box(mask={"size": [2, 2], "counts": [3]}), "the runs cover 3 pixels"),
        (box(mask={"size": [10**9, 10**9], "counts": [1]}), "pixels; at most"),
        (box(label=["x"]), "is not a text"),
        (corrected(dense_caption={"caption": "dog"}), None),
        (
            corrected(dense_caption={"caption": "dog", "phrases": [{**PHRASE, "end": 4}]}),
            "start = 0, end = 4 are not the characters of a phrase; the caption has 3",
        ),
        (
            corrected(dense_caption={"caption": "dog", "phrases": [{**PHRASE, "ids": []}]}),
            "a phrase names at least one object",
        ),
        (
            corrected(dense_caption={"caption": "dog", "phrases": [PHRASE, PHRASE]}),
            "two phrases have the same characters",
        ),
    ],
)
def test_a_line_that_is_no_decision_is_refused_by_name(
    tmp_path: Path, line: Any, message: str | None
) -> None:
    path = tmp_path / "review" / "decisions.jsonl"
    path.parent.mkdir()
    path.write_text((line if isinstance(line, str) else json.dumps(line)) + "\n")
    if message is None:
        assert len(new_log(tmp_path)) == 1
        return
    with pytest.raises(DecisionError, match=message) as caught:
        new_log(tmp_path)
    assert str(caught.value).startswith(f"{path}: line 1")


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    log.append(request())
    (tmp_path / "review" / "decisions.jsonl").write_bytes(b"")
    with pytest.raises(DecisionError, match="became shorter"):
        log.refresh()
