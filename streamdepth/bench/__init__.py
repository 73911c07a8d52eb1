"""Measurement of this machine: providers, dtypes, sizes and batches, and the time of each stage."""

from streamdepth.bench.report import BenchReport, Comparison, ModelRun, StageCost, WholeRun, compare, load_report
from streamdepth.bench.run import bench

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
