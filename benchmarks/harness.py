"""How the benchmarks measure: interleaved, so that a noisy machine disturbs both sides alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from random import Random
from statistics import median

import numpy as np

Job = Callable[[], object]
# Before each run. OpenMP's threads spin for some milliseconds after their work, waiting for more,
# and would take a core from whoever is measured next: without the pause that cost us 20 % on two
# threads.
PAUSE = 0.02


def on(threads: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{threads} thread" + "s" * (threads > 1)


@dataclass
class Row:
    """One workload: how long each side takes, in seconds, run by run.

    Attributes
    ----------
    name, floor : what it is, and the ratio that is asked for
    threads : threads of either side
    operations : floating-point operations of the plain algorithm, or 0 where they say nothing
    traffic : bytes that have to be read or written at least, or 0 where nobody has counted
    scale : factors for the times of sides that do less or more work than ours
    times : for each side the seconds of each run; 'minidl' is ours
    note : which algorithm ran
    group : of workloads
    """

    name: str
    floor: float
    threads: int
    operations: float = 0.0
    traffic: float = 0.0
    scale: dict[str, float] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""
    group: str = ""

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
    def met(self) -> bool:
        """Whether it is what is asked for."""
        return self.ratio >= self.floor

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of our times, as a share of their median."""
        low, high = np.quantile(self.times["minidl"], [0.25, 0.75])
        return (high - low) / 2 / self.median("minidl")

    @property
    def gflops(self) -> float:
        """Effective billions of operations a second: those of the plain algorithm."""
        return self.operations / self.median("minidl") / 1e9

    @property
    def bandwidth(self) -> float:
        """Billions of bytes a second, of those that are needed."""
        return self.traffic / self.median("minidl") / 1e9

    def __str__(self) -> str:
        return f"{self.ratio:6.2f} (at least {self.floor}) {self.name}, {on(self.threads)}"


@dataclass
class Limit:
    """Something that must not be too large: seconds, or memory beside that of another.

    Attributes
    ----------
    name, limit, unit : what it is, and what it may be at most
    threads : threads it ran on
    values : what was measured, run by run; the median counts
    note : how it came about
    group : of workloads
    """

    name: str
    limit: float
    unit: str
    threads: int
    values: list[float] = field(default_factory=list)
    note: str = ""
    group: str = ""

    @property
    def value(self) -> float:
        """What counts."""
        return median(self.values)

    @property
    def met(self) -> bool:
        """Whether it is what is asked for."""
        return self.value <= self.limit

    def __str__(self) -> str:
        asked = f"(at most {self.limit} {self.unit})"
        return f"{self.value:6.2f} {asked} {self.name}, {on(self.threads)}"


def interleave(row: Row, sides: dict[str, Job], seconds: float, least: int = 5) -> None:
    """Run all sides, first twice unseen, then for `seconds` or `least` rounds.

    Each round has an order of its own, so that nobody always runs behind the same one.
    """
    for job in sides.values():  # compile, allocate, choose algorithms
        job()
        job()
    row.times = {side: [] for side in sides}
    turns, shuffle = list(sides.items()), Random(0).shuffle
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(row.times["minidl"]) < least:
        shuffle(turns)
        for side, job in turns:
            time.sleep(PAUSE)
            start = time.perf_counter()
            job()
            row.times[side].append((time.perf_counter() - start) * row.scale.get(side, 1.0))


def _least_seconds(
    work: Callable[[np.ndarray], None], arrays: list[np.ndarray], runs: int
) -> float:
    """Shortest time in which as many threads as there are arrays do their work, each on its own."""
    times = []
    with ThreadPoolExecutor(len(arrays)) as pool:
        for _ in range(runs):
            start = time.perf_counter()
            list(pool.map(work, arrays))
            times.append(time.perf_counter() - start)
    return min(times)


def peak_gflops(threads: int) -> float:
    """What the micro-kernel reaches on so many threads, with everything in their first caches."""
    from minidl.kernels import gemm, simd

    rows, run, width = gemm.ROW_BLOCK, 64, gemm.TILE_VECTORS * simd.FLOAT32_LANES
    a, b = np.ones(run, np.float32), np.ones(run * width, np.float32)
    runs = np.zeros(256, np.int64)  # one and the same run, again and again

    def tiles(c: np.ndarray) -> None:
        """Every row of C is the same row of A times B."""
        gemm.multiply_block(
            a, 0, 0, 1, runs, b, 0, width, runs, len(runs), run, width, c, 0, width, c, 0, width,
            width, rows, False,
        )  # fmt: skip

    sums = [np.zeros(rows * width, np.float32) for _ in range(threads)]
    operations = 2 * threads * rows * run * len(runs) * width
    return operations / _least_seconds(tiles, sums, 100) / 1e9


def peak_bandwidth(threads: int) -> float:
    """Billions of bytes a second that ``a += b`` reads and writes, of arrays beyond all caches.

    In place, as optimisers work: what is written was read, and is not fetched for it once more.
    """
    parts = [np.ones((2, 12 << 20), np.float32) for _ in range(threads)]

    def add(part: np.ndarray) -> None:
        np.add(part[0], part[1], out=part[0])

    moved = sum(1.5 * part.nbytes for part in parts)
    return moved / _least_seconds(add, parts, 20) / 1e9


@dataclass(frozen=True)
class Peaks:
    """The best of this machine: arithmetic in GF/s, memory in GB/s."""

    gflops: float
    bandwidth: float

    @classmethod
    def measure(cls, threads: int) -> Peaks:
        """On so many threads."""
        return cls(peak_gflops(threads), peak_bandwidth(threads))

    def shares(self, row: Row) -> tuple[str, str]:
        """How near `row` comes to either; nothing where that was not counted."""
        arithmetic = f"{row.gflops / self.gflops:.0%}" if row.operations else ""
        memory = f"{row.bandwidth / self.bandwidth:.0%}" if row.traffic else ""
        return arithmetic, memory


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    from minidl import __version__

    versions = {"minidl": __version__}
    for name in ("numpy", "numba", "torch", "onnxruntime", "openvino", "jax"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "-"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor()} ({os.cpu_count()} cores)"
