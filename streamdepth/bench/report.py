"""Results of a benchmark as frozen values, to JSON and back, and the comparison of two of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1
_NOISE = 0.1
"""Relative difference of two measurements of the same thing on an idle machine."""


@dataclass(frozen=True, slots=True)
class ModelRun:
    """The model alone, in one setting.

    Attributes:
        size: network input, ``WxH``.
        frame_ms: median milliseconds per frame. None if the setting does not run; ``note`` says why.
        cpu_ms: CPU milliseconds per frame, all threads.
        batch_ms: median milliseconds per batch.
        correlation: with the depth of the same image on the CPU provider; None if nothing was compared.
    """

    provider: str
    dtype: str
    size: str
    batch: int
    frame_ms: float | None = None
    cpu_ms: float | None = None
    batch_ms: float | None = None
    correlation: float | None = None
    note: str = ""

    @property
    def key(self) -> str:
        return f"{self.provider} {self.dtype} {self.size} batch {self.batch}"

    @property
    def options(self) -> str:
        """The setting as command-line options."""
        return f"--provider {self.provider} --dtype {self.dtype} --size {self.size} --batch {self.batch}"


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage alone, with its own threads: milliseconds per frame."""

    name: str
    wall_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class WholeRun:
    """All stages at the same time, as in ``streamdepth run``.

    Attributes:
        bound_fps: frames per second if the cores only decoded, inferred and encoded.
        efficiency: ``fps / bound_fps``.
        idle: share of the cores' time that this process did not use: it waited, or other processes ran.
        elsewhere_cpu_ms: CPU milliseconds per frame beyond the sum of the stages.
        model_every: frames per run of the model; depth of the others was propagated.
    """

    frames: int
    fps: float
    cpu_ms: float
    bound_fps: float
    efficiency: float
    idle: float
    elsewhere_cpu_ms: float
    model_every: int = 1


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All results.

    Attributes:
        recommended: one of ``runs``, None if nothing ran.
        propagating: as ``whole``, with depth propagated between key frames.
    """

    machine: Mapping[str, str]
    model: str
    source: str
    runs: tuple[ModelRun, ...]
    stages: tuple[StageCost, ...]
    whole: WholeRun | None
    recommended: ModelRun | None
    notes: tuple[str, ...] = ()
    propagating: WholeRun | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"format": FORMAT, **asdict(self), "machine": dict(self.machine)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BenchReport:
        """
        Raises:
            ValueError, TypeError, KeyError: not such a report.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, not {FORMAT}")
        return cls(
            machine={str(key): str(value) for key, value in values["machine"].items()},
            model=str(values["model"]),
            source=str(values["source"]),
            runs=tuple(ModelRun(**run) for run in values["runs"]),
            stages=tuple(StageCost(**stage) for stage in values["stages"]),
            whole=None if values["whole"] is None else WholeRun(**values["whole"]),
            recommended=None if values["recommended"] is None else ModelRun(**values["recommended"]),
            notes=tuple(values["notes"]),
            propagating=None if values.get("propagating") is None else WholeRun(**values["propagating"]),
        )

    def values_ms(self) -> dict[str, float]:
        """Name -> milliseconds per frame, for comparison."""
        values = {f"model {run.key}": run.frame_ms for run in self.runs if run.frame_ms is not None}
        values |= {f"stage {stage.name} (CPU)": stage.cpu_ms for stage in self.stages}
        if self.whole is not None and self.whole.fps > 0:
            values["whole run"] = 1000 / self.whole.fps
            values["whole run (CPU)"] = self.whole.cpu_ms
        if self.propagating is not None and self.propagating.fps > 0:
            values[f"whole run, --model-every {self.propagating.model_every}"] = 1000 / self.propagating.fps
        return values


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value before and now, in milliseconds per frame."""

    name: str
    before_ms: float
    now_ms: float

    @property
    def ratio(self) -> float:
        """Above 1: faster now."""
        return self.before_ms / self.now_ms if self.now_ms > 0 else float("inf")

    @property
    def outcome(self) -> str:
        """``faster``, ``slower``, or ``same`` within a tenth."""
        if self.ratio > 1 + _NOISE:
            return "faster"
        return "slower" if self.ratio < 1 / (1 + _NOISE) else "same"


def compare(before: BenchReport, now: BenchReport) -> tuple[Comparison, ...]:
    """The values that both reports have, in the order of ``now``."""
    then = before.values_ms()
    return tuple(Comparison(name, then[name], value) for name, value in now.values_ms().items() if name in then)


def load_report(path: Path) -> BenchReport:
    """A report written with ``bench --json``.

    Raises:
        UsageError: it cannot be read or is not such a report.
    """
    try:
        return BenchReport.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"report {path}: {error.strerror}; give a file written with bench --json") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"report {path}: not a report of bench --json ({error}); write it again") from None
