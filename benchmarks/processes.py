"""What only a process of its own can show: its largest memory, and how long it takes to start.

Each function yields limits and, for each, a function that measures it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from harness import Limit

Work = Iterator[tuple[Limit, Callable[[], None]]]
ALONE = Path(__file__).parent / "alone.py"
REPEATS = 5
LARGE = {"shape": (1, 256, 256, 1), "classes": 2, "depth": 5, "root": 64, "batch_norm": False}
SMALL = {"shape": (4, 256, 256, 1), "classes": 2, "depth": 3, "root": 16, "batch_norm": True}
IMPORT = (
    "import time; start = time.perf_counter(); import minidl; print(time.perf_counter() - start)"
)


def _output(*command: str, cache: str | None = None) -> str:
    """What a process prints; minidl's compiled kernels are in the folder `cache`."""
    environment = os.environ | ({"MINIDL_CACHE_DIR": cache} if cache else {})
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return result.stdout


def _train(cache: str | None = None, **settings: Any) -> dict[str, float]:
    return json.loads(_output(str(ALONE), json.dumps(settings), cache=cache))


def memory(threads: int) -> Work:
    """Largest resident memory of a training run, over that of PyTorch's best layout."""
    limit = Limit("U-Net root 64, 1x256²x1, 3 steps: peak memory", 0.8, "of PyTorch's", threads)

    def measure() -> None:
        def peak(side: str) -> float:
            return _train(side=side, threads=threads, steps=3, **LARGE)["peak"] / 1e6

        peak("minidl")  # compiles, which takes memory of its own
        ours = [peak("minidl") for _ in range(REPEATS)]
        theirs = {
            side: median(peak(side) for _ in range(3))
            for side in ("pytorch", "pytorch channels-last")
        }
        best = min(theirs, key=lambda side: theirs[side])
        limit.values = [value / theirs[best] for value in ours]
        limit.note = f"{median(ours):.0f} MB, {best} {theirs[best]:.0f} MB"

    yield limit, measure


def startup(threads: int) -> Work:
    """From the start of a process to the end of its first training step, and the import alone."""
    with tempfile.TemporaryDirectory() as cache:

        def first_step() -> float:
            start = time.time()
            return _train(cache, side="minidl", threads=threads, steps=1, **SMALL)["ended"] - start

        def warm() -> None:
            if not any(Path(cache).iterdir()):
                first_step()

        network = "U-Net root 16, depth 3, batch-norm, 4x256²x1"
        cold = Limit(f"{network}: first step, empty cache", 30, "s", threads)
        yield cold, lambda: cold.values.append(first_step())
        kept = Limit(f"{network}: first step, warm cache", 2, "s", threads)
        yield kept, lambda: (warm(), kept.values.extend(first_step() for _ in range(REPEATS)))
        entry = Limit("import minidl", 0.3, "s", threads)
        yield (
            entry,
            lambda: (
                warm(),
                entry.values.extend(
                    float(_output("-c", IMPORT, cache=cache)) for _ in range(REPEATS)
                ),
            ),
        )


GROUPS = {"memory": memory, "startup": startup}
