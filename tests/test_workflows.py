"""The workflows of GitHub Actions: valid by their schema, pinned, and of targets that exist.

An older build of actionlint finds nothing but a name of a machine that it does not know yet.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft7Validator

from tests.test_cloud_docs import lint

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
EXPRESSION = re.compile(r"\$\{\{.*?\}\}")


def jobs(path: Path) -> dict[str, Any]:
    """Return the jobs of a workflow."""
    return yaml.safe_load(path.read_text())["jobs"]


def commands(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (shell lines, job) of every step that runs some."""
    for job in jobs(path).values():
        yield from ((step["run"], job) for step in job["steps"] if "run" in step)


def faults(workflow: str) -> list[str]:
    """Return how a workflow differs from the schema of GitHub's workflows."""
    # YAML 1.1 reads the key `on` as true.
    value = yaml.safe_load(re.sub("^on:", '"on":', workflow, flags=re.MULTILINE))
    validator = Draft7Validator(get_builtin_schema("vendor.github-workflows"))
    return [error.message for error in validator.iter_errors(value)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_agrees_with_the_schema(path: Path) -> None:
    assert faults(path.read_text()) == []


def test_faults_of_a_workflow_are_found() -> None:
    text = WORKFLOWS[0].read_text()
    assert faults(text.replace("runs-on", "runs_on", 1))
    assert faults(text.replace("timeout-minutes: 20", "timeout-minutes: soon", 1))
    assert faults(text.replace("on:\n  push", "on:\n  pull", 1))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_may_only_read(path: Path) -> None:
    text = path.read_text()
    assert len(re.findall("uses:", text)) == len(PINNED.findall(text))
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in jobs(path).values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 360
        assert job["steps"][0]["with"] == {"persist-credentials": False}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_shell_lines_are_sound_and_their_targets_exist(path: Path, tmp_path: Path) -> None:
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for run, job in commands(path):
        assert not EXPRESSION.search(run), "expressions are passed as variables"
        script = tmp_path / "step.sh"
        script.write_text(run + "\n")
        assert lint("shellcheck", "-s", "bash", str(script)) == ""
        matrix = job.get("strategy", {}).get("matrix", {})
        for target in re.findall(r"\bmake (\S+)", run):
            targets = matrix["target"] if target == '"$TARGET"' else [target]
            assert {*targets} <= {*rules}
        for kind in matrix.get("kind", ()):
            assert (ROOT / "docker" / f"Dockerfile.{kind}").is_file()


def test_the_tests_run_on_every_supported_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    name = "Programming Language :: Python :: "
    supported = [x.removeprefix(name) for x in project["classifiers"] if x.startswith(name + "3.")]
    assert jobs(WORKFLOWS[0])["tests"]["strategy"]["matrix"]["python"] == supported


def test_ci_runs_what_the_workflow_runs() -> None:
    """`.ci/run` has the targets of checks.yml, but for those that need minutes or a network."""
    local = {*re.findall(r"make (\S+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)}
    remote = {word for run, _ in commands(WORKFLOWS[0]) for word in re.findall(r"make (\S+)", run)}
    assert remote - {"sbom"} == local - {"setup"}
