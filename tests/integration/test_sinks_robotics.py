"""MCAP, PLY and OpenEXR, each read back by a reader that shares no code with the writer."""

from __future__ import annotations

import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

import streamdepth as sd
from streamdepth.cli.main import main
from streamdepth.core.errors import DataFormatError, OutputExistsError, UsageError
from streamdepth.core.frame import DepthRange, Result, converted
from streamdepth.geometry import Distortion
from streamdepth.sinks.robotics import flying
from streamdepth.sinks.robotics.mcap import McapSink
from tests.support import need
from tests.support.cli import one_line
from tests.support.sinks import paint, result, run_sink, stream_info

if TYPE_CHECKING:
    from pathlib import Path

METRIC = sd.Sense.METRIC_M
CAMERA = sd.Intrinsics(50.0, 52.0, 30.0, 25.0, 64, 48, Distortion.PLUMB_BOB, (0.1, 0.01, 0.002, 0.003, 0.0))


def camera(width_px: int, height_px: int) -> sd.Intrinsics:
    return CAMERA.for_size(width_px, height_px)


def metres(index: int) -> np.ndarray:
    rows = np.linspace(4, 1, 24, dtype=np.float32)[:, None]
    return np.ascontiguousarray(np.broadcast_to(rows + 0.25 * index, (24, 32)))


def results(count: int = 3, *, anchored: float | None = None, hole: bool = True) -> list[Result]:
    """Frames of 64x48 with metric depth of 32x24; the value at the top left is missing."""
    made = []
    for index in range(count):
        values = metres(index)
        valid = np.ones(values.shape, bool)
        valid[0, 0] = not hole
        depth = sd.DepthMap(values, METRIC, valid, anchor_error=anchored)
        whole = result(paint(64, 48, index), index, index=index)
        made.append(Result(whole.frame, depth, DepthRange(1, 5)))
    return made


def messages(path: Path) -> dict[str, list[Any]]:
    from mcap_ros2.reader import read_ros2_messages

    found: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        for message in read_ros2_messages(file):
            found.setdefault(message.channel.topic, []).append(message)
    return found


class TestMcap:
    def written(self, path: Path, given: list[Result], *, live: bool = False, **options: Any) -> Path:
        sink = McapSink(path, intrinsics=camera, wall_clock_ns=lambda: 10**18, monotonic_ns=lambda: 0, **options)
        run_sink(sink, stream_info(live=live), given)
        return path

    def test_read_by_mcap_ros2(self, tmp_path: Path) -> None:
        found = messages(self.written(tmp_path / "run.mcap", results(), size="model"))
        topics = ["/camera/depth/camera_info", "/camera/depth/image", "/camera/image/camera_info"]
        assert sorted(found) == [*topics, "/camera/image/compressed"]
        assert {len(one) for one in found.values()} == {3}
        for index, message in enumerate(found["/camera/depth/image"]):
            image = message.ros_msg
            assert (image.encoding, image.width, image.height, image.step, image.is_bigendian) == (
                "32FC1",
                32,
                24,
                128,
                0,
            )
            assert image.header.frame_id == "camera_optical_frame"
            stamp = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
            assert stamp == message.log_time_ns == index * 40_000_000
            values = np.frombuffer(bytes(image.data), "<f4").reshape(24, 32)
            assert np.isnan(values[0, 0])
            np.testing.assert_array_equal(values[1:], metres(index)[1:])

    def test_camera_info(self, tmp_path: Path) -> None:
        found = messages(self.written(tmp_path / "run.mcap", results(1), size="model"))
        whole = found["/camera/image/camera_info"][0].ros_msg
        assert (whole.width, whole.height, whole.distortion_model) == (64, 48, "plumb_bob")
        assert list(whole.d) == list(CAMERA.coefficients)
        assert list(whole.k) == CAMERA.matrix.ravel().tolist()
        assert list(whole.r) == np.eye(3).ravel().tolist()
        assert list(whole.p) == [50, 0, 30, 0, 0, 52, 25, 0, 0, 0, 1, 0]
        small = found["/camera/depth/camera_info"][0].ros_msg
        assert (small.width, small.height) == (32, 24)
        assert list(small.k)[:6] == [25, 0, 14.75, 0, 26, 12.25]

    def test_the_frame_is_a_jpeg(self, tmp_path: Path) -> None:
        given = results(1)
        image = messages(self.written(tmp_path / "a.mcap", given))["/camera/image/compressed"][0].ros_msg
        assert image.format == "jpeg"
        pixels = cv2.imdecode(np.frombuffer(bytes(image.data), np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert np.abs(pixels[..., ::-1].astype(int) - given[0].frame.to_rgb()).mean() < 5

    def test_read_by_rosbags(self, tmp_path: Path) -> None:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        path = self.written(tmp_path / "run.mcap", results(), depth_encoding="16UC1")
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            assert {one.msgtype.rpartition("/")[2] for one in reader.connections} == {
                "Image",
                "CameraInfo",
                "CompressedImage",
            }
            depths = [
                reader.deserialize(data, connection.msgtype)
                for connection, _, data in reader.messages()
                if connection.topic == "/camera/depth/image"
            ]
        assert len(depths) == 3
        image: Any = depths[1]
        values = np.frombuffer(image.data.tobytes(), "<u2").reshape(image.height, image.width)
        assert (image.encoding, image.width, image.height) == ("16UC1", 64, 48)
        assert values[0, 0] == 0
        assert abs(int(values[-1, -1]) - 1250) <= 1

    @pytest.mark.parametrize("hole", [True, False])
    def test_points(self, tmp_path: Path, hole: bool) -> None:
        path = self.written(tmp_path / "run.mcap", results(1, hole=hole), size="model", points=True)
        cloud = messages(path)["/camera/points"][0].ros_msg
        assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (24, 32, 16, 512)
        assert (cloud.header.frame_id, cloud.is_bigendian, cloud.is_dense) == ("camera_optical_frame", False, False)
        fields = [(field.name, field.offset, field.datatype, field.count) for field in cloud.fields]
        assert fields == [("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1), ("rgb", 12, 7, 1)]
        data = np.frombuffer(bytes(cloud.data), "<f4").reshape(24, 32, 4)
        assert np.isnan(data[0, 0, 2]) == hole
        np.testing.assert_array_equal(data[1:9, 1:, 2], metres(0)[1:9, 1:])
        assert np.isnan(data[-1, :, 2]).all()  # 13 % from row to row: an edge
        ray = CAMERA.resized(32, 24)
        x, y = cv2.undistortPoints(np.array([[[20.0, 5.0]]]), ray.matrix, np.array(CAMERA.coefficients)).ravel()
        np.testing.assert_allclose(data[5, 20, :3], metres(0)[5, 20] * np.array([x, y, 1]), rtol=1e-5)
        blue, green, red, zero = data[12, 16, 3:].view(np.uint8)
        seen = results(1)[0].frame.to_rgb()[24:26, 32:34].reshape(-1, 3).mean(0)
        assert zero == 0
        np.testing.assert_allclose((red, green, blue), seen, atol=6)

    def test_points_read_by_rosbags(self, tmp_path: Path) -> None:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        path = self.written(tmp_path / "run.mcap", results(1), size="model", points=True)
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            wanted = [one for one in reader.connections if one.topic == "/camera/points"]
            connection, _, data = next(reader.messages(wanted))
            cloud: Any = reader.deserialize(data, connection.msgtype)
        assert connection.msgtype == "sensor_msgs/msg/PointCloud2"
        assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb"]
        assert (cloud.data.size, cloud.is_dense) == (24 * 32 * 16, False)

    def test_live_stamps_are_those_of_the_wall_clock(self, tmp_path: Path) -> None:
        given = results()
        found = messages(self.written(tmp_path / "run.mcap", given, live=True))["/camera/depth/image"]
        assert [one.log_time_ns for one in found] == [10**18 + one.frame.captured_ns for one in given]

    @pytest.mark.parametrize(("anchored", "want"), [(None, {"metres": "model"}), (0.125, {"metres": "anchors"})])
    def test_the_file_says_where_its_metres_come_from(
        self, tmp_path: Path, anchored: float | None, want: dict[str, str]
    ) -> None:
        from mcap.reader import make_reader

        unknown = [] if anchored is None else results(1, anchored=float("nan"))
        path = self.written(tmp_path / "run.mcap", [*unknown, *results(1, anchored=anchored)], model="m")
        with path.open("rb") as file:
            (record,) = make_reader(file).iter_metadata()
        assert (record.name, record.metadata) == ("streamdepth", want | {"model": "m"})
        errors = [one.ros_msg.data for one in messages(path).get("/camera/depth/relative_error", [])]
        assert np.array_equal(errors, [] if anchored is None else [np.nan, 0.125], equal_nan=True)

    def test_what_is_no_metre_and_no_camera(self, tmp_path: Path) -> None:
        path = tmp_path / "run.mcap"
        relative = [Result(one.frame, sd.DepthMap(metres(0), sd.Sense.RELATIVE_DEPTH), one.range) for one in results(1)]
        with pytest.raises(DataFormatError, match=r"run\.mcap: holds metres, but the model's depth is relative_depth"):
            self.written(path, relative)
        assert not path.exists()
        with pytest.raises(UsageError, match=r"run\.mcap: needs the camera's intrinsics; give --intrinsics or --fov"):
            run_sink(McapSink(path, intrinsics=None), stream_info(), [])
        with pytest.raises(UsageError, match="intrinsics of 64x48 do not fit an image of 64x64; give the intrinsics"):
            run_sink(McapSink(path, intrinsics=camera), stream_info(height=64), [])
        self.written(path, results(1))
        with pytest.raises(OutputExistsError):
            self.written(path, results(1))
        self.written(path, results(2), overwrite=True)
        assert len(messages(path)["/camera/depth/image"]) == 2


class TestPoints:
    def test_read_by_plyfile(self, tmp_path: Path) -> None:
        from plyfile import PlyData

        given = results(2)
        run_sink(sd.data_sink_for(f"{tmp_path}/p/%06d.ply", intrinsics=camera), stream_info(), given)
        assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["000000.ply", "000001.ply"]
        read = PlyData.read(str(tmp_path / "p" / "000001.ply"))
        vertex = read["vertex"]
        keep = ~flying(metres(1))
        keep[0, 0] = False
        points = np.stack([vertex[name] for name in "xyz"], -1)
        np.testing.assert_array_equal(points, given[1].depth.points(CAMERA)[keep])
        assert read.comments == ["metres: measured by the model"]
        colours = np.stack([vertex[name] for name in ("red", "green", "blue")], -1)
        small = cv2.resize(given[1].frame.to_rgb(), (32, 24), interpolation=cv2.INTER_AREA)
        assert np.median(np.abs(colours.astype(int) - small[keep])) <= 3  # the ramp of the test image jumps at its wrap

    def test_anchored(self, tmp_path: Path) -> None:
        from plyfile import PlyData

        given = results(1, anchored=0.1)
        run_sink(sd.data_sink_for(f"{tmp_path}/p/%06d.ply", intrinsics=camera), stream_info(), given)
        read = PlyData.read(str(tmp_path / "p" / "000000.ply"))
        assert read.comments == ["metres: anchored, relative error 0.100"]

    def test_points_at_edges_are_left_out_and_planes_stay(self) -> None:
        # inverse depth of a floor is linear over the rows
        floor: Any = np.broadcast_to(1 / np.linspace(0.1, 1, 100, dtype=np.float32)[:, None], (100, 80)).copy()
        assert not flying(floor)[20:].any()
        wall = np.full((40, 40), 5, np.float32)
        wall[10:30, 10:30] = 2
        wall[10:30, 9] = 3  # what a network puts between the two
        found = flying(wall)
        assert found[10:30, 9].all()
        assert not found[12:28, 12:28].any()
        assert not found[:8].any()
        wall[20, 20] = np.nan
        assert not flying(wall)[20, 20]


def read_exr(data: bytes) -> tuple[dict[str, bytes], np.ndarray]:
    """Attributes and the single FLOAT channel of a scan-line file with ZIP compression (OpenEXR file layout 2.0)."""
    assert struct.unpack_from("<II", data) == (20000630, 2)
    at, attributes = 8, {}
    while data[at]:
        name, kind = data[at:].split(b"\0", 2)[:2]
        at += len(name) + len(kind) + 2
        size = struct.unpack_from("<I", data, at)[0]
        attributes[name.decode()] = data[at + 4 : at + 4 + size]
        at += 4 + size
    left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    chunks = -(-height // 16)
    rows = []
    for offset in struct.unpack_from(f"<{chunks}Q", data, at + 1):
        first, size = struct.unpack_from("<iI", data, offset)
        lines = min(16, height - (first - top))
        packed = data[offset + 8 : offset + 8 + size]
        if size < lines * width * 4:
            coded = np.frombuffer(zlib.decompress(packed), np.uint8).astype(np.int64)
            coded[1:] -= 128
            plain = np.cumsum(coded).astype(np.uint8)
            half = (len(plain) + 1) // 2
            joined = np.empty(len(plain), np.uint8)
            joined[0::2], joined[1::2] = plain[:half], plain[half:]
            packed = joined.tobytes()
        rows.append(np.frombuffer(packed, "<f4").reshape(lines, width))
    return attributes, np.concatenate(rows)


class TestExr:
    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        need.module("OpenEXR", "the extra robotics")

    def test_read_by_the_file_layout(self, tmp_path: Path) -> None:
        sink = sd.data_sink_for(f"{tmp_path}/e/%06d.exr", size="model", model="m")
        run_sink(sink, stream_info(), [*results(1, anchored=float("nan")), results(2, anchored=0.125)[1]])
        unknown, _ = read_exr((tmp_path / "e" / "000000.exr").read_bytes())
        assert unknown["streamdepthMetres"] == b"anchored, relative error unknown"
        assert "streamdepthAnchorError" not in unknown
        assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["000000.exr", "000001.exr"]
        attributes, values = read_exr((tmp_path / "e" / "000001.exr").read_bytes())
        assert attributes["channels"].startswith(b"Z\0\2\0\0\0")  # one channel of type FLOAT
        assert attributes["compression"] == b"\3"  # ZIP
        texts = [attributes[f"streamdepth{name}"] for name in ("Sense", "Unit", "Model")]
        assert texts == [b"metric_m", b"m", b"m"]
        assert struct.unpack("<f", attributes["streamdepthAnchorError"]) == (0.125,)
        assert np.isnan(values[0, 0])
        np.testing.assert_array_equal(values[1:], metres(1)[1:])

    def test_chosen_unit(self, tmp_path: Path) -> None:
        run_sink(sd.data_sink_for(f"{tmp_path}/e/%06d.exr", size="model", exr_unit="cm"), stream_info(), results(1))
        attributes, values = read_exr((tmp_path / "e" / "000000.exr").read_bytes())
        assert attributes["streamdepthUnit"] == b"cm"
        assert attributes["streamdepthMetres"] == b"measured by the model"
        assert struct.unpack("<f", attributes["streamdepthMetresPerUnit"]) == (np.float32(0.01),)
        np.testing.assert_allclose(values[1:], 100 * metres(0)[1:], rtol=1e-6)
        relative = sd.DepthMap(metres(0), sd.Sense.RELATIVE_INVERSE)
        given = [Result(results(1)[0].frame, relative, DepthRange(1, 5))]
        with pytest.raises(DataFormatError, match="holds metres, but the model's depth is relative_inverse"):
            run_sink(sd.data_sink_for(f"{tmp_path}/f/%06d.exr", exr_unit="m"), stream_info(), given)

    def test_at_the_size_of_the_frame(self, tmp_path: Path) -> None:
        run_sink(sd.data_sink_for(f"{tmp_path}/e/%06d.exr"), stream_info(), results(1))
        _, values = read_exr((tmp_path / "e" / "000000.exr").read_bytes())
        assert values.shape == (48, 64)


class TestCommand:
    ANCHORS = ("--anchor", "0.5,0.95=1.5", "--anchor", "0.5,0.2=8")

    def test_frames_become_recording_points_and_depth(self, tmp_path: Path) -> None:
        outputs = ("-o", f"{tmp_path}/run.mcap", "--data", f"{tmp_path}/p/%06d.ply", "--data", f"{tmp_path}/d.mkv")
        options = ("--provider", "cpu", "--fov", "60", "--max-frames", "4", *self.ANCHORS)
        assert main(["run", "test:?size=160x120", *outputs, *options]) == 0
        assert len(messages(tmp_path / "run.mcap")["/camera/depth/image"]) == 4
        assert len(list((tmp_path / "p").iterdir())) == 4
        with sd.read_depth(tmp_path / "d.mkv") as reader:
            said = reader.metadata
            assert (said.sense, said.unit) == (METRIC, "m")
            assert said.anchor_error is not None
            assert 0.05 < said.anchor_error < 0.6
            assert said.intrinsics == sd.Intrinsics.from_fov(60, 160, 120)

    @pytest.mark.parametrize(
        ("options", "code", "message"),
        [
            (("--fov", "60", "--intrinsics", "1,1,1,1"), 2, "intrinsics and fov exclude each other; give one"),
            (("--fov", "200"), 2, "fov"),
            (("--intrinsics", "none.yaml"), 2, "intrinsics none.yaml: no such file or directory"),
            (("--anchor", "5,5=1"), 2, "one anchor cannot fix scale and shift; give two or more"),
            (("--fov", "60"), 1, "holds metres, but the model's depth is relative_inverse; use a metric model"),
            ((), 2, "needs the camera's intrinsics; give --intrinsics or --fov"),
        ],
    )
    def test_wrong_use(
        self,
        clip: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        options: tuple[str, ...],
        code: int,
        message: str,
    ) -> None:
        assert main(["run", str(clip), "-o", f"{tmp_path}/run.mcap", "--provider", "cpu", *options]) == code
        assert message in one_line(capsys)
        assert not (tmp_path / "run.mcap").exists()


def test_intrinsics_and_errors_of_depth_files(tmp_path: Path) -> None:
    """The error of each frame, also where that of the first is not known yet; the metadata holds that of the first."""
    nan = float("nan")
    for errors in ([None, None], [nan, 0.25], [0.2, 0.1]):
        given = [results(2, anchored=error)[index] for index, error in enumerate(errors)]
        for output in ("d/%06d.npy", "d.mkv"):
            sink = sd.data_sink_for(f"{tmp_path}/{output}", intrinsics=camera, size="model", overwrite=True)
            run_sink(sink, stream_info(), given)
            with sd.read_depth(tmp_path / output.partition("/")[0]) as reader:
                assert reader.metadata.intrinsics == CAMERA.resized(32, 24)
                assert repr(reader.metadata.anchor_error) == repr(errors[0])
                assert repr([frame.anchor_error for frame in reader]) == repr(errors)
    line = json.loads((tmp_path / "d" / "depth.jsonl").read_text().splitlines()[0])
    assert json.loads(line["intrinsics"])["fx"] == 25


def test_outputs_share_a_frame() -> None:
    """Converted on several threads at once; ``VideoFrame.reformat`` hung or crashed there."""
    image = paint(640, 480, 1)
    sides = (8, 64, 128, 200)
    want = {side: converted(image, width=side, height=side, format="rgb24").to_ndarray() for side in sides}

    def same(side: int) -> bool:
        made = [converted(image, width=side, height=side, format="rgb24").to_ndarray() for _ in range(25)]
        return all(np.array_equal(one, want[side]) for one in made)

    with ThreadPoolExecutor(len(sides)) as threads:
        assert all(threads.map(same, sides, timeout=60))
