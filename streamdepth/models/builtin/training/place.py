"""A scene with camera and light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streamdepth.models.builtin.training.scene import Scene

ROOM, STREET, NATURE, OBJECTS, ALOFT = 0, 1, 2, 3, 4


@dataclass
class Place:
    """A scene with camera and light. Angles in radians; fog_m 0 = clear; walls: half extents of a room."""

    scene: Scene
    eye: np.ndarray
    yaw: float
    pitch: float
    lights: np.ndarray
    sun: bool
    ambient: float
    fov: tuple[float, float] = (50.0, 92.0)
    fog_m: float = 0.0
    walls: np.ndarray = field(default_factory=lambda: np.zeros(3))
