"""What a benchmark found: frozen values, to JSON and back, and the comparison of two of them."""

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
"""Two measurements of the same thing on a quiet machine differ by so much."""


@dataclass(frozen=True, slots=True)
class ModelRun:
    """The model alone, one setting.

    Attributes:
        size: network input, ``WxH``.
        frame_ms: median milliseconds a frame. None where the setting does not run, which ``note`` explains.
        cpu_ms: CPU milliseconds a frame, all threads.
        batch_ms: how long a frame waits for its batch.
        correlation: with the same image on the CPU provider in the same dtype; None where nothing was compared.
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
        """As the command line takes them."""
        return f"--provider {self.provider} --dtype {self.dtype} --size {self.size} --batch {self.batch}"


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage alone, on its own thread or threads: milliseconds a frame."""

    name: str
    wall_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class WholeRun:
    """All stages at once, as ``streamdepth run`` does it.

    Attributes:
        bound_fps: what the cores could do if they did nothing but decode, infer and encode.
        efficiency: ``fps / bound_fps``.
        idle: share of the cores' time this process did not use, for want of work or because others had it.
        elsewhere_cpu_ms: CPU milliseconds a frame beyond the stages' sum.
        model_every: frames for one run of the model; depth of the others was propagated.
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
    """Everything measured.

    Attributes:
        recommended: a :class:`ModelRun` of ``runs``, None where nothing ran.
        sparing: as ``whole``, with fewer runs of the model.
    """

    machine: Mapping[str, str]
    model: str
    source: str
    runs: tuple[ModelRun, ...]
    stages: tuple[StageCost, ...]
    whole: WholeRun | None
    recommended: ModelRun | None
    notes: tuple[str, ...] = ()
    sparing: WholeRun | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
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
            sparing=None if values.get("sparing") is None else WholeRun(**values["sparing"]),
        )

    def values_ms(self) -> dict[str, float]:
        """Milliseconds a frame of everything that two reports may share, by name."""
        values = {f"model {run.key}": run.frame_ms for run in self.runs if run.frame_ms is not None}
        values |= {f"stage {stage.name} (CPU)": stage.cpu_ms for stage in self.stages}
        if self.whole is not None and self.whole.fps > 0:
            values["whole run"] = 1000 / self.whole.fps
            values["whole run (CPU)"] = self.whole.cpu_ms
        if self.sparing is not None and self.sparing.fps > 0:
            values[f"whole run, --model-every {self.sparing.model_every}"] = 1000 / self.sparing.fps
        return values


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value then and now, in milliseconds a frame."""

    name: str
    before_ms: float
    now_ms: float

    @property
    def ratio(self) -> float:
        """Above 1 = faster now."""
        return self.before_ms / self.now_ms if self.now_ms > 0 else float("inf")

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, or ``same`` within a tenth."""
        if self.ratio > 1 + _NOISE:
            return "faster"
        return "slower" if self.ratio < 1 / (1 + _NOISE) else "same"


def compare(before: BenchReport, now: BenchReport) -> tuple[Comparison, ...]:
    """Whatever both have measured, in the order of ``now``."""
    then = before.values_ms()
    return tuple(Comparison(name, then[name], value) for name, value in now.values_ms().items() if name in then)


def load_report(path: Path) -> BenchReport:
    """A report written with ``bench --json``.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    try:
        return BenchReport.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"report {path}: {error.strerror}; give a file written with bench --json") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"report {path} is not one of bench --json ({error}); write it again") from None
