"""The doctor's findings as one HTML file: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from minidl import run as folder
from minidl.data import DataError, read_image, read_mask

from .diagnosis import Diagnosis
from .findings import Facts, Finding
from .pictures import bars, colour, data_uri, histogram, overlay, share_bar

_EXAMPLES, _MOST_CLASSES, _MOST_SHOWN, _MOST_FILES, _MOST_ROWS = 6, 24, 6, 200, 1000
_WORDS = {"error": "Error", "warning": "Warning", "note": "To know"}

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto;
       padding: 0 1em; background: #fff; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.2em; margin: 2em 0 .6em; }
h3 { font-size: 1em; margin: 1.4em 0 .3em; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2em .9em .2em 0;
       vertical-align: top; } td.n, th.n { text-align: right; }
.card { border: 1px solid #ddd; border-left: 6px solid #bbb; border-radius: 4px;
        padding: .6em 1em; margin: .7em 0; }
.error { border-left-color: #c0392b; } .warning { border-left-color: #e08e0b; }
.note { border-left-color: #4477aa; } .good { border-left-color: #228833; }
.card b.kind { display: inline-block; min-width: 4.6em; } .next { margin: .3em 0; }
.files { color: #555; font-size: .9em; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: .7em; margin: .5em 0; }
figure { margin: 0; } figure img { display: block; max-width: 300px; border: 1px solid #ccc; }
.pair { display: flex; gap: 2px; border: 1px solid #bbb; padding: 4px; border-radius: 4px; }
.pair img { max-width: 210px; } figcaption { font-size: .8em; color: #555; max-width: 300px;
       overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 1em; }
.swatch { display: inline-block; width: .9em; height: .9em; border-radius: 2px; }
pre { background: #f5f5f5; padding: .7em 1em; overflow: auto; border-radius: 4px; }
summary { cursor: pointer; }
"""


def refuse_page(path: str | Path, overwrite: bool) -> Path:
    """Raise if a page cannot be made at `path`: it is there already, or its folder is not."""
    path = Path(path)
    if path.exists() and (path.is_dir() or not overwrite):
        raise FileExistsError(
            f"{path} exists already, and nothing is overwritten unasked. Choose another name, "
            f"for example {folder.free_name(path).name}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder. Make it, or choose another one.")
    return path


def write_page(diagnosis: Diagnosis, path: str | Path, overwrite: bool = False) -> Path:
    """Write the page; the examples are read again from the data folder, one at a time.

    Parameters
    ----------
    diagnosis : Diagnosis
        From `examine`.
    path : str or Path
        Its folder must exist. The file appears complete or not at all.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is not set.
    """
    path = refuse_page(path, overwrite)
    return folder.write_text(path, page(diagnosis))


def page(diagnosis: Diagnosis) -> str:
    """The page as text."""
    name = escape(str(diagnosis.report.folder.name or diagnosis.report.folder))
    parts = [
        _head(diagnosis),
        _findings(diagnosis),
        _advice(diagnosis),
        _proposed_split(diagnosis),
        _classes(diagnosis),
        _examples(diagnosis),
        _charts(diagnosis),
        _files(diagnosis),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>minidl doctor: {name}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _head(diagnosis: Diagnosis) -> str:
    report = diagnosis.report
    rows = [("folder", str(report.folder.resolve())), ("pairs", str(len(report.pairs)))]
    rows += [("layout", report.layout)] if report.layout else []
    cells = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in rows + diagnosis.summary()
    )
    return f"<h1>{escape(report.folder.resolve().name)}: a look at the data</h1>" + (
        f"<table>{cells}</table>"
    )


# ---- findings --------------------------------------------------------------------------------


def _findings(diagnosis: Diagnosis) -> str:
    counts = {
        level: sum(one.level == level for one in diagnosis.findings)
        for level in ("error", "warning", "note")
    }
    if not diagnosis.findings:
        return '<h2>Problems</h2><div class="card good">No problems found.</div>'
    words = [
        f"{n} {word}" + ("s" if n != 1 else "") + (" to know" if word == "thing" else "")
        for n, word in zip(counts.values(), ("error", "warning", "thing"), strict=True)
        if n
    ]
    wrong = counts["error"] + counts["warning"]
    said = ("Problems: " if wrong else "No problems; ") + ", ".join(words)
    cards = "\n".join(_card(one, diagnosis) for one in diagnosis.findings)
    return f"<h2>{said}</h2>\n{cards}"


def _card(finding: Finding, diagnosis: Diagnosis) -> str:
    problem = finding.problem
    title, *more = problem.title.split("\n")
    body = f'<b class="kind">{_WORDS[finding.level]}</b> {escape(title)}'
    if more:
        body += f"<pre>{escape(chr(10).join(line.strip() for line in more))}</pre>"
    if problem.advice:
        body += f'<p class="next"><b>Next:</b> {escape(problem.advice)}</p>'
    body += _file_list(problem.files)
    if finding.shows and diagnosis.facts is not None:
        body += '<div class="row">'
        body += "".join(
            _side_by_side(places, diagnosis, diagnosis.facts)
            for places in finding.shows[:_MOST_SHOWN]
        )
        body += "</div>"
    return f'<div class="card {finding.level}">{body}</div>'


def _file_list(files: Sequence[str]) -> str:
    if not files:
        return ""
    shown = escape(", ".join(files[:_MOST_FILES]))
    rest = len(files) - _MOST_FILES
    shown += f" and {rest} more" if rest > 0 else ""
    if len(files) <= 4:
        return f'<div class="files">{shown}</div>'
    return f'<details class="files"><summary>{len(files)} entries</summary>{shown}</details>'


def _side_by_side(places: Sequence[int], diagnosis: Diagnosis, facts: Facts) -> str:
    figures = [_figure(number, diagnosis, facts, side=200) for number in places]
    inner = "".join(figures)
    return f'<div class="pair">{inner}</div>' if len(places) > 1 else inner


def _figure(
    number: int,
    diagnosis: Diagnosis,
    facts: Facts,
    only: int | None = None,
    side: int = 280,
    note: str = "",
) -> str:
    picture = facts.pictures[number]
    try:
        image, classes = _read(number, diagnosis, facts)
    except DataError:
        return ""
    colours = {
        index: colour(index)
        for index in range(len(facts.values))
        if (index != facts.background if only is None else index == only)
    }
    uri = data_uri(overlay(image, classes, colours, side))
    part = {0: "train", 1: "val"}.get(facts.parts[number], "")
    words = ", ".join(word for word in (facts.names[number], part, note) if word)
    alt = escape(picture.pair.image.name)
    return f'<figure><img src="{uri}" alt="{alt}"><figcaption>{escape(words)}</figcaption></figure>'


def _read(number: int, diagnosis: Diagnosis, facts: Facts) -> tuple[np.ndarray, np.ndarray | None]:
    picture = facts.pictures[number]
    several = facts.names[number] != picture.pair.stem
    page_number = picture.page if several else None
    image = read_image(picture.pair.image, page_number)
    kind = diagnosis.report.mask_kind
    if not picture.whole or kind is None:
        return image, None
    return image, kind.to_classes(read_mask(picture.pair.mask, page_number), picture.pair.mask)


# ---- what to do ------------------------------------------------------------------------------


def _advice(diagnosis: Diagnosis) -> str:
    rows = diagnosis.proposals()
    if not rows:
        return ""
    cells = "".join(
        f"<tr><th>{escape(what)}</th><td>"
        + (f"<pre>{escape(text)}</pre>" if what == "next" else escape(text))
        + "</td></tr>"
        for what, text in rows
    )
    return f"<h2>How to train on it</h2><table>{cells}</table>"


def _proposed_split(diagnosis: Diagnosis) -> str:
    names = diagnosis.proposed_val
    if not names:
        return ""
    text = escape("\n".join(names))
    return (
        "<h2>A split that keeps together what belongs together</h2>"
        f"<p>These {len(names)} names as <code>val.txt</code> in the folder leave no image to "
        "validate on with a lookalike, or another picture of its subject, among those to train "
        "on.</p>"
        f"<details><summary>val.txt</summary><pre>{text}</pre></details>"
    )


def _classes(diagnosis: Diagnosis) -> str:
    rows = diagnosis.class_rows()
    if not rows or diagnosis.facts is None:
        return ""
    body = "".join(
        f'<tr><td><span class="swatch" style="background:{colour(int(row["class"]))}"></span> '
        f'{row["class"]}</td><td class="n">{row["value"]}</td><td class="n">{row["share"]:.2%}</td>'
        f"<td>{share_bar(row['share'], colour(int(row['class'])))}</td>"
        f'<td class="n">{row["images"]}</td><td class="n">{_percent(row["frequency"])}</td>'
        f'<td class="n">{row["weight"]:.3g}</td></tr>'
        for row in rows
    )
    empty = diagnosis.empty_share()
    said = f"<p>{empty:.1%} of the masks have no foreground.</p>" if empty == empty else ""
    return (
        "<h2>Classes</h2><table><tr><th>class</th><th class='n'>value</th><th class='n'>pixels</th>"
        "<th>0.01 % to 100 %, in powers of ten</th><th class='n'>in images</th>"
        "<th class='n'>where it is</th><th class='n'>weight</th></tr>"
        f"{body}</table><p>“Where it is”: its share of the images to train on that contain it; "
        f"the weight is the median of these shares divided by its own.</p>{said}"
    )


def _percent(share: float) -> str:
    return "-" if share != share else f"{share:.2%}"


def _examples(diagnosis: Diagnosis) -> str:
    facts = diagnosis.facts
    if facts is None:
        return ""
    good = [i for i, one in enumerate(facts.pictures) if one.shape is not None]
    some = [good[(2 * k + 1) * len(good) // (2 * _EXAMPLES)] for k in range(_EXAMPLES)]
    figures = "".join(_figure(i, diagnosis, facts) for i in sorted(set(some)))
    text = f'<h2>Examples</h2><h3>From all over the set</h3><div class="row">{figures}</div>'
    front = [index for index in range(len(facts.values)) if index != facts.background]
    for index in front[:_MOST_CLASSES] if len(facts.values) > 1 else []:
        text += _class_examples(index, diagnosis, facts)
    return text


def _class_examples(index: int, diagnosis: Diagnosis, facts: Facts) -> str:
    """From images with little of a class to the one with most."""
    value = facts.values[index]
    having = [i for i, one in enumerate(facts.pictures) if value in one.counts and one.whole]
    having.sort(key=lambda i: _share(facts, i, value))
    if not having:
        return ""
    some = sorted({round(q * (len(having) - 1)) for q in (0.0, 0.33, 0.67, 1.0)})
    figures = "".join(
        _figure(having[k], diagnosis, facts, index, 240,
                f"{_share(facts, having[k], value):.2%} of the pixels")
        for k in some
    )  # fmt: skip
    swatch = f'<span class="swatch" style="background:{colour(index)}"></span>'
    return (
        f"<h3>{swatch} Class {index} (value {value}), from least to most</h3>"
        f'<div class="row">{figures}</div>'
    )


def _share(facts: Facts, number: int, value: int) -> float:
    counts = facts.pictures[number].counts
    return counts.get(value, 0) / max(sum(counts.values()), 1)


def _charts(diagnosis: Diagnosis) -> str:
    facts = diagnosis.facts
    if facts is None:
        return ""
    seen = [one for one in facts.pictures if one.shape is not None]
    shapes = [one.shape for one in seen if one.shape is not None]
    charts = [
        histogram([shape[0] for shape in shapes], "Heights", "pixels"),
        histogram([shape[1] for shape in shapes], "Widths", "pixels"),
        histogram([one.mean for one in seen], "Mean of each image", "value"),
        histogram([one.deviation for one in seen], "Contrast of each image", "deviation"),
    ]
    for dtype, counts in sorted(diagnosis.survey.histogram.items()):
        last = int(np.flatnonzero(counts)[-1])
        width = -(-(last + 1) // 64)
        padded = np.pad(counts[: last + 1], (0, -(last + 1) % width))
        charts.append(
            bars(padded.reshape(-1, width).sum(axis=1) / counts.sum(), f"All values ({dtype})",
                 f"value: 0 to {last}")
        )  # fmt: skip
    charts += _foreground_charts(facts)
    if len(facts.pictures) > 1:
        scores = facts.alike.score[facts.alike.score > -1]
        if len(scores):
            charts.append(histogram(scores, "Likeness to the most similar image", "correlation"))
    inner = "".join(f"<div>{chart}</div>" for chart in charts)
    return f'<h2>Numbers</h2><div class="charts">{inner}</div>'


def _foreground_charts(facts: Facts) -> list[str]:
    front = [value for i, value in enumerate(facts.values) if i != facts.background]
    shares = [
        sum(one.counts.get(value, 0) for value in front) / sum(one.counts.values())
        for one in facts.pictures
        if one.counts
    ]
    if not front or not shares:
        return []
    return [histogram([100 * s for s in shares], "Foreground of each mask", "% of the pixels")]


def _files(diagnosis: Diagnosis) -> str:
    facts = diagnosis.facts
    if facts is None:
        return ""
    head = "<tr><th>name</th><th>part</th><th>size</th><th>type</th><th class='n'>lowest</th>" + (
        "<th class='n'>highest</th><th class='n'>mean</th><th class='n'>deviation</th>"
        "<th>mask values</th><th>most alike</th></tr>"
    )
    rows = "".join(_row(facts, number) for number in range(min(len(facts.names), _MOST_ROWS)))
    rest = len(facts.names) - _MOST_ROWS
    more = f"<p>and {rest} more</p>" if rest > 0 else ""
    return (
        f"<h2>Files</h2><details><summary>all {len(facts.names)}</summary>"
        f"<table>{head}{rows}</table>{more}</details>"
    )


def _row(facts: Facts, number: int) -> str:
    one = facts.pictures[number]
    size = " x ".join(map(str, one.shape)) if one.shape else "unreadable"
    values = ", ".join(map(str, sorted(one.counts)[:8])) + (" ..." if len(one.counts) > 8 else "")
    partner = int(facts.alike.partner[number])
    alike = f"{facts.names[partner]} ({facts.alike.score[number]:.3f})" if partner >= 0 else ""
    cells = [facts.names[number], {0: "train", 1: "val"}.get(facts.parts[number], "-"), size,
             one.dtype, f"{one.low:g}", f"{one.high:g}", f"{one.mean:.4g}", f"{one.deviation:.4g}",
             values, alike]  # fmt: skip
    numeric = range(4, 8)
    return (
        "<tr>"
        + "".join(
            f"<td class='n'>{escape(cell)}</td>" if k in numeric else f"<td>{escape(cell)}</td>"
            for k, cell in enumerate(cells)
        )
        + "</tr>"
    )
