"""The launch guides: shell lines, Dockerfiles, the manifest and the settings of runs are valid."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from glamm_jax.cli.annotate import parse as parse_annotate
from glamm_jax.cli.train import load_config
from glamm_jax.config.overrides import with_overrides

ROOT = Path(__file__).resolve().parent.parent
CLOUD = ROOT / "docs" / "cloud"
PAGES = sorted(CLOUD.glob("*.md"))
SCRIPTS = sorted([*CLOUD.glob("*.sh"), *CLOUD.glob("*.sbatch")])
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
MANIFEST = CLOUD / "jobset.yaml"
STEP_IMAGES = 160  # of the recipe
# `train.sh RUN NAME=VALUE ...`; a line ends in a page, or within a quoted command.
TRAIN = re.compile(r"train\.sh\"?\s+\S+((?:[\s\\]+[a-z_.]+=[\w./]+)+)")
SPOT = re.compile(r'SETTINGS="((?:[a-z_.]+=[\w./]+ ?)+)"')  # of spot.sh
# Of interactive lines: SC2164, a `cd` that fails is seen at once.
NOT_OF_PAGES = "SC2164"


def lint(tool: str, *arguments: str) -> str:
    """Return what a tool of the extra dev finds, "" for nothing."""
    path = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    assert path, f"{tool} is missing: pip install '.[dev]'"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def validate(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    """Yield how a value differs from a schema of Kubernetes, which allows no other fields."""
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield f"{where}: {value!r} is neither an integer nor a text"
        return
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    expected = types.get(schema.get("type", ""), object)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is int):
        yield f"{where}: {value!r} is not of type {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is not one of {schema['enum']}"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from validate(item, schema["items"], f"{where}[{index}]")
    if isinstance(value, dict):
        yield from (f"{where}: lacks {n}" for n in schema.get("required", ()) if n not in value)
        for name, item in value.items():
            part = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if part is None and "properties" in schema:
                yield f"{where}: no field {name!r}"
            elif part is not None:
                yield from validate(item, part, f"{where}.{name}")


@pytest.fixture(scope="module")
def jobset_schema() -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "goldens" / "jobset-schema.json").read_text())["schema"]


def test_every_machine_has_a_page_and_every_page_is_listed() -> None:
    index = (CLOUD / "README.md").read_text()
    names = {path.name for path in PAGES} - {"README.md"}
    assert names == set(re.findall(r"\]\(([a-z-]+\.md)\)", index))
    assert len(names) == 6
    for name in names:
        text = (CLOUD / name).read_text()
        assert "## Delete" in text or "## When it is done" in text, name
        assert "glamm-jax eval" in text or "evaluate.sh" in text, name
    assert "(docs/cloud/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_shell_lines_of_pages_are_sound(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    script = tmp_path / "page.sh"
    script.write_text("".join(block for _, block in blocks))
    assert blocks or page.name == "notebooks.md"
    assert lint("shellcheck", "-s", "bash", "-S", "warning", "-e", NOT_OF_PAGES, str(script)) == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    assert lint("shellcheck", "-s", "bash", str(script)) == ""
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_are_sound_and_copy_what_exists(file: Path) -> None:
    assert lint("hadolint", str(file)) == ""
    for sources in re.findall(r"^COPY (.*) \S+$", file.read_text(), re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split()), sources


def test_the_linters_find_faults(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("if [ $a = 1 ]; then echo; done\n")
    assert "SC" in lint("shellcheck", "-s", "bash", str(tmp_path / "bad.sh"))
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp\n")
    assert "DL" in lint("hadolint", str(tmp_path / "Dockerfile"))


def test_the_manifest_agrees_with_the_schema_and_with_itself(jobset_schema: dict) -> None:
    manifest = yaml.safe_load(MANIFEST.read_text())
    assert [*validate(manifest, jobset_schema, "jobset")] == []
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    [job] = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    resources = container["resources"]
    assert resources["limits"] == resources["requests"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(rows) * int(columns)
    assert spec["parallelism"] == spec["completions"]
    assert spec["parallelism"] * resources["limits"]["google.com/tpu"] == chips
    assert spec["completionMode"] == "Indexed"  # the processes have numbers
    settings = container["args"][1:]
    assert f"data.batch_slices={chips}" in settings
    check_settings(settings)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "replicatedJobs", 0, "replica"), 1, "no field 'replica'"),
        (("spec", "replicatedJobs", 0, "replicas"), "1", "'1' is not of type integer"),
        (("spec", "failurePolicy", "maxRestarts"), True, "True is not of type integer"),
        (("spec", "replicatedJobs", 0, "name"), None, "lacks name"),
    ],
)
def test_faults_of_a_manifest_are_found(
    path: tuple, value: Any, message: str, jobset_schema: dict
) -> None:
    manifest = owner = yaml.safe_load(MANIFEST.read_text())
    for key in path[:-1]:
        owner = owner[key]
    if value is None:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    assert message in " ".join(validate(manifest, jobset_schema, "jobset"))


def check_settings(settings: list[str]) -> None:
    """Check that settings are of fields that exist, and give a step of the recipe's size."""
    config = with_overrides(load_config(ROOT / "configs" / "finetune_gcg.py"), settings)
    data, optim = config.data, config.optim
    shape = data.batch_shape
    assert shape.rows * data.batch_slices * optim.accumulation_steps == STEP_IMAGES
    assert shape.rows == shape.images == shape.grounding_images == shape.masks // 8
    assert config.mesh.data * config.mesh.fsdp == data.batch_slices


@pytest.mark.parametrize("file", [*PAGES, *SCRIPTS], ids=lambda path: path.name)
def test_settings_of_runs_exist_and_keep_the_size_of_a_step(file: Path) -> None:
    text = file.read_text()
    for settings in (*TRAIN.findall(text), *SPOT.findall(text)):
        words = settings.replace("\\", " ").split()
        if any(word.startswith(("mesh.", "data.batch")) for word in words):
            check_settings(words)
        else:
            with_overrides(load_config(ROOT / "configs" / "finetune_gcg.py"), words)


def test_the_settings_of_several_hosts_are_recognized() -> None:
    text = (CLOUD / "train.sbatch").read_text() + (CLOUD / "pod-slice.md").read_text()
    assert (len(TRAIN.findall(text)), len(SPOT.findall(text))) == (2, 1)


RAY_JOB = CLOUD / "ray-job.yaml"
CLUSTERS = ROOT / "docs" / "annotating-on-clusters.md"


def test_the_ray_job_has_machines_for_its_actors() -> None:
    job = yaml.safe_load(RAY_JOB.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["glamm-jax", "annotate"]
    options = parse_annotate(words[2:])
    assert options.driver == "ray"
    cluster = job["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}

    def total(group: dict[str, Any], resource: str) -> int:
        (container,) = group["template"]["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        return int(resources["limits"].get(resource, 0)) * group["replicas"]

    assert total(groups["gpu"], "nvidia.com/gpu") == int(options.devices)
    # Ray waits for ever if all CPUs belong to actors.
    assert total(groups["cpu"], "cpu") > options.workers
    head = cluster["headGroupSpec"]["template"]["spec"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert str(options.roles).startswith(mount["mountPath"])
    assert mount["name"] in {volume["name"] for volume in head["volumes"]}


def test_the_guide_to_clusters_is_sound(tmp_path: Path) -> None:
    text = CLUSTERS.read_text()
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "Dockerfile"
    path.write_text(dockerfile)
    assert lint("hadolint", str(path)) == ""
    script = tmp_path / "page.sh"
    script.write_text("".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)))
    assert lint("shellcheck", "-s", "bash", "-S", "warning", str(script)) == ""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"]=={version}" in dockerfile
