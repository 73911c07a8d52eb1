"""One declaration per option: command line, validation and reference are derived from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pytest
import typer

from streamdepth.cli import main
from streamdepth.cli.main import _with_values, entry
from streamdepth.config import RunConfig
from streamdepth.config.commands import BEGIN, COMMANDS, END, reference
from streamdepth.config.options import Option
from streamdepth.config.settings import PANELS, Settings
from streamdepth.core import limits
from streamdepth.core.errors import UsageError
from streamdepth.core.limits import Bounds
from streamdepth.sinks.rtsp.media import check_encoding

if TYPE_CHECKING:
    from collections.abc import Callable

README = Path(__file__).parents[2] / "configs" / "README.md"


class _Example(Settings):
    """A configuration with one option of its own."""

    speed: Annotated[
        int,
        Bounds(1, 9, "knots"),
        Option("Speed of the ship.", short="-v"),
    ] = 3
    sail: Annotated[Literal["main", "jib"], Option("Sail to set [one].")] = "main"
    ports: Annotated[tuple[str, ...], Option("Ports to call at. Repeatable.", flag="--port")] = ()


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[_Example], str]:
    called: list[_Example] = []

    def sail(config: _Example) -> None:
        """Go to sea."""
        called.append(config)

    app = typer.Typer(rich_markup_mode="rich")
    app.command()(entry("sail", _Example, sail))
    app(arguments, standalone_mode=False)
    return called, capsys.readouterr().out


class TestCommandLine:
    def test_options_come_from_the_fields(self, capsys: pytest.CaptureFixture[str]) -> None:
        (config,), _ = _run(["-v", "7", "--sail", "jib", "--port", "Brest", "--port", "Vigo"], capsys)
        assert (config.speed, config.sail, config.ports) == (7, "jib", ("Brest", "Vigo"))
        (config,), _ = _run([], capsys)
        assert (config.speed, config.sail, config.ports) == (3, "main", ())

    def test_help_shows_range_choices_and_default(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, text = _run(["--help"], capsys)
        said = " ".join(text.replace("│", " ").split())
        assert "Go to sea." in said
        assert "Speed of the ship. [1 to 9 knots] [default: 3]" in said
        assert "main|jib Sail to set [one]. [default: main]" in said
        assert "--port" in said
        assert "--ports" not in said

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["-v", "10"], "speed must be 1 to 9 knots, not 10"),
            (["-v", "fast"], "speed must be a whole number, not 'fast'"),
            (["--sail", "mian"], "sail: 'mian' is not one of main, jib (did you mean 'main'?)"),
        ],
    )
    def test_what_is_wrong_is_named(self, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(UsageError) as caught:
            _run(arguments, capsys)
        assert str(caught.value) == says


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_declared_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    declared = [one for one in COMMANDS[command].declared(command) if one.option.cli and not one.option.argument]
    assert declared
    for one in declared:
        assert f" {one.flag} " in said
    flags = {word for word in said.split() if word.startswith("--") and word[2:].replace("-", "").isalnum()}
    assert flags <= {one.flag for one in declared} | {"--help", "--crf", "--alpha", "--json", "--json."}


@pytest.mark.parametrize("command", COMMANDS)
def test_declarations_are_complete(command: str) -> None:
    for one in COMMANDS[command].declared(command):
        assert one.option.help.endswith("."), one.key
        assert one.option.panel in PANELS
    assert all(COMMANDS.get(name) for one in Settings.declared(command) for name in one.option.commands)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run --policy l", ["latest"]),
        ("run --provider op", ["openvino"]),
        ("run --style viri", ["viridis"]),
        ("bench --dtype q4", ["q4", "q4f16"]),
        ("models show --dtype fp", ["fp32", "fp16"]),
    ],
)
def test_the_shell_completes_values(
    words: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_WORDS", f"streamdepth {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    monkeypatch.setenv("_STREAMDEPTH_COMPLETE", "complete_bash")
    with pytest.raises(SystemExit, match="0"):  # Typer leaves the process after completions
        main([])
    assert capsys.readouterr().out.split() == offered


def test_the_reference_is_up_to_date() -> None:
    """``python -m streamdepth.config configs/README.md`` writes it."""
    text = README.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == reference().strip()


class TestLimits:
    @pytest.mark.parametrize(
        ("option", "value", "check"),
        [
            ("gop", 61, lambda: check_encoding(rate=None, bitrate=None, gop_seconds=61, preset="fast")),
            ("stream-rate", 241, lambda: check_encoding(rate=241, bitrate=None, gop_seconds=1, preset="fast")),
            ("bitrate", 9, lambda: check_encoding(rate=None, bitrate=9000, gop_seconds=1, preset="fast")),
        ],
    )
    def test_options_and_code_have_the_same(self, option: str, value: float, check: Callable[[], None]) -> None:
        with pytest.raises(UsageError) as on_the_line:
            COMMANDS["run"].load({option.replace("-", "_"): value}, command="run")
        with pytest.raises(UsageError) as in_code:
            check()
        assert (
            str(on_the_line.value).partition(" must be ")[2].partition(",")[0]
            == (str(in_code.value).partition(" must be ")[2].partition(",")[0])
        )

    def test_ends(self) -> None:
        assert 0.1 in limits.GOP_SECONDS
        assert 60 in limits.GOP_SECONDS
        assert 0 not in limits.STREAM_RATE
        assert 1e-9 in limits.STREAM_RATE
        assert float("nan") not in limits.CRF
        assert str(limits.STREAM_RATE) == "more than 0 and at most 240 frames per second"
        assert str(limits.RETRIES) == "0 or more"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["run", "--show", "clip.mp4"], ["run", "--show=window", "clip.mp4"]),
        (["run", "test:", "--show", "rerun"], ["run", "test:", "--show=rerun"]),
        (["run", "test:", "--show"], ["run", "test:", "--show=window"]),
        (["run", "--show=rerun", "--", "--show"], ["run", "--show=rerun", "--", "--show"]),
        (["image", "--show"], ["image", "--show"]),
    ],
)
def test_an_option_that_may_stand_without_a_value(given: list[str], meant: list[str]) -> None:
    assert _with_values(given) == meant


@pytest.mark.parametrize(("value", "meant"), [(True, "window"), (False, None), ("rerun", "rerun")])
def test_show_in_a_file(value: object, meant: str | None) -> None:
    assert RunConfig.load({"show": value}, command="run").show == meant
