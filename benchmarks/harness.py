"""How the benchmarks measure: interleaved, so that a noisy machine disturbs both sides alike."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from statistics import median

import numpy as np

Job = Callable[[], object]
# Before each run. OpenMP's threads spin for some milliseconds after their work, waiting for more,
# and would take a core from whoever is measured next: without the pause that cost us 20 % on two
# threads.
PAUSE = 0.02


@dataclass
class Row:
    """One workload: how long each side takes, in seconds, run by run.

    Attributes
    ----------
    name, floor : what it is, and the ratio that is asked for
    threads : threads of either side
    operations : floating-point operations of the plain algorithm, or 0 where they say nothing
    times : for each side the seconds of each run; 'minidl' is ours
    note : which algorithm ran
    """

    name: str
    floor: float
    threads: int
    operations: float = 0.0
    times: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    def median(self, side: str) -> float:
        """Median seconds of a side."""
        return median(self.times[side])

    @property
    def rival(self) -> str:
        """The fastest of the others."""
        return min((side for side in self.times if side != "minidl"), key=self.median)

    @property
    def ratio(self) -> float:
        """Time of the fastest rival over ours: above 1 we win."""
        return self.median(self.rival) / self.median("minidl")

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of our times, as a share of their median."""
        low, high = np.quantile(self.times["minidl"], [0.25, 0.75])
        return (high - low) / 2 / self.median("minidl")

    @property
    def gflops(self) -> float:
        """Effective billions of operations a second: those of the plain algorithm."""
        return self.operations / self.median("minidl") / 1e9


def interleave(row: Row, sides: dict[str, Job], seconds: float, least: int = 5) -> Row:
    """Run all sides in turn, first once or twice unseen, then for `seconds` or `least` rounds."""
    for job in sides.values():  # compile, allocate, choose algorithms
        job()
        job()
    row.times = {side: [] for side in sides}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(row.times["minidl"]) < least:
        for side, job in sides.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            job()
            row.times[side].append(time.perf_counter() - start)
    return row


def peak_gflops() -> float:
    """What the micro-kernel reaches on one core with everything in its first cache."""
    from minidl.kernels import gemm, simd

    rows, depth, width = gemm.ROW_BLOCK, 256, gemm.TILE_VECTORS * simd.FLOAT32_LANES
    a = np.ones(depth, np.float32)  # one and the same row, again and again
    b = np.ones(depth * width, np.float32)
    c = np.zeros(rows * width, np.float32)

    def tiles() -> None:
        for _ in range(20):
            gemm.multiply_block(
                a, 0, 0, 1, b, 0, width, gemm.TILE_VECTORS, c, 0, width, rows, depth, False
            )

    times = []
    tiles()
    for _ in range(50):
        start = time.perf_counter()
        tiles()
        times.append(time.perf_counter() - start)
    return 20 * 2 * rows * depth * width / min(times) / 1e9


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    versions = {}
    for name in ("numpy", "numba", "torch", "onnxruntime", "openvino"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "-"
    with open("/proc/cpuinfo") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return {
        "processor": f"{models[0]} ({len(models)} cores)" if models else platform.processor(),
        "python": platform.python_version(),
        **versions,
    }
