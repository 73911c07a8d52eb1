"""ONNX Runtime: options of its sessions, its errors as ours, and which nodes of a graph a provider took."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import InferenceError, ModelError, ModelNotFoundError
from streamdepth.core.host import cores, plan_threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamdepth.models.spec import ModelSpec


def session_options(threads: int | None) -> Any:
    """``SessionOptions`` with this number of threads for an operator on the CPU; None = planned from the cores."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    # errors come as exceptions; the log repeats them
    options.log_severity_level = 4
    options.intra_op_num_threads = plan_threads(cores()).session if threads is None else threads
    options.add_session_config_entry(*spin(ort.__version__))
    # x86 processors without VNNI add pairs of products of int8 weights in saturating 16 bits, which gives wrong depth
    # without an error; with this entry they use uint8 weights. It changes nothing on other processors.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def spin(version: str) -> tuple[str, str]:
    """Session entry that limits how long an idle thread of ONNX Runtime spins before it sleeps.

    By default it spins without limit and takes the cores from decoder and encoder: 15.5 ms of CPU for a run of 8
    (256x192, two cores). No spinning costs a wake-up for every operator: 5.2 ms a run, 4.0 with 20 us.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) >= (1, 31):
        return "session.intra_op.spin_duration_us", "20"
    return "session.intra_op.allow_spinning", "0"


_LIMIT = 200
_OPSET = re.compile(r"opset (\d+) is under development|till opset (\d+)|support for opset (\d+)", re.IGNORECASE)
_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_MISSING_OP = re.compile(r"Could not find an implementation for (\S+)")
_UNKNOWN_OP = re.compile(r"(?:No Op registered for|is not a registered function/op) ?(\S*)|Fatal error: (\S+) is not")
_EXTERNAL = re.compile(r"external (?:data|initializer)|\.onnx_data|\.data\b", re.IGNORECASE)


def first_line(exc: BaseException) -> str:
    """The first line of an exception's text, without ONNX Runtime's status prefix, cut to a readable length."""
    lines = str(exc).strip().splitlines()
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0] if lines else type(exc).__name__)
    line = re.sub(r"\S*/onnxruntime/\S+:\d+ ", "", line)  # source file and line of the build
    return line if len(line) <= _LIMIT else line[: _LIMIT - 3] + "..."


def load_error(exc: BaseException, spec: ModelSpec) -> ModelError | None:
    """The error of a model that cannot be loaded; None where the text does not blame the model."""
    kind, text, name = type(exc).__name__, str(exc), spec.name
    if _IR.search(text) or _OPSET.search(text):
        return ModelError(
            f"{name}: needs a newer ONNX than this onnxruntime has ({first_line(exc)}); update onnxruntime, or "
            "export the model with a lower opset"
        )
    missing = _MISSING_OP.search(text)
    if missing:
        return ModelError(
            f"{name}: onnxruntime has no kernel for {missing[1]} as this model uses it; try another --dtype, or update "
            "onnxruntime"
        )
    unknown = _UNKNOWN_OP.search(text)
    if unknown:
        return ModelError(
            f"{name}: uses an operator that this onnxruntime does not have ({first_line(exc)}); export it with "
            "standard operators, or update onnxruntime"
        )
    if spec.external_data and _EXTERNAL.search(text):
        return ModelError(f"{name}: its external weights cannot be read ({first_line(exc)}); copy or download it again")
    if kind == "NoSuchFile":
        return ModelNotFoundError(f"{name}: {spec.path}: no such file; check the path")
    if kind in ("InvalidProtobuf", "InvalidGraph", "InvalidArgument") or isinstance(exc, UnicodeDecodeError):
        return ModelError(f"{name}: damaged or not a valid ONNX model ({first_line(exc)}); export or download it again")
    return None


def run_error(exc: BaseException, spec: ModelSpec, size: tuple[int, int], rows: int) -> InferenceError:
    """A failed run at (width, height) ``size`` with ``rows`` images at once."""
    text = str(exc)
    if "Failed to allocate" in text or "bad_alloc" in text or "out of memory" in text.lower():
        hint = "use a smaller --size or --batch, or a smaller dtype"
    else:
        known = spec.origins.get("preprocessing") not in ("default", "name")
        rule = f"multiples of {spec.preprocessing.multiple_of}" if known else "multiples of 32, such as 512x384"
        hint = f"try another --size ({rule}), or --batch 1"
    return InferenceError(f"{spec.name}: failed at {size[0]}x{size[1]}, batch {rows}: {first_line(exc)}; {hint}")


RECORD = ("session.record_ep_graph_assignment_info", "1")
"""Session entry that records what :func:`assignment_of` reads."""

_HEAVY = frozenset(
    {
        *("Attention", "GroupQueryAttention", "MultiHeadAttention"),
        *("Conv", "ConvInteger", "ConvTranspose", "FusedConv", "NhwcConv", "QLinearConv"),
        *("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits", "MatMulBnb4"),
        *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul"),
    }
)
"""Operators that take most of a network's time; on the CPU each also costs two copies of its tensors."""
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Assignment:
    """Nodes by operator: those that the provider took, and those left to the CPU."""

    taken: Counter[str]
    left: Counter[str]

    @property
    def heavy_taken(self) -> int:
        return sum(count for op, count in self.taken.items() if op in _HEAVY)

    @property
    def heavy_left(self) -> Counter[str]:
        return Counter({op: count for op, count in self.left.items() if op in _HEAVY})

    def report(self, provider: str) -> str:
        """One line if heavy nodes are left to the CPU, else empty. Shape arithmetic always runs on the CPU."""
        heavy = self.heavy_left
        if not heavy:
            return ""
        total = self.heavy_taken + sum(heavy.values())
        return f"provider {provider} leaves {sum(heavy.values())} of {total} heavy nodes to the CPU ({_counts(heavy)})"


def assignment_of(session: Any, ort_name: str) -> Assignment | None:
    """Nodes that the provider of a session opened with ``RECORD`` took; None where this onnxruntime has no record."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    return split_nodes(
        (
            (str(part.ep_name), str(node.op_type))
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ),
        ort_name,
    )


def split_nodes(nodes: Iterable[tuple[str, str]], ort_name: str) -> Assignment:
    """Count nodes given as (provider, operator)."""
    taken, left = Counter[str](), Counter[str]()
    for provider, operator in nodes:
        (taken if provider == ort_name else left)[operator] += 1
    return Assignment(taken, left)


def _counts(nodes: Counter[str]) -> str:
    named = [f"{count} {op}" for op, count in nodes.most_common(_NAMED)]
    rest = sum(nodes.values()) - sum(count for _, count in nodes.most_common(_NAMED))
    return ", ".join(named + ([f"{rest} others"] if rest else []))
