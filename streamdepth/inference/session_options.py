"""What every session of ONNX Runtime is told, whatever it runs on."""

from __future__ import annotations

from typing import Any

from streamdepth.core.host import cores
from streamdepth.core.threads import plan_threads


def made(threads: int | None) -> Any:
    """``SessionOptions`` for so many threads of one operator on the CPU; None = planned from the cores."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    # everything that matters comes as an exception as well; what ONNX Runtime logs beside it is its own affair
    options.log_severity_level = 4
    options.intra_op_num_threads = plan_threads(cores()).session if threads is None else threads
    options.add_session_config_entry(*spin(ort.__version__))
    return options


def spin(version: str) -> tuple[str, str]:
    """How long a thread of ONNX Runtime's spins for work before it sleeps.

    By default it spins until it gets some, which takes the cores from decoder and encoder: 15.5 ms of CPU for a run of
    8 (256x192, two cores). Not at all costs a wake-up for every operator: 5.2 ms a run against 4.0 with 20 us.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) >= (1, 31):
        return "session.intra_op.spin_duration_us", "20"
    return "session.intra_op.allow_spinning", "0"
