"""A file is seen whole or not at all."""

from __future__ import annotations

from unittest import mock

import pytest

from glamm_jax.files import write_whole


@pytest.mark.parametrize("content", ["ä line\n", b"\x00\xff"])
def test_text_and_bytes_are_written_in_folders_made_for_them(tmp_path, content):
    path = tmp_path / "a" / "b"
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [each.name for each in path.parent.iterdir()] == ["b"]


def test_what_was_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")
    with (
        mock.patch("os.replace", side_effect=OSError("full")),
        pytest.raises(OSError, match="full"),
    ):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
