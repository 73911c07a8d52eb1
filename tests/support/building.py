"""Builds of TensorRT engines that end when a test says so, and what was told of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec

_RULES = Preprocessing(width_px=48, height_px=32, keep_aspect=False, multiple_of=1, do_normalize=False)


def two_models(folder: Path) -> tuple[ModelSpec, ModelSpec]:
    """Told apart by their depth of a black image: it rises by 1, or falls, from top to bottom."""
    paths = (write_depth_model(folder / f"{n}.onnx", inverse=n == 0) for n in range(2))
    first, second = (resolve(path, preprocessing=_RULES) for path in paths)
    return first, second


class FakeBuild:
    """Ends when a test says so, and how."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.failed = ""
        self.closed = 0
        self.image: tuple[int, int] | None = None

    def __call__(self, image: tuple[int, int]) -> FakeBuild:
        self.image = image
        return self

    def done(self) -> bool:
        return self.ended.is_set()

    def reason(self) -> str:
        return self.failed

    def close(self) -> None:
        self.closed += 1


class Said:
    """What was told, to be waited for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def wait_for(self, part: str) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: any(part in line for line in self.lines), 20), self.lines
            return next(line for line in self.lines if part in line)
