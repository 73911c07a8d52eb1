"""Configuration: files, options over files, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdepth.cli.jobs import thread_plan
from streamdepth.colorize.palettes import checked_style
from streamdepth.config import RunConfig
from streamdepth.config.options import parse_seconds
from streamdepth.core.errors import UsageError
from streamdepth.core.host import plan_threads
from streamdepth.core.look import Look, LookControl, Upsampling, View, parse_alpha
from streamdepth.core.queues import Policy
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CONFIGS = ROOT / "configs"


READY = sorted(path for path in CONFIGS.glob("*.yaml") if path.name != "kubernetes-job.yaml")


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_the_ready_ones_are_valid(path: Path) -> None:
    assert RunConfig.load({}, path, command="run") != RunConfig()


def test_options_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("sources: [a.mp4, b.mp4]\nmax-frames: 9\nstyle: jet\nalpha: [0.2, 0.7]\nbatch: auto\nsize: 518\n")
    config = RunConfig.load({"style": "hot", "max_frames": None, "sources": []}, file, command="run")
    assert config.sources == ("a.mp4", "b.mp4")
    assert (config.style, config.max_frames, config.batch, config.size) == ("hot", 9, "auto", 518)
    assert config.look == Look(style="hot", alpha=(0.2, 0.7), view=View.OVERLAY)


def test_one_text_is_a_list_of_one(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("sources: 0\noutput: out.mkv\npolicy: latest\nedges: guided\nstart: '1:30'\n")
    config = RunConfig.load({}, file, command="run")
    assert (config.sources, config.output) == (("0",), ("out.mkv",))
    assert (config.policy, config.edges, config.start) == (Policy.LATEST, Upsampling.GUIDED, 90.0)


@pytest.mark.parametrize(
    ("options", "at_once", "decoders", "encoders"),
    [
        ({"output": "a.mkv"}, 1, 2, 1),
        ({"output": "a.mkv", "range": "ema"}, 1, 1, 1),
        ({"output": "a.mkv", "policy": "latest"}, 1, 1, 1),
        ({"show": True}, 1, 1, 0),
        ({"output": ["a.mkv", "b/"], "data": "d.mkv", "range": "frame"}, 3, 3, 9),
    ],
)
def test_threads_are_planned_for_all_that_runs_at_once(
    options: dict[str, object], at_once: int, decoders: int, encoders: int
) -> None:
    planned = thread_plan(RunConfig.load({**options, "threads": 8}, command="run"), at_once)
    assert planned == plan_threads(8, decoders=decoders, encoders=encoders)


def test_threads_that_are_set_go_before_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("output: a.mkv\nthreads: 8\ndecoder-threads: 7\nencoder_threads: 6\ncolor-threads: 5\n")
    planned = thread_plan(RunConfig.load({}, file, command="run"), 1)
    assert (planned.session, planned.decoder, planned.kernels) == (8, 7, 5)


def test_an_alpha_alone_means_an_overlay() -> None:
    assert RunConfig.load({"alpha": "0.5"}, command="run").look.view is View.OVERLAY
    assert RunConfig.load({"alpha": "0.5", "view": "side"}, command="run").look.view is View.SIDE
    assert RunConfig.load({}, command="run").look.view is View.DEPTH


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stile: jet", "unknown key stile (did you mean 'style'?)"),
        ("max_framse: 3", "did you mean 'max-frames'?"),
        ("xyzzy: 3", "see streamdepth run --help"),
        ("batch: 0", "batch must be 1 to 256 frames, or auto, not 0"),
        ("batch: many", "batch must be 1 to 256 frames, or auto, not 'many'"),
        ("batch: true", "batch must be 1 to 256 frames, or auto, not True"),
        ("crf: fine", "crf must be a number, not 'fine'"),
        ("max-frames: 1.5", "max-frames must be a whole number, not 1.5"),
        ("overwrite: maybe", "overwrite must be true or false, not 'maybe'"),
        ("codec: 3", "codec must be text, not 3"),
        ("stats: 3", "stats must be a path, not 3"),
        ("preprocessing: 3", "preprocessing must be a mapping of names to values, not 3"),
        ("gop: 0", "gop must be 0.1 to 60 seconds, not 0"),
        ("policy: fast", "policy: 'fast' is not one of every, latest"),
        ("range: fixed:3", "fixed:LO,HI"),
        ("alpha: [1, 2, 3]", "alpha is a number or a pair"),
        ("view: top", "view: 'top' is not one of depth, overlay, side, stack"),
        ("start: soon", "not a time"),
        ("start: -3", "start: -3 is not a time; give seconds, 0 or more"),
        ("start: [1]", "start: [1] is not a time"),
        ("camera-mode: big", "WxH@FPS"),
        ("- a\n- b", "found a list"),
        (
            "hwaccel: gpu",
            "hwaccel: 'gpu' is not one of auto, cuda, videotoolbox, vaapi, qsv, amf, d3d11va, v4l2m2m, none",
        ),
        ("threads: 0", "threads must be 1 to 1024, not 0"),
        ("decoder-threads: 65", "decoder-threads must be 1 to 64, not 65"),
        ("credentials: nope", "credentials: there is no file nope"),
        ("token-file: nope", "token-file: there is no file nope"),
        ("tls-ca: nope", "tls-ca: there is no file nope"),
        ("a: [", "not valid YAML"),
        ("max-frames: 1\nmax_frames: 2", "twice"),
        ("codec: h264\ncodec: hevc", "run.yaml: codec is given twice"),
        ("preprocessing:\n  a: 1\n  a: 2", "run.yaml: a is given twice"),
        ("duration: '1:99'", "duration: '1:99' is not a time; minutes and seconds after a colon must be below 60"),
        ("start: '1:60:00'", "start: '1:60:00' is not a time; minutes and seconds"),
        ("zone: ['a=0,0,1,1', 'a=0,0,0.5,1']", "zone: the name a is given twice; give each zone its own name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        RunConfig.load({}, file, command="run")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_named_are_there(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("user:password")
    config = RunConfig.load({"credentials": tmp_path / "secret", "tls_ca": "none"}, command="run")
    assert (config.credentials, config.tls_ca) == (tmp_path / "secret", "none")


def test_a_value_is_said_once() -> None:
    with pytest.raises(UsageError) as caught:
        RunConfig.load({"start": "-3"}, command="run")
    assert str(caught.value) == "start: '-3' is not a time; give seconds or [HH:]MM:SS"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        RunConfig.load({}, tmp_path / "none.yaml", command="run")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        RunConfig.load({}, tmp_path / "binary.yaml", command="run")
    (tmp_path / "empty.yaml").write_text("")
    assert RunConfig.load({}, tmp_path / "empty.yaml", command="run") == RunConfig()


@pytest.mark.parametrize(("text", "seconds"), [("12.5", 12.5), ("1:02", 62), ("1:02:03.5", 3723.5), (7, 7), ("0", 0)])
def test_times(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == seconds


class TestAlpha:
    @given(st.floats(), st.floats())
    def test_a_pair_lies_in_0_to_1(self, near: float, far: float) -> None:
        if 0 <= near <= 1 and 0 <= far <= 1:
            assert parse_alpha((near, far)) == (near, far)
            return
        with pytest.raises(ValueError, match=r"alpha is a number or a pair NEAR,FAR in 0\.\.1"):
            parse_alpha((near, far))

    def test_forms(self) -> None:
        assert parse_alpha(None) is None
        assert parse_alpha(0.3) == parse_alpha("0.3") == (0.3, 0.3)
        assert parse_alpha("0.3, 0.8") == parse_alpha([0.3, 0.8]) == parse_alpha("[0.3, 0.8]") == (0.3, 0.8)
        assert parse_alpha(np.array([1, 0])) == (1.0, 0.0)  # type: ignore[arg-type]  # any iterable
        assert parse_alpha(np.array(0.5)) == (0.5, 0.5)  # type: ignore[arg-type]

    @pytest.mark.parametrize("bad", ["", "a", "1,2,3", [], [1, None], float("nan"), {"a": 1}])
    def test_what_is_no_alpha(self, bad: object) -> None:
        with pytest.raises(ValueError, match="alpha is a number or a pair"):
            parse_alpha(bad)  # type: ignore[arg-type]  # what users give


class TestLook:
    def test_the_views_have_their_own_alpha(self) -> None:
        assert Look(view=View.OVERLAY).alpha_ends == (0.6, 0.6)
        assert Look().alpha_ends == (1.0, 1.0)
        assert Look(alpha=(0.1, 0.2)).alpha_ends == (0.1, 0.2)

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"view": "top"}, "view is one of depth, overlay, side, stack, not 'top'"),
            ({"upsampling": "nearest"}, "upsampling is one of bilinear, guided, not 'nearest'"),
            ({"alpha": 0.5}, "alpha lies in 0..1, at the nearest and at the farthest point, not 0.5"),
            ({"alpha": (0.1, 0.2, 0.3)}, "alpha lies in 0..1"),
            ({"contours": 65}, "contours must be 0 to 64 levels, not 65"),
        ],
    )
    def test_what_cannot_be_shown(self, wrong: dict[str, Any], says: str) -> None:
        with pytest.raises(UsageError) as caught:
            Look(**wrong)
        assert says in str(caught.value)

    @pytest.mark.parametrize(("style", "says"), [("zz", "unknown style 'zz'"), (7, "7")])
    def test_an_unknown_style_is_refused(self, style: Any, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            checked_style(style)

    def test_words_are_views(self) -> None:
        assert Look(view="side", upsampling="guided") == Look(view=View.SIDE, upsampling=Upsampling.GUIDED)  # type: ignore[arg-type]  # what users give
        assert Look(view="side").view is View.SIDE  # type: ignore[arg-type]

    def test_a_control_refuses_what_is_wrong_and_keeps_what_it_had(self) -> None:
        control = LookControl(Look())
        assert control.update(style="hot").style == "hot"
        with pytest.raises(ValueError, match=r"0\.\.1"):
            control.update(alpha=(2.0, 0.0))
        with pytest.raises(ValueError, match="levels"):
            control.update(contours=-1)
        assert control.look == Look(style="hot")

    def test_a_control_with_a_check_refuses_what_the_check_refuses(self) -> None:
        control = LookControl(Look())
        control.validate_with(lambda look: checked_style(look.style))
        with pytest.raises(UsageError, match="unknown style 'zz'"):
            control.update(style="zz", bar=True)
        assert control.look == Look()
        with pytest.raises(UsageError, match="unknown style 'zz'"):
            LookControl(Look(style="zz")).validate_with(lambda look: checked_style(look.style))
