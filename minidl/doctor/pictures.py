"""Small pictures for the page: images with their classes laid over, and charts as SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from minidl.plot import displayable

# Told apart on grey ultrasound, on red retina and on violet stains: the first foreground class is
# cyan, which hardly any tissue is.
OVERLAY = (
    "#4477aa", "#17dfe8", "#ff5a36", "#ffd23f", "#35d07f", "#e05bd0", "#9a7bff", "#f4a6c0",
    "#00a896", "#b5e550", "#c08552", "#8d99ae",
)  # fmt: skip
BAR, AXIS = "#4477aa", "#888888"
_FONT = 'font-family="sans-serif" font-size="11" fill="#444444"'


def colour(index: int) -> str:
    """Of class `index` on the page."""
    return OVERLAY[index % len(OVERLAY)]


def shrink_step(height: int, width: int, side: int) -> int:
    """Every how manieth pixel to show, so that neither side is above `side` by half."""
    return max(round(max(height, width) / side), 1)


def overlay(
    image: np.ndarray, classes: np.ndarray | None, colours: Mapping[int, str], side: int = 300
) -> np.ndarray:
    """An image with classes in colour over it, small enough for a page.

    Parameters
    ----------
    image : ndarray of shape (H, W, C)
        Of any type.
    classes : ndarray of shape (H, W), integer, or None
        Only if of the same size.
    colours : mapping of int to str
        ``#rrggbb`` of the classes to mark; others are left alone.
    side : int
        Of the longer side, about.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        A mask is thinned, never mixed: its edges are those of the file.
    """
    step = shrink_step(image.shape[0], image.shape[1], side)
    # Ranges are those of the whole image; the mean over squares is what a viewer shows.
    shown = displayable(_averaged(image, step))
    shown = np.repeat(shown[..., None], 3, axis=-1) if shown.ndim == 2 else shown
    shown = np.ascontiguousarray(shown, dtype=np.float64)
    if classes is not None and classes.shape == image.shape[:2]:
        middle = step // 2
        small = classes[middle::step, middle::step][: shown.shape[0], : shown.shape[1]]
        for index, name in colours.items():
            inside = small == index
            _paint(shown[: small.shape[0], : small.shape[1]], inside, _rgb(name))
    return np.rint(255 * shown).astype(np.uint8)


def _averaged(image: np.ndarray, step: int) -> np.ndarray:
    if step == 1:
        return image
    height, width = (side // step * step for side in image.shape[:2])
    if not (height and width):
        return image[::step, ::step]
    cut = image[:height, :width].reshape(height // step, step, width // step, step, -1)
    mean = cut.mean(axis=(1, 3), dtype=np.float64)
    return mean.astype(image.dtype) if image.dtype.kind in "ui" else mean


def _paint(shown: np.ndarray, inside: np.ndarray, rgb: np.ndarray) -> None:
    """Fill thinly and draw the edge fully, both within the class."""
    core = inside.copy()
    core[1:] &= inside[:-1]
    core[:-1] &= inside[1:]
    core[:, 1:] &= inside[:, :-1]
    core[:, :-1] &= inside[:, 1:]
    shown[core] = 0.72 * shown[core] + 0.28 * rgb
    shown[inside & ~core] = rgb


def _rgb(name: str) -> np.ndarray:
    return np.array([int(name[k : k + 2], 16) for k in (1, 3, 5)]) / 255


def data_uri(picture: np.ndarray) -> str:
    """A picture (H, W, 3), uint8, as text that a page can hold."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def histogram(values: Sequence[float] | np.ndarray, title: str, unit: str, bins: int = 24) -> str:
    """Counts of some numbers as an SVG chart.

    Parameters
    ----------
    values : sequence of float
        At least one.
    title, unit : str
        Above the chart, and what the numbers are.
    bins : int
        Bars, at most.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    own = np.asarray(values, dtype=np.float64)
    low, high = float(own.min()), float(own.max())
    if low == high:
        return bars([len(own)], title, f"{unit}: all {low:.4g}")
    counts, edges = np.histogram(own, bins=min(bins, max(len(own), 4)), range=(low, high))
    return bars(counts, title, f"{unit}: {edges[0]:.4g} to {edges[-1]:.4g}")


def bars(counts: Sequence[float] | np.ndarray, title: str, below: str) -> str:
    """Bars side by side as an SVG chart, the highest marked with its height.

    Parameters
    ----------
    counts : sequence of float
        Heights, not negative.
    title, below : str
        Above and under the bars.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    heights = np.asarray(counts, dtype=np.float64)
    top = max(float(heights.max(initial=0)), 1e-12)
    wide = 280 / max(len(heights), 1)
    rows = [
        f'<rect x="{10 + k * wide:.2f}" y="{112 - 84 * h / top:.2f}" '
        f'width="{max(wide - 1, 0.6):.2f}" height="{84 * h / top:.2f}" fill="{BAR}">'
        f"<title>{h:g}</title></rect>"
        for k, h in enumerate(heights)
        if h > 0
    ]
    text = f"{title}: {below}"
    return (
        f'<svg viewBox="0 0 300 134" width="300" height="134" role="img" '
        f'aria-label="{escape(text)}">'
        f'<text x="10" y="14" {_FONT} font-weight="bold">{escape(title)}</text>{"".join(rows)}'
        f'<line x1="10" y1="112.5" x2="290" y2="112.5" stroke="{AXIS}"/>'
        f'<text x="10" y="128" {_FONT}>{escape(below)}</text>'
        f'<text x="290" y="14" text-anchor="end" {_FONT}>highest: {top:g}</text></svg>'
    )


def share_bar(share: float, fill: str) -> str:
    """A share 0..1 as a horizontal bar on a scale of powers of ten, from 0.01 % to 100 %."""
    length = 0.0 if share <= 0 else float(np.clip(1 + np.log10(share) / 4, 0.01, 1))
    return (
        '<svg width="200" height="10" viewBox="0 0 200 10" aria-hidden="true">'
        '<rect width="200" height="10" fill="#eeeeee"/>'
        f'<rect width="{200 * length:.1f}" height="10" fill="{fill}"/></svg>'
    )
