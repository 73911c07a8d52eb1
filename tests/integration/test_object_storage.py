"""Inputs and outputs by ``s3://``, against moto's S3 server on loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import streamdepth as sd
from streamdepth.cli import main
from streamdepth.core.errors import MissingDependencyError, SinkError, UsageError
from streamdepth.jobs.journal import ObjectFolder
from streamdepth.net.url import ObjectStore
from streamdepth.sinks.consumers import ObjectSink
from streamdepth.sinks.select import sink_for
from tests.support import need
from tests.support.cli import one_line
from tests.support.media import draw_index, read_pts, write_clip
from tests.support.models import write_depth_model
from tests.support.sinks import control, info_of, results_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow  # they share a server of moto that takes seconds to start

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A filesystem with an empty bucket ``clips`` on a server of this process."""
    server_module = need.module("moto.server", "moto[s3,server]")
    fsspec = need.module("fsspec", "the extra cloud")
    need.module("s3fs", "the extra cloud")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            patch.setenv(name, value)
        files = fsspec.filesystem("s3")
        files.mkdir("clips")
        yield files
        files.invalidate_cache()
        type(files).clear_instance_cache()
    server.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_depth_model(tmp_path / "model.onnx", height=28, width=28)


def test_a_run_from_bucket_to_bucket(
    bucket: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "a.mp4", frames=12, width=64, height=48, audio=True)
    bucket.put_file(str(clip), "clips/in/a.mp4")
    stats = tmp_path / "stats.json"
    outputs = ["-o", "s3://clips/out/{name}.mp4", "--data", "s3://clips/out/{name}.mkv", "--stats", str(stats)]
    assert main(["run", "s3://clips/in/a.mp4", *outputs, "-m", str(model), "--provider", "cpu"]) == 0
    for name in ("a.mp4", "a.mkv"):
        bucket.get_file(f"clips/out/{name}", str(tmp_path / f"out-{name}"))
    assert read_pts(tmp_path / "out-a.mp4") == read_pts(clip)
    with sd.read_depth(tmp_path / "out-a.mkv") as reader:
        assert len(reader) == 12
    content = json.loads(stats.read_text())
    assert [sink["name"] for sink in content["sinks"]] == ["s3://clips/out/a.mp4", "s3://clips/out/a.mkv"]
    said = capsys.readouterr()
    for secret in (KEY, SECRET):
        assert secret not in said.out + said.err + stats.read_text()
    # The second run finds its output and keeps it; with --overwrite it replaces it.
    assert main(["run", "s3://clips/in/a.mp4", *outputs[:2], "-m", str(model), "-q"]) == 1
    assert "s3://clips/out/a.mp4: already exists; --overwrite replaces it" in one_line(capsys)
    assert main(["run", "s3://clips/in/a.mp4", *outputs[:2], "-m", str(model), "-q", "-y"]) == 0


@pytest.mark.parametrize("source", ["s3://clips/many/", "s3://clips/many/*.mp4"])
def test_folders_and_patterns_name_their_videos(source: str, bucket: Any, model: Path, tmp_path: Path) -> None:
    for name in ("b.mp4", "c.mp4", "notes.txt"):
        clip = write_clip(tmp_path / "clip.mp4", frames=2, width=64, height=48)
        bucket.put_file(str(clip), f"clips/many/{name}")
    assert main(["run", source, "-o", f"{tmp_path}/{{name}}.mkv", "-m", str(model), "-q"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.mkv")) == ["b.mkv", "c.mkv"]


def test_a_missing_object_and_a_missing_bucket_are_named(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bucket.exists("clips")
    for url in ("s3://clips/in/missing.mp4", "s3://nowhere/a.mp4"):
        assert main(["run", url, "-o", str(tmp_path / "o.mp4"), "-q"]) == 1
        said = one_line(capsys)
        assert f"{url}: cannot be read (it does not exist)" in said
        assert SECRET not in said
    assert list(tmp_path.iterdir()) == []


def test_the_input_is_never_the_output(bucket: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert bucket.exists("clips")
    assert main(["run", "s3://clips/in/a.mp4", "-o", "s3://clips/in/a.mp4", "-y"]) == 2
    assert "s3://clips/in/a.mp4: is the input; choose another name" in one_line(capsys)


class TestUpload:
    def test_an_object_appears_only_when_the_run_has_ended(self, bucket: Any, clip: Path) -> None:
        sink = sink_for("s3://clips/up/whole.mkv", control=control())
        sink.open(info_of(clip), _image_info(clip))
        for result in results_of(clip):
            sink.process(result)
        assert not bucket.exists("clips/up/whole.mkv")
        sink.flush()
        sink.close()
        bucket.invalidate_cache()
        assert bucket.exists("clips/up/whole.mkv")

    def test_nothing_is_uploaded_after_an_error(self, bucket: Any, clip: Path) -> None:
        sink = sink_for("s3://clips/up/failed.mkv", control=control())
        sink.open(info_of(clip), _image_info(clip))
        sink.process(next(results_of(clip)))
        sink.close()
        bucket.invalidate_cache()
        assert not bucket.exists("clips/up/failed.mkv")

    def test_an_upload_that_breaks_leaves_no_object(
        self, bucket: Any, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink = sink_for("s3://clips/up/broken.mkv", control=control())
        assert isinstance(sink, ObjectSink)
        sink.open(info_of(clip), _image_info(clip))
        for result in results_of(clip):
            sink.process(result)
        sink.flush()
        before = ObjectStore.put

        def cut(store: ObjectStore, path: str) -> None:
            monkeypatch.setattr(store._files, "_call_s3", _refuse)
            before(store, path)

        monkeypatch.setattr(ObjectStore, "put", cut)
        with pytest.raises(SinkError, match=r"s3://clips/up/broken\.mkv: cannot be uploaded \(connection lost\)"):
            sink.close()
        monkeypatch.undo()
        bucket.invalidate_cache()
        assert not bucket.exists("clips/up/broken.mkv")


async def _refuse(*_: object, **__: object) -> None:
    raise OSError("connection lost")


def _image_info(clip: Path) -> Any:
    from tests.support.sinks import image_info

    return image_info(info_of(clip))


class TestSegments:
    """``--resume`` and ``--workers`` from bucket to bucket: journal and segments are beside the output."""

    def test_an_interrupted_run_resumes_and_equals_a_local_one(
        self, bucket: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clip = write_clip(tmp_path / "c.mp4", frames=60, width=64, height=48, draw=draw_index)
        bucket.put_file(str(clip), "clips/seg/c.mp4")
        more = ["-m", str(model), "--provider", "cpu", "--segment", "0.5", "--resume"]
        local = ["-o", f"{tmp_path}/o.mp4", "--data", f"{tmp_path}/d.mkv"]
        remote = ["-o", "s3://clips/seg/o.mp4", "--data", "s3://clips/seg/d.mkv"]
        assert main(["run", str(clip), *local, *more, "-q"]) == 0

        def names() -> set[str]:
            bucket.invalidate_cache()
            return {name.rpartition("/")[2] for name in bucket.find("clips/seg")}

        before = ObjectFolder.writing
        written: list[str] = []

        def interrupted(folder: ObjectFolder, name: str) -> Any:
            written.append(name)
            if len(written) == 4:
                raise KeyboardInterrupt
            return before(folder, name)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ObjectFolder, "writing", interrupted)
            assert main(["run", "s3://clips/seg/c.mp4", *remote, *more]) == 130
        assert {"c.mp4", ".o.mp4.journal.json", "depth-00000.f32"} <= names()
        assert not {"o.mp4", "d.mkv"} & names()
        capsys.readouterr()
        assert main(["run", "s3://clips/seg/c.mp4", *remote, *more]) == 0
        said = capsys.readouterr()
        assert "resumed" in said.err
        assert names() == {"c.mp4", "o.mp4", "d.mkv", ".o.mp4.journal.json"}
        journal = bucket.cat_file("clips/seg/.o.mp4.journal.json").decode()
        for secret in (KEY, SECRET):
            assert secret not in journal + said.out + said.err
        assert bucket.cat_file("clips/seg/o.mp4") == (tmp_path / "o.mp4").read_bytes()
        bucket.get_file("clips/seg/d.mkv", str(tmp_path / "got.mkv"))
        assert _depth(tmp_path / "got.mkv") == _depth(tmp_path / "d.mkv")
        # Finished: skipped. A changed input: started over, and refused without --overwrite.
        assert main(["run", "s3://clips/seg/c.mp4", *remote, *more]) == 0
        assert "already finished, skipped" in capsys.readouterr().err
        bucket.put_file(str(write_clip(tmp_path / "e.mp4", frames=30, width=64, height=48)), "clips/seg/c.mp4")
        assert main(["run", "s3://clips/seg/c.mp4", *remote, *more]) == 1
        assert "--overwrite replaces it" in capsys.readouterr().err

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["local", "ray"])
    def test_two_worker_processes_share_the_bucket(self, engine: str, bucket: Any, model: Path, tmp_path: Path) -> None:
        """Stabilized: the state of the filter is in the bucket too."""
        if engine == "ray":
            need.module("ray", "the extra ray")
        clip = write_clip(tmp_path / "w.mp4", frames=60, width=64, height=48, draw=draw_index)
        bucket.put_file(str(clip), f"clips/{engine}/w.mp4")
        more = ["-m", str(model), "--provider", "cpu", "--stabilize", "on", "-q"]
        assert main(["run", str(clip), "--data", f"{tmp_path}/d.mkv", *more]) == 0
        more += ["--segment", "0.5", "--workers", "2", "--engine", engine]
        assert main(["run", f"s3://clips/{engine}/w.mp4", "--data", f"s3://clips/{engine}/d.mkv", *more]) == 0
        bucket.invalidate_cache()
        bucket.get_file(f"clips/{engine}/d.mkv", str(tmp_path / "got.mkv"))
        assert _depth(tmp_path / "got.mkv") == _depth(tmp_path / "d.mkv")


def _depth(path: Path) -> list[tuple[Any, bytes]]:
    with sd.read_depth(path) as reader:
        return [(frame.pts, frame.values.tobytes()) for frame in reader]


def test_credentials_in_a_url_are_refused_and_masked() -> None:
    with pytest.raises(UsageError) as caught:
        ObjectStore(f"s3://{KEY}:{SECRET}@clips/a.mp4")
    assert SECRET not in str(caught.value)
    assert "a URL cannot contain credentials" in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    need.module("fsspec", "the extra cloud")
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(MissingDependencyError, match=r"gs:// needs a package .*pip install '\.\[cloud\]'"):
        ObjectStore("gs://bucket/a.mp4")
