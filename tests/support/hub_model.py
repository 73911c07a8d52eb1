"""One small model in every dtype on a Hub of 127.0.0.1, and a cache of its own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamdepth.models.hub import HubAccess
from streamdepth.models.resolve import resolve
from tests.support.hub import DA_PREPROCESSOR, FakeHub, FakeRepo, write_all_dtypes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec

NAME = "someone/tiny-depth"
KEY = "hf_privatekey12345"


@dataclass
class Setup:
    hub: FakeHub
    repo: FakeRepo
    access: HubAccess

    def resolve(self, name: str = NAME, **settings: Any) -> ModelSpec:
        return resolve(name, access=settings.pop("access", self.access), **settings)


def files_of_all_dtypes(folder: Path) -> dict[str, bytes]:
    """Path in the repository -> content; written in ``folder``."""
    return {f"onnx/{path.name}": path.read_bytes() for path in write_all_dtypes(folder).values()}


@contextlib.contextmanager
def hub_with_model(files: dict[str, bytes], cache: Path) -> Iterator[Setup]:
    repo = FakeRepo.of(
        NAME,
        {
            **files,
            "config.json": {"model_type": "depth_anything"},
            "preprocessor_config.json": DA_PREPROCESSOR,
            "README.md": b"# tiny",
            "model.safetensors": b"weights of another kind" * 100,
        },
        licence="apache-2.0",
    )
    with FakeHub(repo) as hub:
        yield Setup(hub, repo, HubAccess(endpoint=hub.endpoint, cache_dir=cache, timeout_seconds=5))


def cached_files(access: HubAccess, name: str = NAME) -> set[str]:
    snapshots = access.folder(name) / "snapshots"
    return {p.relative_to(snapshots).as_posix().partition("/")[2] for p in snapshots.rglob("*") if p.is_file()}
