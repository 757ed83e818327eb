"""docs/serving.md: its lines, manifests and programs are valid."""

from __future__ import annotations

import ast
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.applications import Starlette

from glamm_jax.cli.serve import parse
from glamm_jax.serving import app as app_module
from glamm_jax.serving.engine import Engine
from glamm_jax.serving.jobs import EngineOptions
from tests.serving.conftest import MODEL
from tests.test_cloud_docs import lint

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()
FOLDER = ROOT / "docs" / "serving"


def block(kind: str, content: str) -> str:
    [found] = [b for b in re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) if content in b]
    return found


def test_shell_lines_are_sound(tmp_path: Path) -> None:
    script = tmp_path / "page.sh"
    script.write_text("".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)))
    assert lint("shellcheck", "-s", "bash", "-S", "warning", "-e", "SC2164", str(script)) == ""


def test_python_lines_are_those_that_the_tests_run() -> None:
    """The names and fields of the example are those of tests/serving/test_app.py."""
    tree = ast.parse(block("python", "OpenAI"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {"prompt_groundings", "groundings", "content"} <= names


def routes() -> set[str]:
    tree = ast.parse(Path(app_module.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    paths = [x.args[0] for x in calls if isinstance(x.func, ast.Name) and x.func.id == "Route"]
    return {path.value for path in paths if isinstance(path, ast.Constant)}


def test_all_routes_and_options_are_described() -> None:
    for route in routes():
        assert route.partition("{")[0].rstrip("/") in PAGE, route
    source = (ROOT / "glamm_jax" / "cli" / "serve.py").read_text()
    limits = [
        f"--{name}" for name in re.findall(r'"--((?:max|request|drain|api)-[a-z-]+)"', source)
    ]
    assert len(limits) == 8
    assert not [option for option in limits if option not in PAGE]


def test_the_manifest_agrees_with_the_program() -> None:
    deployment, service = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    pod = template["spec"]
    [container] = pod["containers"]
    assert container["command"] == ["glamm-jax", "serve"]
    options = parse(container["args"])
    assert pod["terminationGracePeriodSeconds"] > options.drain_seconds
    [port] = container["ports"]
    assert options.port == port["containerPort"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(options.port)
    assert annotations["prometheus.io/path"] in routes()
    for kind, path in (("startup", "/ready"), ("readiness", "/ready"), ("liveness", "/health")):
        assert container[f"{kind}Probe"]["httpGet"] == {"path": path, "port": port["name"]}
        assert path in routes()
    [volume], [mount] = pod["volumes"], container["volumeMounts"]
    assert volume["name"] == mount["name"]
    assert str(options.model).startswith(mount["mountPath"])
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests["nvidia.com/gpu"] == limits["nvidia.com/gpu"]


def test_nginx_waits_longer_than_the_server() -> None:
    text = (FOLDER / "nginx.conf").read_text()
    assert text.count("{") == text.count("}")
    [seconds] = re.findall(r"proxy_read_timeout (\d+)s;", text)
    options = parse([])
    assert int(seconds) > options.request_seconds
    [size] = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(size) << 20 == options.max_body_bytes
    ports = set(re.findall(r"server 127\.0\.0\.1:(\d+)", text))
    assert ports == set(re.findall(r"glamm-jax serve .*--port (\d+)", PAGE))
    for line in text.splitlines():
        code = line.partition("#")[0].strip()
        assert not code or code[-1] in "{};", line


def test_the_application_of_ray_serve_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in of Ray's interface: `ingress` calls the builder in the replica."""
    deployed: dict[str, Any] = {}

    class Ingress:
        def __init__(self, build: Any):
            self.build = build

    def deployment(replica: Ingress, **options: Any) -> Any:
        deployed.update(options, replica=replica)
        return types.SimpleNamespace(bind=lambda: "bound")

    module = types.ModuleType("ray")
    module.serve = types.SimpleNamespace(  # pyright: ignore
        ingress=lambda build: lambda: Ingress(build), deployment=deployment
    )
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setenv("GLAMM_MODEL", str(MODEL))
    names: dict[str, Any] = {}
    exec(compile((FOLDER / "ray_serve.py").read_text(), "ray_serve.py", "exec"), names)
    assert names["app"] == "bound"
    engines: list[Engine] = []
    original = Engine.__init__

    def without_warm_up(self: Engine, assistant: Any, options: EngineOptions) -> None:
        assert deployed["max_ongoing_requests"] == options.slots + options.max_queue
        original(self, assistant, EngineOptions(slots=1, warm_up_size=None))
        engines.append(self)

    monkeypatch.setattr(Engine, "__init__", without_warm_up)
    built = deployed["replica"].build()
    assert isinstance(built, Starlette)
    [engine] = engines
    assert engine.is_alive
    engine.stop()
