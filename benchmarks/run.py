"""minidl beside PyTorch and others, in one process, interleaved.

    python benchmarks/run.py                       everything, on one and on two threads
    python benchmarks/run.py networks --threads 2  one group
    python benchmarks/run.py --row 'stride 2'      what has this in its name

Writes table.md, table.json and chart.png into --out, anew after every group. Needs the package and
its peers: ``pip install -e '.[bench]'``. JAX takes part where it is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import harness
    import processes
    import report
    import torch
    import workloads

    import minidl as md
except ModuleNotFoundError as error:
    sys.exit(f"{error}. The benchmarks need: pip install -e '.[bench]'")

GROUPS: dict[str, Callable[[int], Any]] = workloads.GROUPS | processes.GROUPS
Results = list[harness.Row | harness.Limit]


def measure(group: str, threads: int, seconds: float, text: str, results: Results) -> None:
    """Add the rows of `group` that have `text` in their names, told about as they are measured."""
    md.set_num_threads(threads)
    torch.set_num_threads(threads)
    for result, make in GROUPS[group](threads):
        if text not in result.name:
            continue
        result.group = group
        if isinstance(result, harness.Row):
            harness.interleave(result, make(), seconds)
        else:
            make()
        results.append(result)
        print(f"{' ' if result.met else '*'}{result}", flush=True)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", help=f"some of {', '.join(GROUPS)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--row", default="", metavar="TEXT", help="only rows with TEXT in the name")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine, results = harness.machine(), []
    peaks = {threads: harness.Peaks.measure(threads) for threads in arguments.threads}
    for threads in arguments.threads:
        for group in arguments.groups or GROUPS:
            try:
                measure(group, threads, arguments.seconds, arguments.row, results)
            finally:  # interrupted, too
                report.write(arguments.out, results, peaks, machine)
    if not results:
        sys.exit(f"No row has {arguments.row!r} in its name.")
    print((arguments.out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
