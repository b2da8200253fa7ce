"""What was measured, as Markdown, as JSON, and as a chart."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import Limit, Peaks, Row, on

STEADY = "sizes"  # the group in which minidl is its own rival
TITLES = {
    "networks": "Whole networks",
    "segmentation": "Networks of the papers",
    "square": "Convolutions 3x3, C = F",
    "layers": "Between convolutions, fwd+bwd",
    "other": "Other convolutions",
    "optimisers": "Optimisers",
}
THREADS = ("#8fbbe0", "#1f5f99")  # of bars for few threads and for many
LOSSES = ("#f2b27e", "#c8501e")


def write(
    folder: Path, results: Sequence[Row | Limit], peaks: dict[int, Peaks], machine: dict[str, str]
) -> None:
    """Write table.md, summary.md, table.json and chart.png, each whole or not at all."""
    names = [result.name for result in results]
    results = sorted(results, key=lambda result: names.index(result.name))
    rows = [result for result in results if isinstance(result, Row)]
    limits = [result for result in results if isinstance(result, Limit)]
    text = markdown(rows, limits, peaks, machine)
    record = {
        "machine": machine,
        "peaks": {threads: vars(peak) for threads, peak in peaks.items()},
        "rows": [_row_record(row) for row in rows],
        "limits": [vars(limit) | {"value": limit.value, "met": limit.met} for limit in limits],
    }
    _replace(folder / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    brief = summary(rows, peaks)
    _replace(folder / "summary.md", lambda path: path.write_text(brief, encoding="utf-8"))
    _replace(folder / "table.json", lambda path: path.write_text(json.dumps(record, indent=1)))
    if shown := [row for row in rows if row.group != STEADY]:
        _replace(folder / "chart.png", lambda path: chart(shown, machine, path))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside `path`, then put it in its place: an interruption leaves the old one."""
    beside = path.with_name("." + path.name)
    write(beside)
    os.replace(beside, path)


def _row_record(row: Row) -> dict[str, Any]:
    found = {"rival": row.rival, "ratio": row.ratio, "met": row.met, "spread": row.spread}
    return vars(row) | found | {"gflops": row.gflops, "bandwidth": row.bandwidth}


def markdown(
    rows: Sequence[Row], limits: Sequence[Limit], peaks: dict[int, Peaks], machine: dict[str, str]
) -> str:
    """The tables, with what falls short in bold."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    best = ", ".join(
        f"{peak.gflops:.0f} GF/s and {peak.bandwidth:.0f} GB/s on {on(n)}"
        for n, peak in peaks.items()
    )
    lines += [f"- measured peaks: {best}", ""]
    lines += [
        "| workload | threads | minidl ms | best other ms | which | ratio | asked | spread "
        "| GF/s | of peak | of memory's | algorithm |",
        "| --- | --: | --: | --: | --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for row in rows:
        speed = f"{row.gflops:.0f}" if row.operations else ""
        share, memory = peaks[row.threads].shares(row)
        lines.append(
            f"| {row.name} | {row.threads} | {row.median('minidl') * 1e3:.2f} "
            f"| {row.median(row.rival) * 1e3:.2f} | {row.rival} "
            f"| {_verdict(f'{row.ratio:.2f}', row.met)} | {row.floor} "
            f"| {row.spread:.0%} | {speed} | {share} | {memory} | {row.note} |"
        )
    if limits:
        lines += [
            "",
            "| in a process of its own | threads | measured | at most | | from |",
            "| --- | --: | --: | --: | --- | --- |",
        ]
    for limit in limits:
        value = _verdict(f"{limit.value:.2f}", limit.met)
        lines.append(
            f"| {limit.name} | {limit.threads} | {value} | {limit.limit} | {limit.unit} "
            f"| {limit.note} |"
        )
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row], peaks: dict[int, Peaks]) -> str:
    """One line for each workload and, for each thread count, the ratio and the share of a peak.

    Shares with a star are those of memory's.
    """
    counts = sorted({row.threads for row in rows})
    heads = [f"{on(n)} | of peak" for n in counts]
    lines = [
        f"| workload | {' | '.join(heads)} | asked |",
        "| --- |" + " --: |" * (2 * len(heads) + 1),
    ]
    for name in dict.fromkeys(row.name for row in rows):
        cells = []
        for count in counts:
            found = [row for row in rows if (row.name, row.threads) == (name, count)]
            cells += _brief(found[0], peaks) if found else ["", ""]
        floor = next(row.floor for row in rows if row.name == name)
        lines.append(f"| {name} | {' | '.join(cells)} | {floor} |")
    return "\n".join(lines) + "\n"


def _brief(row: Row, peaks: dict[int, Peaks]) -> list[str]:
    share, memory = peaks[row.threads].shares(row)
    share = share or (f"{memory} *" if memory else "")
    return [_verdict(f"{row.ratio:.2f}", row.met), share]


def _verdict(text: str, met: bool) -> str:
    return text if met else f"**{text}**"


def chart(rows: Sequence[Row], machine: dict[str, str], path: Path) -> None:
    """Ratios as bars from 1, to the right where minidl is faster than the fastest of the others."""
    from matplotlib.figure import Figure

    columns = _columns([row for row in rows if row.group in TITLES])
    counts = sorted({row.threads for row in rows})
    tallest = max(sum(map(_height, column.values())) for column in columns)
    tall = 0.135 * tallest + 0.75
    figure = Figure(figsize=(9, tall), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.22 / tall, 1, 1 - 0.72 / tall))
    low = min([0.9, *(row.ratio * 0.95 for row in rows)])
    high = max([2.1, *(row.ratio * 1.05 for row in rows), *(row.floor for row in rows)])
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for part, column in zip(parts, columns, strict=True):
        # Empty room below a shorter column keeps bars equally thick.
        heights = [_height(members) for members in column.values()]
        heights.append(max(tallest - sum(heights), 1e-3))
        axes = part.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        axes[-1].set_axis_off()
        for axis, (group, members) in zip(axes[:-1], column.items(), strict=True):
            _bars(axis, members, counts)
            axis.set_title(TITLES[group], fontsize=8, loc="left", fontweight="bold", pad=3)
            _scale(axis, low, high)
    figure.text(
        0.01, 1 - 0.06 / tall, "How many times as fast as its fastest rival minidl is",
        fontsize=10.5, va="top", fontweight="bold",
    )  # fmt: skip
    _legend(figure, counts, 1 - 0.26 / tall)
    figure.text(0.01, 0.05 / tall, _machine_line(machine), fontsize=7.5, va="bottom")
    figure.savefig(path, dpi=100, format="png")


def _legend(figure: Any, counts: Sequence[int], top: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=colour, label=f"{word}, {on(count)}")
        for word, shades in (("faster", THREADS), ("slower", LOSSES))
        for count, colour in zip(counts, shades[-len(counts) :], strict=False)
    ]
    mark = {"marker": "|", "linestyle": "", "color": "black", "markersize": 7}
    handles.append(Line2D([], [], label="asked for", **mark))
    figure.legend(
        handles=handles, loc="upper left", ncols=len(handles), fontsize=8, frameon=False,
        bbox_to_anchor=(0.0, top), borderaxespad=0.1, columnspacing=1.4, handlelength=1.2,
    )  # fmt: skip


def _height(members: Sequence[Row]) -> float:
    """Of a group, in bars: two for each name, and the title."""
    return 2 * len({row.name for row in members}) + 3


def _columns(rows: Sequence[Row]) -> list[dict[str, list[Row]]]:
    """Groups in two columns of about the same height: the largest first, where there is room."""
    groups = {group: [row for row in rows if row.group == group] for group in TITLES}
    columns: tuple[list[str], list[str]] = [], []
    for group in sorted(groups, key=lambda group: -_height(groups[group])):
        if groups[group]:
            min(columns, key=lambda names: sum(_height(groups[g]) for g in names)).append(group)
    ordered = [sorted(names, key=list(TITLES).index) for names in columns if names]
    ordered.sort(key=lambda names: list(TITLES).index(names[0]))
    return [{group: groups[group] for group in names} for names in ordered]


def _bars(axis: Any, rows: Sequence[Row], counts: Sequence[int]) -> None:
    names = list(dict.fromkeys(row.name for row in rows))
    thick = 0.8 / len(counts)
    for row in rows:
        number = counts.index(row.threads) - len(counts)
        colour = (THREADS if row.ratio >= 1 else LOSSES)[number]
        place = names.index(row.name) + (counts.index(row.threads) + 0.5) * thick - 0.4
        axis.barh(place, row.ratio - 1, thick, left=1, color=colour)
        axis.plot(row.floor, place, "|", color="black", ms=4, mew=1)
    axis.axvline(1, color="black", linewidth=0.8)
    labels = [textwrap.fill(name, 35, break_on_hyphens=False) for name in names]
    axis.set_yticks(range(len(names)), labels, fontsize=7, linespacing=0.95)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _scale(axis: Any, low: float, high: float) -> None:
    marks = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    shown = [mark for mark in marks if low <= mark <= high]
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_xticks(shown, [f"{mark:g}" for mark in shown], fontsize=7)
    axis.set_xticks([], minor=True)


def _machine_line(machine: dict[str, str]) -> str:
    peers = ("torch", "onnxruntime", "openvino", "jax")
    versions = [f"{name} {machine[name]}" for name in peers if machine.get(name, "-") != "-"]
    return ", ".join([machine["processor"], "float32", *versions, machine["date"]])
