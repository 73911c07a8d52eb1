"""Measurement of this machine: providers, dtypes, sizes and batches, and the time of each stage."""

from streamdepth.bench.measure import ModelRun, StageCost, WholeRun
from streamdepth.bench.run import BenchReport, Comparison, bench, compare, load_report

__all__ = [
    "BenchReport",
    "Comparison",
    "ModelRun",
    "StageCost",
    "WholeRun",
    "bench",
    "compare",
    "load_report",
]
