"""Pickles give plain data or an error, and no code from them is executed."""

from __future__ import annotations

import contextlib
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.data.sources.safe_pickle import PickleError, load_plain
from tests.data.sources.small_datasets import FIXTURES

REFS = (FIXTURES / "Refer_Segm" / "refcoco" / "refs(unc).p").read_bytes()
DATA = [{"ref_id": 7, "sent": "caf\u00e9", "ids": [1, 2.5, None, True, 10**30], "box": (1, 2)}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol_is_read(protocol):
    assert load_plain(pickle.dumps(DATA, protocol)) == DATA


def test_texts_of_python_2_are_read_as_utf_8():
    assert load_plain(b"]q\x00U\x05caf\xc3\xa9q\x01a.") == ["caf\u00e9"]
    assert load_plain(b"]q\x00U\x04caf\xe9q\x01a.") == ["caf\u00e9"]
    assert load_plain(b"(lp0\nS'caf\\xe9 \\x92s'\np1\na.") == ["caf\u00e9 \u2019s"]
    assert load_plain(b"(dp0\nS'sent'\np1\nS'na\xc3\xafve'\np2\ns.") == {"sent": "na\u00efve"}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["<i8", ">i4", "<u2", "<f8", "?"])
def test_numbers_of_numpy_become_numbers(protocol, kind):
    values = list(np.array([1, 200], kind))
    read = load_plain(pickle.dumps({"ann_id": values, "again": values}, protocol))
    assert read == {"ann_id": [x.item() for x in values], "again": [x.item() for x in values]}
    assert {type(x) for x in read["ann_id"]} == {type(values[0].item())}


def test_numbers_of_numpy_that_python_2_wrote_are_read():
    data = (
        b"cnumpy.core.multiarray\nscalar\np0\n(cnumpy\ndtype\np1\n(S'i8'\np2\nI0\nI1\ntp3\nRp4\n"
        b"(I3\nS'<'\np5\nNNNI-1\nI-1\nI0\ntp6\nbS'\\xc3\\xa9\\x00\\x00\\x00\\x00\\x00\\x00'\np7\n"
        b"tp8\nRp9\n."
    )
    assert load_plain(data) == 0xA9C3


@pytest.mark.parametrize(
    "value", [np.arange(3), np.str_("x"), np.datetime64("2020"), np.dtype("O")]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_values_of_numpy_are_refused_with_the_remedy(value, protocol):
    with pytest.raises(PickleError, match=r"refused: "):
        load_plain(pickle.dumps([value], protocol))


def test_a_value_that_contains_itself_and_one_that_is_shared_often_are_read_at_once():
    loop: list = []
    loop.append(loop)
    read = load_plain(pickle.dumps(loop))
    assert read[0] is read
    shared: list = [b"x"]
    for _ in range(60):
        shared = [shared, shared]
    assert load_plain(pickle.dumps(shared))[0] is not None


class Call:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_wants_to_call_something_is_refused_and_nothing_happens(tmp_path, protocol):
    target = tmp_path / "made"
    with pytest.raises(PickleError, match="contains more than plain data"):
        load_plain(pickle.dumps([DATA, Call(str(target))], protocol))
    assert not target.exists()


@pytest.mark.parametrize(
    "value", [{1, 2}, bytearray(b"x"), Call, 1j, pickle.PickleBuffer], ids=repr
)
def test_whatever_is_more_than_plain_data_is_refused(value):
    with pytest.raises(PickleError, match="contains more than plain data"):
        load_plain(pickle.dumps(value))


def test_a_pickle_that_asks_for_gigabytes_is_refused():
    with pytest.raises(PickleError, match="a memo index is larger than the file"):
        load_plain(b"\x80\x02]r\xff\xff\xff\x7f.")


@pytest.mark.parametrize("data", [b"", b".", b"]", b"\x80\x04", REFS[:-1], b"<html>", b"(" * 9999])
def test_a_damaged_pickle_is_an_error(data):
    with pytest.raises(PickleError):
        load_plain(data)


@settings(max_examples=300)
@given(st.data())
def test_changed_bytes_give_data_or_an_error(data):
    changed = bytearray(REFS)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(changed)), st.integers(0, len(changed))))
    with contextlib.suppress(PickleError):
        load_plain(bytes(changed[:cut]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'[{"ref_id": 1}]', "JSON"),
    ],
)
def test_file_that_is_no_pickle_is_not_called_damaged(data: bytes, message: str) -> None:
    with pytest.raises(PickleError, match=message) as error:
        load_plain(data)
    assert "damaged" not in str(error.value)
