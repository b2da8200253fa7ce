"""minidl beside PyTorch and others, in one process, interleaved.

    python benchmarks/run.py                       everything, on one and on two threads
    python benchmarks/run.py networks --threads 2  one group

Writes table.md, table.json and chart.png into --out. Needs ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import harness
import torch
import workloads

import minidl as md


def measure(groups: list[str], threads: int, seconds: float) -> list[harness.Row]:
    """All rows of `groups`, told about while they are measured."""
    md.set_num_threads(threads)
    torch.set_num_threads(threads)
    rows = []
    for group in groups:
        for row, jobs in workloads.GROUPS[group](threads):
            rows.append(harness.interleave(row, jobs, seconds))
            mark = " " if row.ratio >= row.floor else "*"
            print(
                f"{row.ratio:6.2f}{mark} (>= {row.floor}) {row.name}, {threads} threads", flush=True
            )
    return rows


def markdown(rows: list[harness.Row], peak: float, machine: dict[str, str]) -> str:
    """The table, losses marked."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    lines += [
        f"- measured peak of one core: {peak:.0f} GF/s",
        "",
        "| workload | threads | minidl ms | best other ms | which | ratio | asked | spread "
        "| GF/s | of peak | algorithm |",
        "| --- | --: | --: | --: | --- | --: | --: | --: | --: | --: | --- |",
    ]
    for row in rows:
        speed = f"{row.gflops:.0f}" if row.operations else ""
        share = f"{row.gflops / peak / row.threads:.0%}" if row.operations else ""
        verdict = f"{row.ratio:.2f}" if row.ratio >= row.floor else f"**{row.ratio:.2f}**"
        lines.append(
            f"| {row.name} | {row.threads} | {row.median('minidl') * 1e3:.2f} "
            f"| {row.median(row.rival) * 1e3:.2f} | {row.rival} | {verdict} | {row.floor} "
            f"| {row.spread:.0%} | {speed} | {share} | {row.note} |"
        )
    return "\n".join(lines) + "\n"


def chart(rows: list[harness.Row], path: Path) -> None:
    """Ratios as bars: what is longer than 1 is faster than the fastest of the others."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.name for row in rows))
    counts = sorted({row.threads for row in rows})
    figure = Figure(figsize=(9, 0.28 * len(names) * len(counts) / 1.6 + 1), layout="constrained")
    axes = figure.subplots()
    thickness = 0.8 / len(counts)
    for number, threads in enumerate(counts):
        mine = [row for row in rows if row.threads == threads]
        places = [names.index(row.name) + number * thickness for row in mine]
        label = f"{threads} thread" + "s" * (threads > 1)
        axes.barh(places, [row.ratio for row in mine], thickness * 0.9, label=label)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([i + 0.4 - thickness / 2 for i in range(len(names))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time of the fastest other / time of minidl")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("groups", nargs="*", help=f"some of {', '.join(workloads.GROUPS)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - set(workloads.GROUPS)
    if unknown:
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(workloads.GROUPS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    peak, machine = harness.peak_gflops(), harness.machine()
    rows = []
    for threads in arguments.threads:
        rows += measure(arguments.groups or list(workloads.GROUPS), threads, arguments.seconds)
        names = [row.name for row in rows]
        rows = sorted(rows, key=lambda row: names.index(row.name))
        table = markdown(rows, peak, machine)
        (arguments.out / "table.md").write_text(table)
        record = {"machine": machine, "peak_gflops": peak, "rows": [vars(row) for row in rows]}
        (arguments.out / "table.json").write_text(json.dumps(record, indent=1))
        chart(rows, arguments.out / "chart.png")
    print(table)


if __name__ == "__main__":
    main()
