"""A server of the Hugging Face Hub's protocol on this machine: lists, downloads, commits.

It has what `huggingface_hub` calls: the files of a repository at a revision, resumable downloads,
the check of a model card, the creation of a repository, and commits with large files (LFS). Every
request is noted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

COMMIT = "0123456789" * 4
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_INFO = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?")
_SMALL = 1000  # bytes; larger files are uploaded apart, as LFS objects


@dataclass
class HubServer:
    """Repositories and the requests for them.

    Attributes:
        url: of the server.
        repositories: {ORG/NAME: {name of a file: content}}.
        fetched: names of the files whose contents were sent, with the first byte of each request.
        cut_after: end a connection after these bytes of a file.
        num_cuts: how often.
        private: whether each created repository is private.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fetched: list[tuple[str, int]] = field(default_factory=list)
    cut_after: int = 0
    num_cuts: int = 0
    private: dict[str, bool] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)  # LFS objects by their hash

    def add_folder(self, repository: str, folder: Path) -> None:
        """Add the files of a folder as a repository."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.repositories[repository] = files


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        del format, args

    def do_HEAD(self) -> None:
        self._resolve(with_content=False)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if _RESOLVE.fullmatch(path):
            self._resolve(with_content=True)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?", path):
            self._tree(match[1])
        elif match := _INFO.fullmatch(path):
            self._model_info(match[1], match[2])
        else:
            self._send(404, {"error": f"no such address: {path}"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._lfs_batch(json.loads(body))
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            answers = [
                {"path": x["path"], "uploadMode": mode[x["size"] > _SMALL], "shouldIgnore": False}
                for x in files
            ]
            self._send(200, {"files": answers})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            self._commit(match[1], body)
        else:
            self._send(404, {"error": f"no such address: {path}"})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == digest
        self.hub.uploaded[digest] = content
        self._send(200, {})

    def _resolve(self, with_content: bool) -> None:
        match = _RESOLVE.fullmatch(self.path.partition("?")[0])
        assert match is not None
        content = self.hub.repositories.get(match[1], {}).get(match[3])
        if content is None:
            self._send(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        start = 0
        if requested := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(requested[1])
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_content:
            return
        self.hub.fetched.append((match[3], start))
        if self.hub.num_cuts and len(part) > self.hub.cut_after:
            self.hub.num_cuts -= 1
            self.wfile.write(part[: self.hub.cut_after])
            self.close_connection = True
            return
        self.wfile.write(part)

    def _files(self, repository: str) -> dict[str, bytes] | None:
        files = self.hub.repositories.get(repository)
        if files is None:
            code = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self._send(404, {"error": "Repository not found"}, code)
        return files

    def _model_info(self, repository: str, revision: str | None) -> None:
        files = self._files(repository)
        if files is None:
            return
        if revision not in (None, "main", "v1.0", COMMIT):
            self._send(404, {"error": "Revision"}, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": name} for name in sorted(files)]
        self._send(200, {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False})

    def _tree(self, repository: str) -> None:
        files = self._files(repository)
        if files is None:
            return
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            for name, content in sorted(files.items())
        ]
        self._send(200, entries)

    def _validate(self, content: str) -> None:
        front_matter = content.split("---\n")[1] if content.startswith("---\n") else ""
        fields = yaml.safe_load(front_matter) or {}
        problems = [x for x in ("library_name", "tags") if x not in fields]
        if problems:
            self._send(400, {"error": f"missing {problems}"})
        else:
            self._send(200, {"errors": [], "warnings": []})

    def _create(self, request: dict[str, Any]) -> None:
        name = f"{request['organization']}/{request['name']}"
        if name in self.hub.repositories:
            self._send(409, {"error": "You already created this model repo", "url": name})
            return
        self.hub.repositories[name] = {}
        self.hub.private[name] = request.get("visibility") == "private"
        self._send(200, {"url": f"{self.hub.url}/{name}"})

    def _lfs_batch(self, request: dict[str, Any]) -> None:
        objects = []
        for item in request["objects"]:
            answer: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.uploaded:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            objects.append(answer)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repository: str, body: bytes) -> None:
        files = self.hub.repositories[repository]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        url = f"{self.hub.url}/{repository}/commit/{COMMIT}"
        self._send(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Start a server and use it, and an empty cache, instead of those of the user."""
    state = HubServer()
    handler = type("Handler", (_Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    template = f"{state.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_token_of_the_tests")
    yield state
    server.shutdown()
    server.server_close()
