"""Invented ultrasound pictures of nerves, in the layout of Kaggle's nerve segmentation task.

A picture is made the way a scanner makes one: a map of how strongly tissue scatters (`_tissue`),
random scatterers blurred by the beam (`_echo`), of which one sees the envelope on a
logarithmic scale. That gives speckle its grain: fully developed where nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_FRAMES_PER_SUBJECT = 6
_DYNAMIC_RANGE = 46.0  # dB from black to white


def write_nerve_set(
    folder: str | Path,
    n: int = 60,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    empty_fraction: float = 0.5,
) -> Path:
    """Write a synthetic ultrasound set: ``SUBJECT_INDEX.tif`` with ``SUBJECT_INDEX_mask.tif``.

    Images are 8-bit grey, masks 8-bit with 0 and 255 (the nerve, a filled ellipse). Black vessels
    and bright fascia are there to mislead a threshold. Equal arguments give equal bytes.

    Parameters
    ----------
    folder : str or Path
        Made if it does not exist; must be empty if it does.
    n : int
        Number of frames, 1 or more.
    size : (int, int)
        Height and width in pixels, 48 or more; structures scale with the smaller side.
    seed : int
        0 or more.
    empty_fraction : float
        Share of frames without a nerve, 0..1, rounded to whole frames.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder has anything in it.
    ValueError
        If an argument is out of range.
    """
    import tifffile

    _check_arguments(n, size, seed, empty_fraction)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"write_nerve_set: {folder} is not empty, and nothing is overwritten. "
            "Choose a new folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    empty = set(_generator(seed).permutation(n)[: round(n * empty_fraction)].tolist())
    for index in range(n):
        image, mask = nerve_frame(size, _generator(seed, 1 + index), index not in empty)
        subject, frame = divmod(index, _FRAMES_PER_SUBJECT)
        name = f"{subject + 1}_{frame + 1}"
        for ending, picture in (("", image), ("_mask", mask)):
            tifffile.imwrite(
                folder / f"{name}{ending}.tif",
                picture,
                photometric="minisblack",
                metadata=None,
                software=False,
            )
    return folder


def _check_arguments(n: int, size: tuple[int, int], seed: int, empty_fraction: float) -> None:
    rules = (
        (n >= 1, f"n={n}, expected 1 or more"),
        (len(size) == 2 and min(size) >= 48, f"size={size}, expected (height, width) from 48"),
        (seed >= 0, f"seed={seed}, expected 0 or more"),
        (0 <= empty_fraction <= 1, f"empty_fraction={empty_fraction}, expected 0..1"),
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(f"write_nerve_set: {message}")


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def nerve_frame(
    size: tuple[int, int], rng: np.random.Generator, with_nerve: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One frame and its mask, both (H, W) uint8; the mask has 255 inside the nerve."""
    grid = _Grid.of(size)
    scatter = _tissue(grid, rng)
    # Vessels run where the nerve does not: each takes its place away from those before it.
    taken: list[tuple[float, float, float]] = []
    mask = np.zeros(size, dtype=bool)
    if with_nerve:
        mask = _add_nerve(scatter, grid, rng, taken)
    for _ in range(rng.integers(1, 4)):
        _add_vessel(scatter, grid, rng, taken)
    image = _echo(scatter * _depth_gain(grid, rng), grid, rng)
    return image, np.where(mask, 255, 0).astype(np.uint8)


@dataclass(frozen=True)
class _Grid:
    """Pixel coordinates, and the length of a unit: 1 pixel in a picture 96 pixels high."""

    y: np.ndarray  # (H, 1), pixels from the top
    x: np.ndarray  # (1, W), pixels from the left
    unit: float

    @classmethod
    def of(cls, size: tuple[int, int]) -> _Grid:
        height, width = size
        y, x = np.arange(height, dtype=float)[:, None], np.arange(width, dtype=float)[None]
        return cls(y, x, min(size) / 96)

    @property
    def shape(self) -> tuple[int, int]:
        return self.y.size, self.x.size


def blur(picture: np.ndarray, sigma_y: float, sigma_x: float) -> np.ndarray:
    """Gaussian blur of (H, W) with deviations in pixels; edges are mirrored."""
    for axis, sigma in ((0, sigma_y), (1, sigma_x)):
        reach = max(1, round(3 * sigma))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
        fill = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(picture, fill, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, taps.size, axis=axis)
        picture = windows @ (taps / taps.sum())
    return picture


def _wander(grid: _Grid, rng: np.random.Generator, height: float) -> np.ndarray:
    """A slow random curve over the width: tilt and three long waves, shape (W,)."""
    x = grid.x[0] / grid.x.size - 0.5
    curve = rng.normal(0, 0.9) * x
    for waves in (0.5, 1.0, 2.0):
        curve += rng.normal(0, 0.3 / waves) * np.sin(2 * np.pi * (waves * x + rng.random()))
    return height * grid.unit * curve


def _fibres(grid: _Grid, rng: np.random.Generator, bend: np.ndarray) -> np.ndarray:
    """Fine stripes that follow the curve `bend`, mean 0 and deviation 1: muscle."""
    u = grid.unit
    noise = blur(rng.standard_normal(grid.shape), 0.6 * u, 5 * u)
    rows = (grid.y + bend[None]).round().astype(int) % grid.shape[0]
    stripes = noise[rows, np.arange(grid.shape[1])[None]]
    return stripes / stripes.std()


def _tissue(grid: _Grid, rng: np.random.Generator) -> np.ndarray:
    """How strongly each place scatters, (H, W): layers of fat and muscle between fascia."""
    height, width = grid.shape
    u, common = grid.unit, _wander(grid, rng, 8)
    clouds = blur(rng.standard_normal(grid.shape), 7 * u, 12 * u)
    scatter = 0.13 * np.exp(0.5 * clouds / clouds.std())
    depth = rng.uniform(9, 14) * u
    edges = []
    while depth < height + 8 * u:
        edges.append(depth + common * min(1.0, depth / height + 0.3) + _wander(grid, rng, 2.5))
        depth += rng.uniform(13, 26) * u
    for above, below in zip(edges, [*edges[1:], np.full(width, 1e9)], strict=True):
        inside = (grid.y >= above) & (grid.y < below)
        strength = np.exp(rng.uniform(0.3, 0.75) * _fibres(grid, rng, -above))
        scatter[inside] *= rng.uniform(0.4, 1.3) * strength[inside]
    for edge in edges:
        scatter += _fascia(grid, rng, edge)
    skin = rng.uniform(3, 5) * u + 0.3 * _wander(grid, rng, 2)
    return scatter + 0.9 * np.exp(-0.5 * ((grid.y - skin) / (1.1 * u)) ** 2)


def _fascia(grid: _Grid, rng: np.random.Generator, edge: np.ndarray) -> np.ndarray:
    """A bright curved line, of changing strength along its way."""
    u = grid.unit
    patches = blur(rng.standard_normal(grid.shape), 3 * u, 6 * u)
    strength = rng.uniform(0.25, 0.9) * np.exp(0.8 * patches / patches.std())
    thickness = rng.uniform(0.5, 0.9) * u
    return strength * np.exp(-0.5 * ((grid.y - edge) / thickness) ** 2)


def _place(
    grid: _Grid, rng: np.random.Generator, radius: float, taken: list[tuple[float, float, float]]
) -> tuple[float, float] | None:
    """Centre of a round structure, clear of the edges and of what is there; None if crowded."""
    height, width = grid.shape
    margin = radius + 3 * grid.unit
    for _ in range(30):
        y = rng.uniform(margin + 10 * grid.unit, max(height - margin, margin + 11 * grid.unit))
        x = rng.uniform(margin, width - margin)
        if all(np.hypot(y - v, x - w) > radius + r + 2 * grid.unit for v, w, r in taken):
            taken.append((y, x, radius))
            return y, x
    return None


def _ellipse(
    grid: _Grid, centre: tuple[float, float], axes: tuple[float, float], angle: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance from the centre, 1 on the rim; and pixels along the long and the short axis."""
    dy, dx = grid.y - centre[0], grid.x - centre[1]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle)
    return np.hypot(along / axes[0], across / axes[1]), along, across


def _add_nerve(
    scatter: np.ndarray,
    grid: _Grid,
    rng: np.random.Generator,
    taken: list[tuple[float, float, float]],
) -> np.ndarray:
    """Draw a honeycomb into `scatter`; return where it is, (H, W) bool."""
    u = grid.unit
    long = rng.uniform(10, 15) * u
    axes = long, max(long * rng.uniform(0.55, 0.85), 7 * u)
    centre = _place(grid, rng, long, taken)
    assert centre is not None  # it comes first, there is room
    distance, along, across = _ellipse(grid, centre, axes, rng.uniform(-0.6, 0.6))
    inside = distance <= 1
    # It stands out from what it lies in, whatever that is, but not from the fascia.
    bright = max(rng.uniform(0.6, 0.9), 5.0 * float(np.median(scatter[inside])))
    honeycomb = bright * (1 - 0.96 * _fascicles(along, across, distance, u, rng))
    scatter[inside] = honeycomb[inside]
    # The sheath: a bright line on the rim, weaker where the beam runs along it.
    rim = np.exp(-0.5 * ((distance - 0.95) * axes[1] / (0.8 * u)) ** 2)
    facing = np.abs(across) / (np.hypot(along, across) + 1e-9)
    scatter += 1.2 * bright * rim * (0.4 + 0.6 * facing)
    return inside


def _fascicles(
    along: np.ndarray, across: np.ndarray, distance: np.ndarray, u: float, rng: np.random.Generator
) -> np.ndarray:
    """Dark discs on a jittered hexagonal lattice inside the rim, 0..1."""
    step = rng.uniform(4.8, 6.2) * u
    discs = np.zeros(distance.shape)
    for row in range(-5, 6):
        for column in range(-5, 6):
            jitter = rng.normal(0, 0.4 * u, 2)
            a = (column + 0.5 * (row % 2)) * step + jitter[0]
            b = row * step * 0.87 + jitter[1]
            radius = step * rng.uniform(0.34, 0.44)
            discs = np.maximum(discs, _step(radius - np.hypot(along - a, across - b), 0.45 * u))
    return discs * _step((0.86 - distance) * 8 * u, 0.5 * u)


def _step(signed_distance: np.ndarray, softness: float) -> np.ndarray:
    """0 outside, 1 inside, soft in between."""
    return 1 / (1 + np.exp(-np.clip(signed_distance / softness, -30, 30)))


def _add_vessel(
    scatter: np.ndarray,
    grid: _Grid,
    rng: np.random.Generator,
    taken: list[tuple[float, float, float]],
) -> None:
    """Draw a black disc with a thin wall and brighter tissue below it into `scatter`."""
    u = grid.unit
    radius = rng.uniform(3.5, 8.5) * u
    centre = _place(grid, rng, radius, taken)
    if centre is None:
        return
    axes = radius, radius * rng.uniform(0.75, 1.0)
    distance, _, _ = _ellipse(grid, centre, axes, rng.uniform(-0.3, 0.3))
    below = _step(radius - np.abs(grid.x - centre[1]), u) * _step(grid.y - centre[0], u)
    scatter *= 1 + 0.8 * below * np.exp(-np.maximum(grid.y - centre[0], 0) / (22 * u))
    wall = np.exp(-0.5 * ((distance - 1.05) * radius / (0.7 * u)) ** 2)
    steep = np.abs(grid.y - centre[0]) / (np.hypot(grid.y - centre[0], grid.x - centre[1]) + 1e-9)
    scatter *= 1 - 0.985 * _step((1 - distance) * radius, 0.4 * u)
    scatter += rng.uniform(0.3, 0.9) * wall * steep**2


def _depth_gain(grid: _Grid, rng: np.random.Generator) -> np.ndarray:
    """Loss with depth, bright near field, and shadows under a badly coupled probe, (H, W)."""
    height, width = grid.shape
    depth = grid.y / height
    loss = np.exp(-rng.uniform(0.7, 1.7) * depth**1.3) * (1 + 0.8 * np.exp(-depth / 0.08))
    sides = 1 - rng.uniform(0.2, 0.6) * np.abs(2 * grid.x / width - 1) ** 4
    streaks = blur(rng.standard_normal((1, width)), 0.1, 4 * grid.unit)
    return loss * sides * np.exp(0.18 * streaks / streaks.std())


def _echo(scatter: np.ndarray, grid: _Grid, rng: np.random.Generator) -> np.ndarray:
    """The picture a scanner shows of scatterers of this strength, (H, W) uint8."""
    u = grid.unit
    weight = grid.y / grid.shape[0]
    envelope = np.zeros(scatter.shape)
    # Two looks from different angles, unequal, averaged as scanners do to calm the speckle.
    for share in (0.7, 0.3):
        # The beam is narrow in depth and wide across, and wider far from the probe.
        parts = [rng.standard_normal(scatter.shape) * scatter for _ in ("in phase", "quadrature")]
        near = np.hypot(*(blur(part, 0.6 * u, 0.9 * u) for part in parts)) * 2.6 * u
        far = np.hypot(*(blur(part, 0.7 * u, 1.5 * u) for part in parts)) * 3.6 * u
        envelope += share * ((1 - weight) * near + weight * far)
    envelope += 0.006 * np.abs(rng.standard_normal(scatter.shape))  # the amplifier's own noise
    decibel = 20 * np.log10(envelope + 1e-6) + rng.uniform(-3, 3)
    return np.clip(255 * (decibel + 39) / _DYNAMIC_RANGE, 0, 255).astype(np.uint8)
