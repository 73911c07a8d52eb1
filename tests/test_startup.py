"""What a start does without: collections of garbage, sessions and pictures that are known not to matter."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest

from streamdepth.cli import collector, main
from streamdepth.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def collecting() -> Iterator[None]:
    """The collector as it was before, afterwards."""
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.usefixtures("collecting")
class TestCollector:
    def test_release_undoes_hold_and_leaves_what_is_there_out(self) -> None:
        collector.hold()
        assert not gc.isenabled()
        collector.release()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 1000

    def test_release_leaves_a_collector_alone_that_was_not_held(self) -> None:
        gc.unfreeze()
        collector.release()
        assert gc.get_freeze_count() == 0

    def test_a_run_collects_again_once_all_is_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[str, bool]] = []
        opened, ran = Pipeline.open, Pipeline.run

        def noted(name: str, call: Any) -> Any:
            def wrapper(pipeline: Pipeline) -> Any:
                seen.append((name, gc.isenabled()))
                return call(pipeline)

            return wrapper

        monkeypatch.setattr(Pipeline, "open", noted("open", opened))
        monkeypatch.setattr(Pipeline, "run", noted("run", ran))
        monkeypatch.setattr(sys, "argv", ["streamdepth", "run", "test:?frames=2", "-o", "null:", "--quiet"])
        assert main() == 0
        assert seen[:2] == [("open", False), ("run", True)]

    def test_every_other_command_collects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[bool] = []

        def examine() -> list[Any]:
            seen.append(gc.isenabled())
            return []

        monkeypatch.setattr("streamdepth.doctor.examine", examine)
        monkeypatch.setattr(sys, "argv", ["streamdepth", "doctor", "--json"])
        main()
        assert seen == [True]

    def test_a_process_that_goes_on_keeps_its_collector(self) -> None:
        gc.unfreeze()
        assert main(["styles"]) == 0
        assert gc.isenabled()
        assert gc.get_freeze_count() == 0
