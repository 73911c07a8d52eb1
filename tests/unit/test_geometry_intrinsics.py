"""Intrinsics: exact numbers through every change of the image, and as the files of calibration tools state them."""

from __future__ import annotations

import json
from dataclasses import astuple
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

import streamdepth as sd
from streamdepth.core.errors import DataFormatError, UsageError
from streamdepth.geometry import Distortion, Intrinsics
from streamdepth.geometry.readers import camera_for, camera_of, parse_intrinsics, read_intrinsics
from streamdepth.inference.heads import solve_focal_shift
from tests.support.sinks import stream_info

if TYPE_CHECKING:
    from pathlib import Path

    Array = Any


CAMERA = Intrinsics(500.0, 510.0, 319.5, 230.0, 640, 480)
BARREL = Intrinsics(400.0, 410.0, 300.0, 260.0, 640, 480, Distortion.PLUMB_BOB, (-0.2, 0.05, 0.003, -0.002, 0.0))


def test_resize_keeps_the_centre_of_the_image_in_the_centre() -> None:
    assert CAMERA.resized(320, 240) == Intrinsics(250.0, 255.0, 159.5, 114.75, 320, 240)
    assert CAMERA.resized(1280, 240) == Intrinsics(1000.0, 255.0, 639.5, 114.75, 1280, 240)
    assert CAMERA.resized(320, 240).resized(640, 480) == CAMERA


def test_crop_and_border() -> None:
    assert CAMERA.cropped(20, 30, 600, 400) == Intrinsics(500.0, 510.0, 299.5, 200.0, 600, 400)
    assert CAMERA.cropped(-8, 0, 656, 480).cropped(8, 0, 640, 480) == CAMERA


def test_letterbox() -> None:
    # 640x480 into 512x512: 512x384 with 64 rows of border above and below
    assert CAMERA.letterboxed(512, 512) == Intrinsics(400.0, 408.0, 255.5, 230.5 * 0.8 - 0.5 + 64, 512, 512)


@pytest.mark.parametrize("u", [0, 17, 159])
def test_a_block_of_pixels_made_one_lies_on_the_mean_of_their_rays(u: int) -> None:
    small = CAMERA.resized(160, 120)
    rays = [(x - CAMERA.cx) / CAMERA.fx for x in range(4 * u, 4 * u + 4)]
    assert (u - small.cx) / small.fx == pytest.approx(np.mean(rays), abs=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("flip_y", [False, True])
def test_orientation_moves_every_point_with_the_image(transposed: bool, flip_x: bool, flip_y: bool) -> None:
    """Projected by OpenCV with the turned camera, a turned point lies where its pixel was moved to."""
    turned = BARREL.oriented(transposed=transposed, flip_x=flip_x, flip_y=flip_y)
    scene = np.array([[-0.5, -0.3, 1.0], [0.4, 0.2, 1.5], [0.1, -0.6, 2.0]])
    u, v = project(BARREL, scene).T
    x, y, z = scene.T
    width, height = 640, 480
    if transposed:
        u, v, x, y, width, height = v, u, y, x, height, width
    if flip_x:
        u, x = width - 1 - u, -x
    if flip_y:
        v, y = height - 1 - v, -y
    assert (turned.width_px, turned.height_px) == (width, height)
    assert np.allclose(project(turned, np.stack([x, y, z], -1)), np.stack([u, v], -1), atol=1e-9)


class TestStream:
    """The camera of a stream's frames: those of a turned recording, and frames whose pixels are not square."""

    def test_turned(self) -> None:
        # Turned by 90 degrees clockwise: the left edge becomes the upper one, the upper one the right one.
        turned = stream_info(width=480, height=640, turned=(True, True, False))
        want = Intrinsics(510.0, 500.0, 479 - 230.0, 319.5, 480, 640)
        assert camera_for("a.mcap", turned, CAMERA.for_size) == want
        assert camera_for("a.mcap", turned, want.for_size) == want
        half = camera_for("a.mcap", stream_info(width=240, height=320, turned=(True, True, False)), CAMERA.for_size)
        assert half == want.resized(240, 320)
        over = stream_info(
            width=640, height=480, turned=(False, True, True)
        )  # what the frames show, as the size does not tell
        assert camera_for("a.mcap", over, CAMERA.for_size) == CAMERA
        for unlike in (
            stream_info(width=480, height=640),
            stream_info(width=480, height=600, turned=(True, True, False)),
        ):
            with pytest.raises(UsageError, match=r"a\.mcap: intrinsics of 640x480 do not fit an image of 480x6"):
                camera_for("a.mcap", unlike, CAMERA.for_size)
        with pytest.raises(UsageError, match="principal point 600,240 is outside the 480x640 image"):
            camera_for("a.mcap", turned, parse_intrinsics("500,500,600,240"))

    def test_a_model_gets_the_focal_length_of_a_turned_camera(self) -> None:
        camera = camera_of(CAMERA, None, any_shape=True)
        assert camera is not None
        assert camera(480, 640).focal_px == CAMERA.focal_px == camera(640, 480).focal_px
        assert camera(240, 320).focal_px == CAMERA.focal_px / 2

    def test_pixels_that_are_not_square(self) -> None:
        wide = stream_info(width=720, height=576, sample_aspect_ratio=Fraction(64, 45))
        camera = camera_for("a.mcap", wide, camera_of(None, 90))
        assert (camera.fx, camera.fy) == pytest.approx((360, 512))
        # The same field of view, in the square pixels that a player shows.
        assert camera.resized(1024, 576).matrix == pytest.approx(Intrinsics.from_fov(90, 1024, 576).matrix)


def project(camera: Intrinsics, scene: np.ndarray) -> np.ndarray:
    zero = np.zeros(3)
    found, _ = cv2.projectPoints(scene, zero, zero, camera.matrix, np.array(camera.coefficients))
    return np.asarray(found).reshape(-1, 2)


def test_field_of_view() -> None:
    camera = Intrinsics.from_fov(90, 640, 480)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((320, 320, 319.5, 239.5))
    assert camera.fov_degrees == pytest.approx(90)
    assert camera.resized(77, 31).fov_degrees == pytest.approx(90)
    assert Intrinsics.from_fov(60, 720, 576, pixel_aspect=16 / 15).fy / Intrinsics.from_fov(60, 720, 576).fy == 16 / 15
    assert camera.focal_px == pytest.approx(320)


def test_another_resolution_of_the_same_camera() -> None:
    assert CAMERA.for_size(320, 240) == CAMERA.resized(320, 240)
    assert Intrinsics(900, 900, 640, 360, 1920, 1080).for_size(854, 480).width_px == 854
    with pytest.raises(ValueError, match="intrinsics of 640x480 do not fit an image of 1280x720; give"):
        CAMERA.for_size(1280, 720)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": 0.0}, "a focal length must be positive, not fx = 0, fy = 510"),
        ({"cy": float("nan")}, "intrinsics must be finite"),
        ({"width_px": 0}, "the size must be at least 1x1 pixels, not 0x480"),
        ({"coefficients": (0.1,)}, "none has 0 coefficients, not 1"),
        ({"distortion": Distortion.PLUMB_BOB, "coefficients": (0.1,)}, "plumb_bob has 4 or 5 coefficients, not 1"),
    ],
)
def test_no_camera(change: dict[str, float], message: str) -> None:
    values = {"fx": 500.0, "fy": 510.0, "cx": 319.5, "cy": 230.0, "width_px": 640, "height_px": 480}
    with pytest.raises(ValueError, match=message):
        Intrinsics(**{**values, **change})  # type: ignore[arg-type]


class TestPoints:
    def test_against_the_formula(self) -> None:
        depth = np.linspace(0.5, 9, 48 * 64, dtype=np.float32).reshape(48, 64)
        small = CAMERA.resized(64, 48)
        v, u = np.mgrid[0:48, 0:64]
        want = np.stack([(u - small.cx) / small.fx * depth, (v - small.cy) / small.fy * depth, depth], -1)
        got = sd.DepthMap(depth, sd.Sense.METRIC_M).points(CAMERA)
        assert got.dtype == np.float32
        assert np.allclose(got, want, rtol=1e-6, atol=1e-6)

    def test_invalid_depth_is_nan(self) -> None:
        depth = np.array([[1, 0, -1], [np.nan, np.inf, 2]], np.float32)
        valid = np.array([[True, True, True], [True, True, False]])
        got = sd.DepthMap(depth, sd.Sense.METRIC_M, valid).points(CAMERA)
        assert np.isfinite(got).all(-1).tolist() == [[True, False, False], [False, False, False]]
        assert np.isnan(got[0, 1:]).all()

    @pytest.mark.parametrize(
        "camera",
        [
            BARREL,
            Intrinsics(300, 300, 320, 240, 640, 480, Distortion.EQUIDISTANT, (-0.02, 0.004, 0.0, 0.0)),
        ],
    )
    def test_distortion_is_removed(self, camera: Intrinsics) -> None:
        """The points of a distorted image, projected by OpenCV with the distortion, are the pixels they came from."""
        found = camera.points(np.full((24, 32), 2.5, np.float32)).reshape(-1, 1, 3).astype(float)
        assert (found[..., 2] == 2.5).all()
        zero, small = np.zeros(3), camera.resized(32, 24)
        lens = np.array(camera.coefficients)
        if camera.distortion is Distortion.EQUIDISTANT:
            seen, _ = cv2.fisheye.projectPoints(found, zero, zero, small.matrix, lens)
        else:
            seen, _ = cv2.projectPoints(found, zero, zero, small.matrix, lens)
        v, u = np.mgrid[0:24, 0:32]
        assert np.allclose(np.asarray(seen).reshape(24, 32, 2), np.stack([u, v], -1), atol=0.02)

    def test_relative_depth_has_no_points(self) -> None:
        depth = sd.DepthMap(np.ones((2, 2), np.float32), sd.Sense.RELATIVE_INVERSE)
        with pytest.raises(DataFormatError, match="depth is relative_inverse, not in metres: points need"):
            depth.points(CAMERA)


class TestFiles:
    def test_ros(self, tmp_path: Path) -> None:
        path = tmp_path / "head_camera.yaml"
        path.write_text(
            "image_width: 640\nimage_height: 480\ncamera_name: head_camera\n"
            "camera_matrix:\n  rows: 3\n  cols: 3\n  data: [500., 0., 319.5, 0., 510., 230., 0., 0., 1.]\n"
            "distortion_model: plumb_bob\n"
            "distortion_coefficients:\n  rows: 1\n  cols: 5\n  data: [-0.2, 0.05, 0.003, -0.002, 0.]\n"
        )
        want = (500.0, 510.0, 319.5, 230.0, 640, 480, "plumb_bob", (-0.2, 0.05, 0.003, -0.002, 0.0))
        assert astuple(read_intrinsics(path)) == want
        assert parse_intrinsics(str(path))(320, 240) == read_intrinsics(path).resized(320, 240)

    def test_ros_topic(self, tmp_path: Path) -> None:
        path = tmp_path / "echo.yaml"
        path.write_text(
            "header:\n  frame_id: camera_optical_frame\nheight: 480\nwidth: 640\ndistortion_model: plumb_bob\n"
            "d: [0, 0, 0, 0, 0]\nk: [500, 0, 319.5, 0, 510, 230, 0, 0, 1]\n---\n"
        )
        assert read_intrinsics(path) == CAMERA

    @pytest.mark.parametrize("suffix", [".yml", ".json"])
    def test_opencv(self, tmp_path: Path, suffix: str) -> None:
        """Written by OpenCV itself."""
        path = tmp_path / f"camera{suffix}"
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        storage.write("image_width", 640)
        storage.write("image_height", 480)
        storage.write("camera_matrix", BARREL.matrix)
        storage.write("distortion_coefficients", np.array([BARREL.coefficients]))
        storage.release()
        assert read_intrinsics(path) == BARREL

    def test_opencv_without_a_size(self, tmp_path: Path) -> None:
        path = tmp_path / "camera.yml"
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
        storage.write("cameraMatrix", CAMERA.matrix)
        storage.release()
        with pytest.raises(DataFormatError, match=r"camera\.yml: states no image size; give width_px and height_px"):
            read_intrinsics(path)
        assert read_intrinsics(path, width_px=640, height_px=480) == CAMERA
        assert parse_intrinsics(str(path))(640, 480) == CAMERA

    @pytest.mark.parametrize(
        ("line", "want"),
        [
            ("PINHOLE 640 480 500 510 320 230.5", CAMERA),
            ("SIMPLE_PINHOLE 640 480 500 320 240", Intrinsics(500, 500, 319.5, 239.5, 640, 480)),
            (
                "SIMPLE_RADIAL 640 480 500 320 240 -0.1",
                Intrinsics(500, 500, 319.5, 239.5, 640, 480, Distortion.PLUMB_BOB, (-0.1, 0, 0, 0, 0)),
            ),
            ("OPENCV 640 480 400 410 300.5 260.5 -0.2 0.05 0.003 -0.002", BARREL),
            (
                "OPENCV_FISHEYE 640 480 300 300 320 240 -0.02 0.004 0 0",
                Intrinsics(300, 300, 319.5, 239.5, 640, 480, Distortion.EQUIDISTANT, (-0.02, 0.004, 0, 0)),
            ),
        ],
    )
    def test_colmap(self, tmp_path: Path, line: str, want: Intrinsics) -> None:
        path = tmp_path / "cameras.txt"
        path.write_text(f"# Camera list with one line of data per camera:\n1 {line}\n2 {line}\n")
        assert read_intrinsics(path) == want

    def test_nerfstudio(self, tmp_path: Path) -> None:
        path = tmp_path / "transforms.json"
        content = {"w": 640, "h": 480, "fl_x": 400, "fl_y": 410, "cx": 300.5, "cy": 260.5, "camera_model": "OPENCV"}
        lens = {"k1": -0.2, "k2": 0.05, "p1": 0.003, "p2": -0.002}
        path.write_text(json.dumps({**content, **lens, "frames": [{"file_path": "a.png"}]}))
        assert read_intrinsics(path) == BARREL
        path.write_text(json.dumps({"w": 640, "h": 480, "camera_angle_x": np.pi / 2, "frames": []}))
        assert read_intrinsics(path).matrix == pytest.approx(Intrinsics.from_fov(90, 640, 480).matrix)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.txt", "# nothing\n", "no intrinsics: no camera in it"),
            ("a.txt", "1 PINHOLE 6 4 5 5 3 2\n2 PINHOLE 6 4 7 7 3 2\n", "2 different cameras in it; keep the line"),
            ("a.txt", "1 FOV 6 4 5 5 3 2 0.1\n", "camera model 'FOV' is not supported; undistort the images first"),
            ("a.txt", "1 PINHOLE 6 4 5 5 3\n", "camera model PINHOLE has 4 parameters, not 3"),
            ("a.yaml", "a: [1", "no intrinsics: expected ',' or ']', but got '<stream end>' in line 1"),
            ("a.yaml", "a: 1\n\tb: 2", "no intrinsics: found character .* in line 2"),
            ("a.yaml", "k: [5, 0, 13, 0, 5, 2, 0, 0, 1]\nwidth: 6\nheight: 4", "point 13,2 is outside the 6x4 image"),
            ("a.yaml", "k: [5, 0, x, 0, 5, 2, 0, 0, 1]", "not a number: 'x'"),
            ("a.yaml", "k: [5, 0, 3, 0, 5, 2, 0, 0, 1]\nwidth: wide\nheight: 4", "not a number: 'wide'"),
            ("a.yaml", "k: 5", "not a list of numbers: 5"),
            ("a.txt", "500,500,320,240", "not the lines of cameras.txt: CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS"),
            ("a.json", '{"fl_x": 1, "w": 4, "h": 3, "frames": 5}', '"frames" is not a list of frames'),
            ("a.yaml", "a: 1", "'camera_matrix' is missing"),
            ("a.yaml", "- 1", "not a mapping of names to values"),
            ("a.yaml", "k: [1, 2, 3]", "the camera matrix has 3 values, not 9"),
            ("a.yaml", "k: [5, 1, 3, 0, 5, 2, 0, 0, 1]", "the camera matrix has skew"),
            ("a.yaml", "k: [0, 0, 3, 0, 5, 2, 0, 0, 1]", "a focal length must be positive"),
            ("a.yaml", "k: [5, 0, 3, 0, 5, 2, 0, 0, 1]\nd: [1]\ndistortion_model: odd", "'odd' is not supported"),
            ("a.json", "{", "no intrinsics: Expecting property name"),
            ("a.json", '{"camera_angle_x": 1, "w": 4}', "'h' is missing"),
            ("a.json", '{"camera_angle_x": 1, "w": 4, "h": 3, "k4": 0.1}', "a fourth radial coefficient"),
            ("a.json", '{"w": 4, "h": 3, "frames": [{"fl_x": 1}, {"fl_x": 2}]}', "frames have different intrinsics"),
        ],
    )
    def test_no_intrinsics(self, tmp_path: Path, name: str, text: str, message: str) -> None:
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(DataFormatError, match=message) as raised:
            read_intrinsics(path)
        assert str(raised.value).startswith(f"{path}: ")

    @pytest.mark.parametrize("name", ["a.txt", "a.json", "a.yaml"])
    def test_a_byte_order_mark_is_skipped(self, tmp_path: Path, name: str) -> None:
        texts = {
            "a.txt": "# cameras\n1 PINHOLE 640 480 500 510 320 230.5\n",
            "a.json": json.dumps({"w": 640, "h": 480, "fl_x": 500, "fl_y": 510, "cx": 320, "cy": 230.5}),
            "a.yaml": "width: 640\nheight: 480\nk: [500, 0, 319.5, 0, 510, 230, 0, 0, 1]\n",
        }
        (tmp_path / name).write_text(texts[name], encoding="utf-8-sig")
        assert read_intrinsics(tmp_path / name) == CAMERA

    def test_a_file_without_a_size_must_fit_the_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("k: [500, 0, 319.5, 0, 510, 230, 0, 0, 1]")
        with pytest.raises(UsageError, match=r"principal point 319\.5,230 is outside the 300x240 image"):
            parse_intrinsics(str(tmp_path / "a.yaml"))(300, 240)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "intrinsics: empty; give fx,fy,cx,cy in pixels, or a file"),
            ("500,500,320", "intrinsics '500,500,320': not four numbers; give fx,fy,cx,cy in pixels, or a file"),
            ("500,-1,320,240", "intrinsics '500,-1,320,240': a focal length must be positive"),
            ("nan,1,1,1", "intrinsics 'nan,1,1,1': intrinsics must be finite numbers$"),
            ("nowhere.yaml", "intrinsics nowhere.yaml: no such file or directory; give a calibration file or"),
        ],
    )
    def test_neither_numbers_nor_a_file(self, text: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            parse_intrinsics(text)

    def test_numbers(self) -> None:
        assert parse_intrinsics("500, 510,319.5,230")(640, 480) == CAMERA
        with pytest.raises(UsageError, match="the principal point 9999,230 is outside the 640x480 image; give"):
            parse_intrinsics("500,510,9999,230")(640, 480)
        assert parse_intrinsics("500,510,319.5,230", any_shape=True)(252, 196).fx == 500


def test_a_model_takes_intrinsics_of_another_shape(tmp_path: Path) -> None:
    """A network's input is stretched; outputs are not, and refuse."""
    path = tmp_path / "cameras.txt"
    path.write_text("1 PINHOLE 640 480 500 510 320 230.5\n")
    for given in (str(path), CAMERA, CAMERA.resized):
        found = camera_of(given, None, any_shape=True)
        assert found is not None
        assert found(518, 392) == CAMERA.resized(518, 392)
    strict = camera_of(str(path), None)
    assert strict is not None
    with pytest.raises(ValueError, match="do not fit an image of 518x392"):
        strict(518, 392)
    assert camera_of(None, None) is None
    with pytest.raises(UsageError, match="fov must be more than 0 and at most 179 degrees, not 190"):
        camera_of(None, 190)


@pytest.mark.parametrize("size", [(320, 240), (424, 240), (960, 720), (1280, 960)])
def test_values_of_another_size_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """The principal point shows it: in the middle of 640x480."""
    (tmp_path / "camera.json").write_text('{"camera_matrix": [[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]}')
    for text in ("500,500,319.5,239.5", str(tmp_path / "camera.json")):
        given = parse_intrinsics(text)
        assert given(640, 480).cx == 319.5
        with pytest.raises(UsageError, match=r"principal point 319\.5,239\.5 is (far from the centre of|outside) the"):
            given(*size)


@pytest.mark.parametrize("shift", [-0.4, 0.0, 2.5])
def test_the_solver_finds_focal_length_and_shift(shift: float) -> None:
    height, width, focal = 90, 120, 150.0
    v, u = np.mgrid[0:height, 0:width]
    z = 2 + np.random.default_rng(3).uniform(0, 3, (height, width))
    points = np.stack([(u + 0.5 - width / 2) / focal * z, (v + 0.5 - height / 2) / focal * z, z - shift], axis=-1)
    solved, moved = solve_focal_shift(points.astype(np.float32))
    assert solved == pytest.approx(focal, rel=1e-4)
    assert moved == pytest.approx(shift, abs=1e-3)
    assert solve_focal_shift(points.astype(np.float32), None, focal)[1] == pytest.approx(shift, abs=1e-3)
