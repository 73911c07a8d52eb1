"""A Hub on 127.0.0.1 that speaks huggingface_hub's protocol, faults included, and tiny models in every dtype for it.

Big files are answered with a redirect to a second server (``localhost``, another port), as the Hub does with its
storage, so that tests see whether a token travels where it must not.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import onnx

from tests.support.live import Quiet
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUFFIX = {
    "fp32": "",
    "fp16": "_fp16",
    "int8": "_int8",
    "uint8": "_uint8",
    "q8": "_quantized",
    "q4": "_q4",
    "q4f16": "_q4f16",
    "bnb4": "_bnb4",
}
DA_PREPROCESSOR: dict[str, object] = {
    "do_normalize": True,
    "do_pad": False,
    "do_rescale": True,
    "do_resize": True,
    "ensure_multiple_of": 14,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "DPTImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "keep_aspect_ratio": True,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 518, "width": 518},
    "size_divisor": None,
}


def write_all_dtypes(folder: Path) -> dict[str, Path]:
    """The same tiny model as ``model{suffix}.onnx`` for each dtype, made by ONNX Runtime's own tools."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.transformers.float16 import convert_float_to_float16

    paths = {dtype: folder / f"model{suffix}.onnx" for dtype, suffix in SUFFIX.items()}
    fp32 = write_depth_model(paths["fp32"])

    def half(model: onnx.ModelProto) -> onnx.ModelProto:
        converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
        return converted

    onnx.save(half(onnx.load(fp32)), paths["fp16"])
    quantize_dynamic(fp32, paths["int8"], weight_type=QuantType.QInt8)
    quantize_dynamic(fp32, paths["uint8"], weight_type=QuantType.QUInt8)
    quantize_dynamic(fp32, paths["q8"], weight_type=QuantType.QUInt8, per_channel=True, reduce_range=True)
    nbits = MatMulNBitsQuantizer(onnx.load(fp32), block_size=32)
    nbits.process()
    onnx.save(nbits.model.model, paths["q4"])
    onnx.save(half(onnx.load(paths["q4"])), paths["q4f16"])
    bnb = MatMulBnb4Quantizer(onnx.load(fp32), MatMulBnb4Quantizer.NF4, 64)
    bnb.process()
    onnx.save(bnb.model.model, paths["bnb4"])
    return paths


@dataclass
class FakeRepo:
    """A repository. ``revisions`` maps a branch or tag to a commit; ``commits`` a commit to its files."""

    name: str
    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    token: str = ""
    gated: bool = False
    licence: str = ""

    @classmethod
    def of(cls, name: str, files: Mapping[str, bytes | dict[str, object]], **settings: Any) -> FakeRepo:
        content = {k: json.dumps(v).encode() if isinstance(v, dict) else v for k, v in files.items()}
        commit = _commit(name, content)
        return cls(name, {commit: content}, {"main": commit}, **settings)

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        content = {**self.commits[self.revisions[branch]], **files}
        commit = _commit(self.name, content)
        self.commits[commit] = content
        self.revisions[branch] = commit
        return commit

    @property
    def head(self) -> str:
        return self.revisions["main"]


def _commit(name: str, files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha1(name.encode(), usedforsecurity=False)
    for path, content in sorted(files.items()):
        digest.update(path.encode() + content)
    return digest.hexdigest()


@dataclass
class Fault:
    """What to do instead of answering, for requests whose ``"METHOD /path"`` matches.

    Attributes:
        status: answer with this status.
        body: of that answer.
        cut_after: send this many bytes of the body, then drop the connection.
        stall: hold the answer (after ``cut_after`` bytes if given) until the hub closes; ``stalled`` is set then.
        times: how many requests it hits.
    """

    match: str
    status: int = 0
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    stall: bool = False
    times: int = 1_000_000


@dataclass(frozen=True)
class Seen:
    """One request that came in."""

    server: str
    method: str
    path: str
    authorization: str
    range: str


class FakeHub:
    """``with FakeHub(repo, ...) as hub: ... hub.endpoint``.

    ``lies`` maps a SHA-256 to what the storage sends instead of the content of that name.
    """

    def __init__(self, *repos: FakeRepo, lfs_above: int = 512) -> None:
        self.repos = {repo.name: repo for repo in repos}
        self.lfs_above = lfs_above
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.blobs: dict[str, bytes] = {}
        self.lies: dict[str, bytes] = {}
        self.closing = threading.Event()
        self.stalled = threading.Event()
        self._lock = threading.Lock()
        self._servers = {name: _Server(self, name) for name in ("hub", "storage")}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._servers['hub'].server_port}"

    @property
    def storage(self) -> str:
        return f"http://localhost:{self._servers['storage'].server_port}"

    def __enter__(self) -> FakeHub:
        for server in self._servers.values():
            server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self._servers.values():
            server.stop()

    def requests(self, method: str = "", pattern: str = "") -> list[Seen]:
        with self._lock:
            return [s for s in self.seen if (not method or s.method == method) and re.search(pattern, s.path)]

    def forget(self) -> None:
        with self._lock:
            self.seen.clear()

    def note(self, seen: Seen) -> Fault | None:
        with self._lock:
            self.seen.append(seen)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, f"{seen.method} {seen.path}"):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.name = name
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name=f"fake-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)


class _Handler(Quiet, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    # headers and body in two writes would wait for each other's acknowledgement, 40 ms a request
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    server: _Server
    _stall_after_cut = False

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        fault = hub.note(
            Seen(
                self.server.name,
                self.command,
                path,
                self.headers.get("Authorization", ""),
                self.headers.get("Range", ""),
            )
        )
        if fault is not None and fault.stall and fault.cut_after is None:
            self._stall()
            return
        if fault is not None and fault.status:
            self._answer(fault.status, fault.body, fault.headers)
            return
        cut = fault.cut_after if fault is not None else None
        self._stall_after_cut = fault is not None and fault.stall
        if self.server.name == "storage":
            digest = path.removeprefix("/lfs/")
            blob = hub.lies.get(digest, hub.blobs.get(digest))
            self._body(b"" if blob is None else blob, {}, cut) if blob is not None else self._answer(404)
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        else:
            self._resolve(path.strip("/"), cut)

    def _repo(self, name: str) -> FakeRepo | None:
        """The repository, or None after an answer that hides or refuses it."""
        repo = self.server.hub.repos.get(name)
        allowed = repo is not None and (not repo.token or self.headers.get("Authorization") == f"Bearer {repo.token}")
        if repo is None or not (allowed or repo.gated):
            # the Hub does not tell strangers a private repository from a missing one
            self._answer(401, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        return repo

    def _commit_of(self, repo: FakeRepo, revision: str) -> str | None:
        commit = repo.revisions.get(revision, revision)
        if commit not in repo.commits:
            self._answer(404, headers={"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return None
        return commit

    def _api(self, rest: str) -> None:
        parts = rest.split("/")
        repo = self._repo("/".join(parts[:2]))
        if repo is None:
            return
        kind, revision = (parts[2], "/".join(parts[3:])) if len(parts) > 2 else ("revision", "main")
        commit = self._commit_of(repo, revision)
        if commit is None:
            return
        files = repo.commits[commit]
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        if kind == "tree":
            self._json([{"type": "file", "path": k, "size": len(v), "oid": _oid(v)} for k, v in files.items()])
            return
        siblings = [self._sibling(k, v) if blobs else {"rfilename": k} for k, v in files.items()]
        self._json(
            {
                "_id": "0",
                "id": repo.name,
                "modelId": repo.name,
                "sha": commit,
                "private": bool(repo.token),
                "gated": "manual" if repo.gated else False,
                "tags": [],
                "siblings": siblings,
                **({"cardData": {"license": repo.licence}} if repo.licence else {}),
            }
        )

    def _sibling(self, path: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": _oid(content)}
        if len(content) > self.server.hub.lfs_above:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return entry

    def _resolve(self, path: str, cut: int | None) -> None:
        found = re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found is None:
            self._answer(404)
            return
        repo = self._repo(found[1])
        if repo is None:
            return
        if repo.gated and self.headers.get("Authorization") != f"Bearer {repo.token}":
            self._answer(403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            return
        commit = self._commit_of(repo, found[2])
        if commit is None:
            return
        content = repo.commits[commit].get(found[3])
        common = {"X-Repo-Commit": commit}
        if content is None:
            missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._answer(404, headers={**common, **missing})
        elif len(content) > self.server.hub.lfs_above:
            sha256 = hashlib.sha256(content).hexdigest()
            self.server.hub.blobs[sha256] = content
            linked = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
            location = {"Location": f"{self.server.hub.storage}/lfs/{sha256}"}
            self._answer(302, headers={**common, **linked, **location, "ETag": f'"{sha256[:32]}"'})
        else:
            self._body(content, {**common, "ETag": f'"{_oid(content)}"'}, cut)

    def _body(self, content: bytes, headers: dict[str, str], cut: int | None) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        part = content[start:]
        self.send_response(206 if wanted else 200)
        for key, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(part if cut is None else part[:cut])
        if cut is not None:
            self.wfile.flush()
            if self._stall_after_cut:
                self._stall()
            self.close_connection = True

    def _stall(self) -> None:
        self.server.hub.stalled.set()
        self.server.hub.closing.wait(20)
        self.close_connection = True

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
