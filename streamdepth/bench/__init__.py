"""Measuring on the machine at hand: providers, dtypes, sizes and batches, and where the time of a run goes."""

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
