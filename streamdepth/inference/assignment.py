"""Which nodes of a graph a provider took, and which ONNX Runtime gave to the CPU instead."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORD = ("session.record_ep_graph_assignment_info", "1")
"""Session configuration entry that makes :func:`of` possible."""

_HEAVY = frozenset(
    {
        *("Attention", "GroupQueryAttention", "MultiHeadAttention"),
        *("Conv", "ConvInteger", "ConvTranspose", "FusedConv", "NhwcConv", "QLinearConv"),
        *("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits", "MatMulBnb4"),
        *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul"),
    }
)
"""Operators that a network's time goes into; on the CPU each also costs two copies of its tensors."""
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Assignment:
    """Nodes by operator, those of the provider asked for and those left to the CPU."""

    taken: Counter[str]
    left: Counter[str]

    @property
    def heavy_taken(self) -> int:
        return sum(count for op, count in self.taken.items() if op in _HEAVY)

    @property
    def heavy_left(self) -> Counter[str]:
        return Counter({op: count for op, count in self.left.items() if op in _HEAVY})

    def report(self, provider: str) -> str:
        """One line where heavy nodes are left to the CPU, else empty: shape arithmetic belongs there anyway."""
        heavy = self.heavy_left
        if not heavy:
            return ""
        total = self.heavy_taken + sum(heavy.values())
        return f"provider {provider} leaves {sum(heavy.values())} of {total} heavy nodes to the CPU ({_counts(heavy)})"


def of(session: Any, ort_name: str) -> Assignment | None:
    """What ``session``, opened with ``RECORD``, gave to the provider; None where this onnxruntime cannot say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    return split(
        (
            (str(part.ep_name), str(node.op_type))
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ),
        ort_name,
    )


def split(nodes: Iterable[tuple[str, str]], ort_name: str) -> Assignment:
    """Nodes as (provider, operator), counted."""
    taken, left = Counter[str](), Counter[str]()
    for provider, operator in nodes:
        (taken if provider == ort_name else left)[operator] += 1
    return Assignment(taken, left)


def _counts(nodes: Counter[str]) -> str:
    named = [f"{count} {op}" for op, count in nodes.most_common(_NAMED)]
    rest = sum(nodes.values()) - sum(count for _, count in nodes.most_common(_NAMED))
    return ", ".join(named + ([f"{rest} others"] if rest else []))
