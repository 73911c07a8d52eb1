"""Metres from known motion, in a made-up room whose depth and camera path are exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest

import streamdepth as sd
from streamdepth.cli.main import main
from streamdepth.core.errors import DataFormatError, UsageError
from streamdepth.depth.odometry import KnownMotion, MotionScale, triangulated
from tests.support.cli import one_line
from tests.support.stages import ScriptedSource

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, HEIGHT, FOV = 320, 240, 70
CAMERA = sd.Intrinsics.from_fov(FOV, WIDTH, HEIGHT)
_WALLS = ((0, -2.0), (0, 2.5), (1, -1.5), (1, 1.2), (2, 9.0))
"""Axis and position in metres of the planes of a room open to the back."""


def textures() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    noise = [cv2.GaussianBlur(rng.random((512, 512), np.float32), (0, 0), 1.2) for _ in _WALLS]
    return [np.asarray(20 + 215 * (one - one.min()) / np.ptp(one), np.float32) for one in noise]


def view(
    position: NDArray[np.float64], yaw: float, walls: list[NDArray[np.float32]]
) -> tuple[av.VideoFrame, np.ndarray]:
    """The image from a place, and its depth along the optical axis."""
    rays = np.stack([*CAMERA.rays(WIDTH, HEIGHT), np.ones((HEIGHT, WIDTH), np.float32)], axis=-1)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    world = rays @ turn.T
    depth, gray = np.full((HEIGHT, WIDTH), np.inf), np.zeros((HEIGHT, WIDTH), np.float32)
    for (axis, at), texture in zip(_WALLS, walls, strict=True):
        with np.errstate(divide="ignore"):
            along = (at - position[axis]) / world[..., axis]
        hit = position + along[..., None] * world
        place = np.delete(hit, axis, axis=-1).astype(np.float32) * 40 % 511
        drawn = cv2.remap(texture, place[..., 0], place[..., 1], cv2.INTER_LINEAR)
        nearer = (along > 0) & (along < depth)
        depth[nearer], gray[nearer] = along[nearer], drawn[nearer]
    image = av.VideoFrame.from_ndarray(np.repeat(gray.astype(np.uint8)[..., None], 3, 2), format="rgb24")
    return image, depth


def walk(count: int) -> tuple[np.ndarray, list[av.VideoFrame], list[np.ndarray]]:
    """A walk at 1.25 m/s that turns and sways; positions, images and true depth."""
    walls = textures()
    along = np.arange(count)
    positions = np.stack([0.25 * np.sin(along / 6), 0.02 * np.cos(along / 3), 0.05 * along], axis=1)
    views = [view(position, 0.05 * np.sin(n / 5), walls) for n, position in enumerate(positions)]
    return positions, [one for one, _ in views], [depth for _, depth in views]


@pytest.fixture(scope="module")
def path() -> tuple[np.ndarray, list[av.VideoFrame], list[np.ndarray]]:
    return walk(24)


def relative(depth: np.ndarray, index: int) -> sd.DepthMap:
    """What a model gives: inverse depth of unknown scale and shift, noisy and drifting by 1 %."""
    rng = np.random.default_rng(index)
    small = cv2.resize(depth.astype(np.float32), (80, 60), interpolation=cv2.INTER_NEAREST)
    values = 7.0 / small - 0.3
    values *= 1 + 0.05 * rng.standard_normal(values.shape) + 0.01 * np.sin(index)
    return sd.DepthMap(values.astype(np.float32), sd.Sense.RELATIVE_INVERSE)


class TestScale:
    def test_metres_of_a_walk(self, path: tuple[np.ndarray, list[av.VideoFrame], list[np.ndarray]]) -> None:
        positions, images, depths = path
        motion = KnownMotion(np.arange(24) / 25, positions, CAMERA.for_size)
        scale = MotionScale(motion)
        errors, stated, known = [], [], 0
        for index, (image, depth) in enumerate(zip(images, depths, strict=True)):
            metres = scale.update(relative(depth, index), index / 25, cut=index == 0, image=image)
            assert metres.sense is sd.Sense.METRIC_M
            if metres.valid is not None and not metres.valid.any():
                assert metres.anchor_error is not None
                assert np.isnan(metres.anchor_error)
                continue
            known += 1
            true = cv2.resize(depth.astype(np.float32), (80, 60), interpolation=cv2.INTER_NEAREST)
            errors.append(float(np.median(metres.values / true)) - 1)
            stated.append(metres.anchor_error)
        assert known >= 20
        assert abs(np.median(errors)) < 0.02
        assert max(map(abs, errors)) < 0.06
        assert all(error is not None and error < 0.4 for error in stated)

    def test_twice_the_distance_is_twice_the_depth(
        self, path: tuple[np.ndarray, list[av.VideoFrame], list[np.ndarray]]
    ) -> None:
        positions, images, depths = path
        found = []
        for factor in (1, 2):
            scale = MotionScale(KnownMotion(np.arange(24) / 25, factor * positions, CAMERA.for_size))
            for index in range(8):
                metres = scale.update(relative(depths[index], 0), index / 25, cut=False, image=images[index])
            found.append(float(np.median(metres.values)))
        assert found[1] / found[0] == pytest.approx(2, rel=0.05)

    def test_a_camera_that_stands_still_gives_no_metres(
        self, path: tuple[np.ndarray, list[av.VideoFrame], list[np.ndarray]]
    ) -> None:
        positions, images, depths = path
        still = MotionScale(KnownMotion(np.arange(24) / 25, 0 * positions, CAMERA.for_size))
        outside = MotionScale(KnownMotion(100 + np.arange(24) / 25, positions, CAMERA.for_size))
        for scale in (still, outside):
            for index in range(4):
                metres = scale.update(relative(depths[index], 0), index / 25, cut=False, image=images[index])
            assert metres.valid is not None
            assert not metres.valid.any()
            assert scale.note == "4 frames have no metres: no motion was measured before them"
        metric = sd.DepthMap(np.ones((6, 8), np.float32), sd.Sense.METRIC_M)
        with pytest.raises(DataFormatError, match="in metres already"):
            still.update(metric, 0, cut=False, image=images[0])

    def test_the_stated_error_grows_after_the_end_of_the_odometry(
        self, path: tuple[np.ndarray, list[av.VideoFrame], list[np.ndarray]]
    ) -> None:
        positions, images, depths = path
        scale = MotionScale(KnownMotion(np.arange(8) / 25, positions[:8], CAMERA.for_size))
        stated = []
        for index, seconds in enumerate([*(np.arange(8) / 25), 1, 60]):
            metres = scale.update(relative(depths[7], 0), seconds, cut=False, image=images[min(index, 7)])
            stated.append(metres.anchor_error)
        at_the_end, soon, late = (error or 0 for error in stated[7:])
        assert 0 < at_the_end < soon < 1.1 * at_the_end
        assert late > 1.3 * at_the_end

    def test_a_cut_forgets_the_scale(self, path: tuple[np.ndarray, list[av.VideoFrame], list[np.ndarray]]) -> None:
        positions, images, depths = path
        scale = MotionScale(KnownMotion(np.arange(24) / 25, positions, CAMERA.for_size))
        for index in range(8):
            metres = scale.update(relative(depths[index], 0), index / 25, cut=index == 7, image=images[index])
        assert metres.valid is not None
        assert not metres.valid.any()


def test_triangulated_points_are_exact_without_noise() -> None:
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(-2, 2, 200), rng.uniform(-2, 2, 200), rng.uniform(2, 9, 200)])
    turn = cv2.Rodrigues(np.array([0.02, 0.05, -0.01]))[0]
    moved = np.array([0.3, 0.05, -0.2])
    seen = points @ turn.T + moved
    found = triangulated(points[:, :2] / points[:, 2:], seen[:, :2] / seen[:, 2:], float(np.linalg.norm(moved)), 400)
    assert found is not None
    assert found.exact.sum() > 150
    np.testing.assert_allclose(found.metres[found.exact], points[found.exact, 2], rtol=2e-3)


class TestFile:
    def test_the_times_are_those_of_the_clip(self) -> None:
        motion = KnownMotion(np.array([10.0, 20.0]), np.zeros((2, 3)), CAMERA.for_size)
        motion.check(0, None)
        motion.check(15, 100)
        for start, duration, says in ((0, 9.5, "those of the clip 0 to 9.5 s"), (20, None, "the clip 20 s and later")):
            with pytest.raises(DataFormatError, match=f"odometry: its times are 10 to 20 s, .*{says}"):
                motion.check(start, duration)

    @pytest.mark.parametrize(
        ("text", "distance"),
        [
            ("time,x,y,z\n0,0,0,0\n1,3,0,4\n", 2.5),
            ("# a comment\n0,1,1,1\n2,1,1,11\n", 2.5),
            ("time,speed\n0,4\n1,6\n", 2.25),
        ],
    )
    def test_distance(self, tmp_path: Path, text: str, distance: float) -> None:
        path = tmp_path / "o.csv"
        path.write_text(text)
        motion = KnownMotion.read(path, CAMERA.for_size)
        half = motion.distance_m(0, 0.5)
        assert half == pytest.approx(distance, rel=0.12)
        assert np.isnan(motion.distance_m(-1, 0.5))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not two or more rows of time,x,y,z or time,speed"),
            ("0,1,2\n1,2,3\n", "not two or more rows"),
            ("0,1,2,x\n1,2,3,4\n", "not two or more rows"),
            ("1,1\n0,2\n", "the times do not rise"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "o.csv"
        path.write_text(text)
        with pytest.raises(DataFormatError, match=message):
            KnownMotion.read(path, CAMERA.for_size)
        with pytest.raises(UsageError, match="No such file"):
            KnownMotion.read(tmp_path / "none.csv", CAMERA.for_size)


def test_a_live_source_is_refused() -> None:
    motion = KnownMotion(np.arange(2.0), np.zeros((2, 3)), CAMERA.for_size)
    message = "odometry: scripted is live, without media time; give a video file"
    with sd.stream(ScriptedSource(2, live=True), anchors=motion) as results, pytest.raises(UsageError, match=message):
        next(results)


class TestCommand:
    @pytest.mark.slow
    def test_metres_of_a_clip(self, tmp_path: Path) -> None:
        (tmp_path / "o.csv").write_text("time,speed\n0,2.4\n10,2.4\n")
        outputs = ("--data", f"{tmp_path}/d/%06d.npy", "--data-size", "model")
        options = ("--odometry", f"{tmp_path}/o.csv", "--fov", "61", "--provider", "cpu", "-q")
        assert main(["run", "test:?size=320x240&frames=14", *outputs, *options]) == 0
        with sd.read_depth(tmp_path / "d") as reader:
            assert reader.metadata.unit == "m"
            last = reader[13].values
        assert 2 < float(np.nanmedian(last)) < 30

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "needs the camera's intrinsics; give --intrinsics or --fov"),
            (("--fov", "60", "--anchor", "1,1=1", "--anchor", "2,2=2"), "odometry and anchor exclude each other"),
        ],
    )
    def test_wrong_use(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
    ) -> None:
        (tmp_path / "o.csv").write_text("0,1\n1,1\n")
        given = ["run", "test:?frames=2", "--data", f"{tmp_path}/d.mkv", "--odometry", f"{tmp_path}/o.csv", *options]
        assert main(given) == 2
        assert message in one_line(capsys)
