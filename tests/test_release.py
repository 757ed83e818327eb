"""Changelog, versions and lock files agree with pyproject.toml and with each other."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; [^\\]+)? \\$", re.MULTILINE)
RELEASED = re.compile(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)")
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def constraints() -> dict[str, str]:
    """Return the versions of constraints.txt by the canonical names of the packages."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_changelog_has_a_section_for_each_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    first, *versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    releases = [RELEASED.fullmatch(title) for title in versions]
    assert all(releases), versions
    numbers = [Version(release[1]) for release in releases if release]
    days = [date.fromisoformat(release[2]) for release in releases if release]
    assert numbers == sorted(numbers, reverse=True)
    assert days == sorted(days, reverse=True)
    assert numbers[0] == Version(PROJECT["version"])
    assert {*re.findall(r"^### (.*)$", text, re.MULTILINE)} <= KINDS


def test_the_citation_has_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"]


def test_there_is_a_lock_file_for_each_kind_of_machine() -> None:
    assert [path.stem for path in LOCKS] == ["cpu", "cuda", "tpu"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_file_has_all_requirements_with_hashes(path: Path) -> None:
    text = path.read_text()
    locked = {canonicalize_name(name): version for name, version in LOCKED.findall(text)}
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text, "no index is named"
    extra = PROJECT["optional-dependencies"].get(path.stem, [])
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extra]):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier
    pinned = constraints()
    both = locked.keys() & pinned.keys()
    assert {name: locked[name] for name in both} == {name: pinned[name] for name in both}
    assert len(both) > 70


def test_everything_that_setup_installs_is_pinned() -> None:
    extras = PROJECT["optional-dependencies"]
    names = [*PROJECT["dependencies"], *extras["dev"], *extras["docs"]]
    missing = {canonicalize_name(Requirement(name).name) for name in names} - constraints().keys()
    assert not missing
    tools = re.findall(r"^RELEASE_TOOLS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not {canonicalize_name(name) for name in tools[0].split()} - constraints().keys()
