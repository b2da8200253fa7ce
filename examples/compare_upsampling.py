"""Ways to go back up: add or concatenate, mirror or symmetric, deconvolution or convolution?

Networks for segmentation have much the same way down, and differ in how they return to the size of
the image. Here are eight ways, with the same way down, the same data and the same number of
parameters, trained from several seeds each: a table in Markdown and a picture come out. It takes
four minutes on two cores.

    python examples/compare_upsampling.py [--seeds 3] [--steps 180] [--budget 100000] [--quick]
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import minidl as md
from minidl import functional as F
from minidl import metrics, nn, optim, plot
from minidl.data.synthetic import nerve_frame
from minidl.progress import Progress, duration

LEVELS = 4
SIZE = 64, 80  # of the frames, multiples of 2**(LEVELS - 1): nothing is left to be cropped
BATCH = 8


@dataclass(frozen=True)
class Variant:
    """A way to go back up.

    Attributes
    ----------
    like : str
        The network that does it.
    up : 'transposed', 'bilinear', 'unpool' or 'dilate'
        How a map is enlarged; 'dilate': it never becomes that small, convolutions are dilated.
    skip : 'nothing', 'add' or 'concatenate'
        What is done with the map of the same size from the way down.
    after : 'nothing', 'conv' or 'deconv'
        What follows on each level: as many layers as on the way down (symmetric), which may be
        transposed convolutions (mirrored), or nothing (not symmetric).
    """

    like: str
    up: str
    skip: str
    after: str

    @property
    def shape(self) -> str:
        """In the words of the question."""
        return {"nothing": "plain", "conv": "symmetric", "deconv": "mirrored"}[self.after]


VARIANTS = (
    Variant("FCN", "transposed", "add", "nothing"),
    Variant("LinkNet", "transposed", "add", "conv"),
    Variant("U-Net", "transposed", "concatenate", "conv"),
    Variant("U-Net, bilinear", "bilinear", "concatenate", "conv"),
    Variant("no skips", "transposed", "nothing", "conv"),
    Variant("SegNet", "unpool", "nothing", "conv"),
    Variant("DeconvNet", "unpool", "nothing", "deconv"),
    Variant("DilatedNet", "dilate", "nothing", "nothing"),
)


# ---- the networks ---------------------------------------------------------------------------


class Layer(nn.Module):
    """A 3x3 convolution, transposed or not, batch normalisation and ReLU."""

    def __init__(self, before: int, after: int, kind: str = "conv", dilation: int = 1) -> None:
        super().__init__()
        self.conv: Any
        if kind == "deconv":
            self.conv = nn.ConvTranspose2d(before, after, 3, padding=1, bias=False)
        else:
            self.conv = nn.Conv2d(before, after, 3, 1, "same", dilation, bias=False)
        self.norm = nn.BatchNorm2d(after, activation="relu")

    def forward(self, x: Any, beside: Any = None) -> Any:
        """(N, H, W, before) to (N, H, W, after)."""
        return self.norm(self.conv(x) if beside is None else self.conv(x, beside))


class Rise(nn.Module):
    """One level on the way up."""

    def __init__(self, variant: Variant, before: int, after: int) -> None:
        super().__init__()
        self.variant = variant
        both = variant.skip == "concatenate"
        if variant.up == "transposed":
            self.up: Any = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
        elif variant.up == "bilinear":
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(before, after, 1)
            )
        else:  # an unpool changes no channels: it is done by a layer in front of it
            self.up = Layer(before, after, variant.after)
        if variant.after != "nothing":
            self.first = Layer(after * (2 if both else 1), after, variant.after)
        if variant.after != "nothing" and variant.up != "unpool":  # which has one in front
            self.second = Layer(after, after, variant.after)

    def forward(self, x: Any, skip: Any, indices: Any) -> Any:
        """(N, H, W, before) to (N, 2 H, 2 W, after)."""
        x = self.up(x)
        if self.variant.up == "unpool":
            return self.first(F.max_unpool2d(x, indices, 2))
        if self.variant.skip == "add":
            x = x + skip
        if self.variant.after == "nothing":
            return x
        return self.second(self.first(skip, x) if self.variant.skip == "concatenate" else
                           self.first(x))  # fmt: skip


class Network(nn.Module):
    """The way down of all variants, and the way up of one of them.

    Parameters
    ----------
    variant : Variant
    root : float
        Channels of the first level; each level has twice as many as the one above, rounded.
    """

    def __init__(self, variant: Variant, root: float) -> None:
        super().__init__()
        self.variant = variant
        widths = [max(1, round(root * 2**level)) for level in range(LEVELS)]
        dilations = [1, 1, 2, 4] if variant.up == "dilate" else [1] * LEVELS
        self.down = nn.ModuleList(
            nn.Sequential(Layer(before, after, dilation=d), Layer(after, after, dilation=d))
            for before, after, d in zip([1, *widths], widths, dilations, strict=False)
        )
        self.up = nn.ModuleList()
        if variant.up != "dilate":
            for before, after in zip(widths[::-1], widths[-2::-1], strict=False):
                self.up.append(Rise(variant, before, after))
        self.scores = nn.Conv2d(widths[-1] if variant.up == "dilate" else widths[0], 2, 1)

    def forward(self, x: Any) -> Any:
        """Images (N, H, W, 1) to scores (N, H, W, 2)."""
        size, kept = x.shape[1:3], []
        for level, stage in enumerate(self.down):
            x = stage(x)
            last = level == LEVELS - 1
            if not last and not (self.variant.up == "dilate" and level >= 2):
                skip = x
                x, indices = F.max_pool2d(x, 2, return_indices=True)
                kept.append((skip, indices))
        for rise, (skip, indices) in zip(self.up, reversed(kept), strict=False):
            x = rise(x, skip, indices)
        x = self.scores(x)
        return F.interpolate(x, size, mode="bilinear") if self.variant.up == "dilate" else x


def parameters(model: nn.Module) -> int:
    """How many numbers it learns."""
    return sum(p.size for p in model.parameters())


def root_for(variant: Variant, budget: int) -> float:
    """The width with which the variant has as close to `budget` parameters as can be."""
    low, high = 0.5, 1.0
    while parameters(Network(variant, high)) < budget:
        high *= 2
    for _ in range(10):
        root = (low + high) / 2
        low, high = (root, high) if parameters(Network(variant, root)) < budget else (low, root)
    return min((low, high), key=lambda root: abs(parameters(Network(variant, root)) - budget))


# ---- training -------------------------------------------------------------------------------


def frames(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Invented ultrasound frames (N, H, W, 1), and where the nerve is (N, H, W), 0 and 1.

    One in five has none.
    """
    rng = np.random.default_rng(seed)
    pairs = [nerve_frame(SIZE, rng, with_nerve=i % 5 > 0) for i in range(count)]
    images = np.stack([image for image, _ in pairs])[..., None].astype(np.float32)
    masks = np.stack([mask for _, mask in pairs])
    return (images - 100) / 60, (masks > 0).astype(np.int64)


@dataclass
class Result:
    """What came out for one variant, a number for each seed."""

    variant: Variant
    count: int
    iou: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of a step
    predictions: np.ndarray | None = None  # of the first seed


def train(network: Network, data: tuple, steps: int, seed: int, say: Any) -> float:
    """Train, and return the seconds of a step."""
    images, labels = data
    rng = np.random.default_rng(seed)
    optimizer = optim.Adam(network.train().parameters(), lr=4e-3)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    times = []
    for step in range(steps):
        start = time.perf_counter()
        chosen = rng.choice(len(images), BATCH, replace=False)
        x, y = images[chosen], labels[chosen]
        if rng.random() < 0.5:
            x, y = x[:, :, ::-1], y[:, :, ::-1]
        optimizer.zero_grad()
        scores = network(x)
        loss = F.cross_entropy(scores, y)
        loss += F.dice_loss(scores, y, batch=True, include_background=False)
        loss.backward()
        optimizer.step()
        scheduler.step()
        times.append(time.perf_counter() - start)
        say(step + 1, loss.item())
    return float(np.median(times))


def predict(network: Network, images: np.ndarray) -> np.ndarray:
    """Classes of each pixel."""
    network.eval()
    with md.no_grad():
        parts = [network(images[i : i + BATCH]).numpy() for i in range(0, len(images), BATCH)]
    return np.concatenate(parts).argmax(axis=-1)


def compare(
    variants: Sequence[Variant],
    seeds: int,
    steps: int,
    budget: int,
    counts: tuple[int, int],
    progress: Progress,
) -> tuple[list[Result], tuple[np.ndarray, np.ndarray]]:
    """Train each variant from each seed; results in the order of the variants, and test frames.

    Seeds come first, so that what slows the computer down meets all variants.
    """
    progress.begin("inventing {} frames to learn from and {} to be tested on".format(*counts))
    data, (images, labels) = frames(counts[0], 1), frames(counts[1], 2)
    roots = [root_for(variant, budget) for variant in variants]
    networks = [Network(v, root) for v, root in zip(variants, roots, strict=True)]
    results = [Result(v, parameters(n)) for v, n in zip(variants, networks, strict=True)]
    runs = [
        (seed, each, root)
        for seed in range(seeds)
        for each, root in zip(results, roots, strict=True)
    ]
    start = time.monotonic()
    for done, (seed, result, root) in enumerate(runs):
        md.manual_seed(seed)
        network = Network(result.variant, root)
        name = f"{result.variant.like}, seed {seed + 1}/{seeds}"

        def say(step: int, loss: float, done: int = done, name: str = name) -> None:
            left = (time.monotonic() - start) * (len(runs) / (done + step / steps) - 1)
            progress.now(
                f"{name}: step {step}/{steps}, loss {loss:.3f}; all done in {duration(left)}"
            )

        result.seconds.append(train(network, data, steps, seed, say))
        classes = predict(network, images)
        result.iou.append(float(metrics.iou(metrics.confusion_matrix(classes, labels, 2))[1]))
        if result.predictions is None:
            result.predictions = classes
        progress.say(f"{name}: IoU {result.iou[-1]:.3f}")
    return results, (images, labels)


# ---- the table and the picture --------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    """Markdown: what each variant is, and how good."""
    lines = [
        "| like | enlarged by | skip | way up | parameters | IoU of the nerve | ms a step |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for result in results:
        v, iou = result.variant, np.array(result.iou)
        lines.append(
            f"| {v.like} | {v.up} | {v.skip} | {v.shape} | {result.count:,} | "
            f"{iou.mean():.3f} ± {iou.std():.3f} | {1e3 * np.median(result.seconds):.0f} |"
        )
    return "\n".join(lines) + "\n"


def draw(results: Sequence[Result], images: np.ndarray, labels: np.ndarray) -> Any:
    """Bars of the IoU with a dot for each seed, and predictions for three frames."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.6), dpi=110, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    above, below = parts
    axis = above.subplots()
    names = [f"{r.variant.like}\n{_words(r.variant)}" for r in results]
    means = [np.mean(r.iou) for r in results]
    colours = {"plain": "#CCBB44", "symmetric": "#4477AA", "mirrored": "#AA3377"}
    axis.bar(names, means, color=[colours[r.variant.shape] for r in results], width=0.7)
    for i, result in enumerate(results):
        spots = i + np.linspace(-0.12, 0.12, len(result.iou)) * (len(result.iou) > 1)
        axis.plot(spots, result.iou, "o", color=plot.INK, markersize=4, zorder=3)
        axis.text(i, 0.015, f"{means[i]:.3f}", ha="center", color="white", fontsize=9)
    for shape, colour in colours.items():
        axis.bar([0], [0], color=colour, label=shape)
    axis.set_ylabel("IoU of the nerve", color=plot.INK)
    axis.set_ylim(0, 1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=plot.INK)
    axis.legend(ncols=3, frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1))
    counts, seeds = [r.count for r in results], len(results[0].iou)
    axis.set_title(
        f"Ways to go back up, {min(counts):,} to {max(counts):,} parameters each; "
        + (f"bars: mean of {seeds} seeds, dots: each of them" if seeds > 1 else "one seed"),
        fontsize=10,
        color=plot.INK,
        loc="left",
    )
    _draw_predictions(below, results, images, labels)
    return figure


def _words(variant: Variant) -> str:
    skips = {"nothing": "", "add": ", add", "concatenate": ", concat"}
    after = {"nothing": "", "conv": "\nthen conv", "deconv": "\nthen deconv"}
    return f"{variant.up}{skips[variant.skip]}{after[variant.after]}"


def _draw_predictions(
    part: Any, results: Sequence[Result], images: np.ndarray, labels: np.ndarray
) -> None:
    with_nerve = np.flatnonzero(labels.any(axis=(1, 2)))
    rows = with_nerve[:: max(1, len(with_nerve) // 3)][:3]
    axes = part.subplots(len(rows), 2 + len(results), squeeze=False)
    for line, index in zip(axes, rows, strict=True):
        shown = [images[index, ..., 0], labels[index]]
        shown += [r.predictions[index] for r in results if r.predictions is not None]
        for column, (axis, picture) in enumerate(zip(line, shown, strict=True)):
            axis.imshow(picture, cmap="gray", **({} if column == 0 else {"vmin": 0, "vmax": 1}))
            if column > 1:
                axis.contour(labels[index], levels=[0.5], colors="#EE6677", linewidths=0.9)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[0], ["frame", "target", *(r.variant.like for r in results)],
                          strict=True):  # fmt: skip
        axis.set_title(name, fontsize=8, color=plot.INK)
    part.suptitle("first seed; red: outline of the target", fontsize=9, color=plot.INK)


def main(
    out: str | Path = ".",
    seeds: int = 3,
    steps: int = 180,
    budget: int = 100_000,
    counts: tuple[int, int] = (160, 40),
    variants: Sequence[Variant] = VARIANTS,
) -> list[Path]:
    """Compare `variants`; print the table; return the paths of the table and of the picture."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        results, (images, labels) = compare(variants, seeds, steps, budget, counts, progress)
        text = table(results)
        progress.say("\n" + text)
        (out / "upsampling.md").write_text(text, encoding="utf-8")
        picture = plot.write_figure(draw(results, images, labels), out / "upsampling.png")
        progress.say(f"written: {out / 'upsampling.md'}, {picture}; {duration(progress.seconds)}")
    return [out / "upsampling.md", picture]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default=".", help="folder for the table and the picture")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--steps", type=int, default=180, help="steps of each training")
    parser.add_argument("--budget", type=int, default=100_000, help="parameters of each network")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    given = parser.parse_args()
    if given.quick:
        main(given.out, seeds=1, steps=2, budget=5_000, counts=(10, 10))
    else:
        main(given.out, given.seeds, given.steps, given.budget)
