"""Clips and settings of tests that process a clip in segments."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from streamdepth.jobs import (
    ClipSettings,
    ModelSettings,
)
from tests.support.media import draw_index, write_clip

if TYPE_CHECKING:
    from pathlib import Path

    import av
    import numpy as np
    from numpy.typing import NDArray


def draw_shots(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Three shots of 32 frames, told apart by colour and brightness, in which the index can be read."""
    rgb = draw_index(index, width, height)
    shot = index // 32
    top = rgb[: height - max(8, height // 8)]
    top[..., shot % 3] //= 4
    if shot % 2:
        top[:] = 255 - top
    return rgb


def write_shots_clip(path: Path) -> Path:
    """96 frames in three shots, key frames every 10 frames and at cuts, with sound."""
    return write_clip(path, frames=96, draw=draw_shots, audio=True, options={"preset": "veryfast"})


def settings_for(clip: Path, model: Path | None = None, **more: Any) -> ClipSettings:
    used = ModelSettings(model=str(model), provider="cpu") if model else ModelSettings(provider="cpu")
    return ClipSettings(source=str(clip), source_id=clip.name, model=used, **{"segment_seconds": 0.5, **more})


def pixels(image: av.VideoFrame) -> str:
    return hashlib.sha256(image.to_ndarray().tobytes()).hexdigest()
