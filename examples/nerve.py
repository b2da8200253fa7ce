"""Why a U-Net "does not converge": a failed experiment, its defects taken out one at a time.

Lecture slides about segmentation tell of an FCN and a U-Net on Kaggle's ultrasound nerves. The FCN
found "several separated spots", or none, or lit up frames without a nerve; the U-Net did "not
converge". The slides blame time and batch size. Here both are trained again on invented
ultrasound, a fifth as wide and high, with the slides' settings; then

1. each of the settings that look like defects is mended alone, and so is what the slides blame;
2. each of them is put alone into the recipe in which all are mended: what is it worth?
3. `minidl train` gets the same frames, and as many.

All learn from the same frames; all are judged on the same subjects, none of which they have seen.

    python examples/nerve.py --out nerve [--steps 120] [--seeds 2] [--minutes 10] [--quick]

A table, pictures and every finished training are left in the folder. The same command goes on
where it was stopped, by Ctrl-C or after `--minutes`.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nerve_figures as figures
import numpy as np

import minidl as md
from minidl import functional as F
from minidl import metrics, nn, optim
from minidl.data import find_pairs, read_image, read_mask, write_nerve_set
from minidl.models.fcn import FCNSlides
from minidl.models.unet import UNetSlides
from minidl.progress import Progress, duration
from minidl.recipe import Options, train_folder
from minidl.run import free_name
from minidl.segmenter import scores_of

SIZE = 84, 116  # a fifth of Kaggle's 420 x 580
FCN_SIZE = 96, 96  # whatever the frame's shape, as the slides' 224 x 224
EMPTY = 0.59  # share of frames without a nerve, Kaggle's
FCN_STEPS = 200 * (5635 // 32)  # the slides' epochs; of the U-Net 400 * (5635 // 16) = 140 800


@dataclass(frozen=True)
class Setting:
    """What decides one training. By itself everything is mended.

    Attributes
    ----------
    network : 'unet' or 'fcn'
        The slides' U-Net, depth 3 and root 8, 29 474 parameters; or their FCN, with 4 instead of
        64 channels at the beginning, and not pretrained.
    output_relu : bool
        Scores cannot be negative (U-Net only).
    fan_out : bool
        Weights start as small as the number of results says, with biases of 0.1; rather than as
        He et al. have it, by the number of inputs, with biases of 0 (U-Net only).
    dropout : float
        Probability to drop each result of each convolution; of the FCN, behind W6 and W7.
    lr : float
        Adam's, constant.
    dice : bool
        Loss is cross-entropy plus Dice loss, rather than cross-entropy alone.
    nerves : float or None
        Share of frames with a nerve in a batch; None takes frames as they come.
    scaling : 'z-score', 'min-max' or 'mean'
        Mean 0 and deviation 1 over all training frames; 0..1 in each frame; or 0..255 less the
        mean.
    batch : int
    times : int
        How often the usual number of steps.
    """

    network: str = "unet"
    output_relu: bool = False
    fan_out: bool = False
    dropout: float = 0.0
    lr: float = 2e-3
    dice: bool = True
    nerves: float | None = 0.75
    scaling: str = "z-score"
    batch: int = 16
    times: int = 1


MENDED = Setting()
DEFECTS: dict[str, dict[str, Any]] = {
    "rate 1e-4": {"lr": 1e-4},
    "score ReLU": {"output_relu": True},
    "dropout everywhere": {"dropout": 0.4},
    "cross-entropy alone": {"dice": False},
    "fan-out start": {"fan_out": True},
    "frames as they come": {"nerves": None},
    "min-max scaling": {"scaling": "min-max"},
}
SLIDES = replace(MENDED, **{name: value for d in DEFECTS.values() for name, value in d.items()})
FCN = Setting("fcn", dropout=0.2, lr=1e-6, dice=False, nerves=None, scaling="mean", batch=32)


def without(setting: Setting, defect: str) -> Setting:
    """The setting with that defect mended."""
    return replace(setting, **{name: getattr(MENDED, name) for name in DEFECTS[defect]})


def variants(steps: int) -> dict[str, tuple[str, Setting]]:
    """Group and setting of each training, by its name."""
    found = {"U-Net as on the slides": ("slides", SLIDES)}
    for name in DEFECTS:
        found[f"slides - {name}"] = "mended", without(SLIDES, name)
    found["slides, twice the steps"] = "blamed", replace(SLIDES, times=2)
    found["slides, twice the batch"] = "blamed", replace(SLIDES, batch=32)
    first, *others = DEFECTS
    fast = without(SLIDES, first)
    found[f"slides - {first}, twice the steps"] = "blamed", replace(fast, times=2)
    for name in others[:-2]:  # what the last but one leaves is "mended + min-max scaling"
        fast = without(fast, name)
        found[f"... and - {name}"] = "ladder", fast
    found["U-Net, all mended"] = "good", MENDED
    for name, defect in DEFECTS.items():
        found[f"mended + {name}"] = "spoilt", replace(MENDED, **defect)
    found["mended + only frames with a nerve"] = "spoilt", replace(MENDED, nerves=1.0)
    found["mended + 0..255 less the mean"] = "spoilt", replace(MENDED, scaling="mean")
    found["FCN as on the slides"] = "fcn", FCN
    as_far = FCN.lr * FCN_STEPS / steps
    found["FCN, rate for as long a way"] = "fcn", replace(FCN, lr=as_far)
    found["FCN, all mended"] = "fcn", replace(MENDED, network="fcn", lr=1e-3)
    return found


# ---- frames ---------------------------------------------------------------------------------


@dataclass
class Frames:
    """Grey frames (N, H, W) uint8, where the nerve is (N, H, W) int64, 0 and 1, and their names."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    folder: Path

    @property
    def entropy(self) -> float:
        """Cross-entropy of who knows how frequent nerve pixels are, and no more."""
        q = self.labels.mean()
        return float(-q * np.log(q) - (1 - q) * np.log(1 - q))

    def watched(self, count: int = 48) -> "Frames":
        """Some of the frames, evenly spread."""
        some = slice(None, None, max(1, len(self.names) // count))
        return Frames(self.images[some], self.labels[some], self.names[some], self.folder)


def frames(folder: Path, count: int) -> tuple[Frames, Frames]:
    """Frames to train on and frames to judge by; invented and written if they are not there.

    A quarter of the subjects is for judging. ``train.txt`` and ``val.txt`` say so to `minidl`.
    """
    if not (folder / "val.txt").exists():
        write_nerve_set(folder, count, SIZE, empty_fraction=EMPTY)
        names = [pair.stem for pair in find_pairs(folder)]
        for part, wanted in (("train", False), ("val", True)):
            chosen = [name for name in names if (int(name.split("_")[0]) % 4 == 0) == wanted]
            (folder / f"{part}.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return _read(folder, "train"), _read(folder, "val")


def _read(folder: Path, part: str) -> Frames:
    names = (folder / f"{part}.txt").read_text(encoding="utf-8").split()
    images = [read_image(folder / f"{name}.tif")[..., 0] for name in names]
    masks = [read_mask(folder / f"{name}_mask.tif") for name in names]
    return Frames(np.stack(images), (np.stack(masks) > 0).astype(np.int64), names, folder)


def scaled(images: np.ndarray, how: str, like: Frames) -> np.ndarray:
    """Three equal channels (N, H, W, 3) float32, as the slides have, of `Setting.scaling`."""
    x = images.astype(np.float32)
    if how == "min-max":
        low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
        x = (x - low) / np.maximum(high - low, 1)
    else:
        x = (x - like.images.mean()) / (like.images.std() if how == "z-score" else 1)
    return np.repeat(x[..., None].astype(np.float32), 3, axis=-1)


def inputs(
    frames: Frames, setting: Setting, like: Frames, network: Any
) -> tuple[np.ndarray, np.ndarray]:
    """What the network is given: squares for the FCN, mirrored borders for the U-Net.

    The slides' U-Net cuts the borders off instead, 20 pixels at each side. That is little of 420 x
    580, but too much of a fifth of it.
    """
    x, labels = scaled(frames.images, setting.scaling, like), frames.labels
    if setting.network == "fcn":
        return F.interpolate(x, FCN_SIZE, mode="bilinear").numpy(), resized(labels, FCN_SIZE)
    edge = network.shrink // 2
    return np.pad(x, [(0, 0), (edge, edge), (edge, edge), (0, 0)], mode="symmetric"), labels


def resized(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks (N, H, W) of another size, the nearest pixel for each."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, masks.shape[1:], strict=True))
    return masks[:, rows][:, :, columns]


# ---- training -------------------------------------------------------------------------------


def build(setting: Setting, seed: int) -> Any:
    """The network, with its first weights."""
    rng = np.random.default_rng(seed)
    if setting.network == "fcn":
        return FCNSlides(3, 2, dropout=setting.dropout, width=4, rng=rng)
    network = UNetSlides(3, 2, dropout=setting.dropout, output_relu=setting.output_relu, rng=rng)
    if not setting.fan_out:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data = nn.init.he_normal(layer.weight.shape, rng)
                layer.bias.data[...] = 0
            elif isinstance(layer, nn.ConvTranspose2d):  # without overlap: one tap for each pixel
                channels = layer.weight.shape[-1]
                layer.weight.data = nn.init.he_normal(layer.weight.shape, rng, fan_in=channels)
                layer.bias.data[...] = 0
    return network


def chosen_frames(labels: np.ndarray, setting: Setting, steps: int, seed: int) -> Iterator[Any]:
    """Which frames are in each batch."""
    rng = np.random.default_rng(seed)
    there = labels.any(axis=(1, 2))
    for _ in range(steps):
        if setting.nerves is None:
            yield rng.choice(len(labels), setting.batch)
        else:
            count = round(setting.nerves * setting.batch)
            parts = (np.flatnonzero(there), count), (np.flatnonzero(~there), setting.batch - count)
            yield np.concatenate([rng.choice(part, size) for part, size in parts])


@dataclass
class Result:
    """What came out of one training.

    Attributes
    ----------
    curve : list of (step, cross-entropy)
        On frames of the training set, without dropout.
    predictions : ndarray (N, H, W) bool
        For the frames to judge by.
    seconds : float
    steps : int
    """

    curve: list[tuple[int, float]]
    predictions: np.ndarray
    seconds: float
    steps: int


def train(setting: Setting, data: tuple[Frames, Frames], steps: int, seed: int, say: Any) -> Result:
    """Train with Adam; `say(share done, text)` is called after each step."""
    learn, judge = data
    steps *= setting.times
    md.manual_seed(seed)
    network = build(setting, seed)
    x, y = inputs(learn, setting, learn, network)
    watched = inputs(learn.watched(), setting, learn, network)
    optimizer = optim.Adam(network.parameters(), lr=setting.lr)
    curve, start = [(0, cross_entropy(network, *watched))], time.monotonic()
    for step, chosen in enumerate(chosen_frames(learn.labels, setting, steps, seed), 1):
        scores = network.train()(x[chosen])
        loss = F.cross_entropy(scores, y[chosen])
        if setting.dice:
            loss += F.dice_loss(scores, y[chosen], batch=True, include_background=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, steps // 12) == 0:
            curve.append((step, cross_entropy(network, *watched)))
        say(step / steps, f"step {step}/{steps}, loss {loss.item():.3f}")
    x, _ = inputs(judge, setting, learn, network)
    found = np.concatenate([s.argmax(axis=-1) for s in all_scores(network, x)])
    return Result(curve, resized(found, SIZE) > 0, time.monotonic() - start, steps)


def all_scores(network: Any, x: np.ndarray, batch: int = 16) -> Iterator[np.ndarray]:
    """Scores of frames, some at a time, without dropout."""
    network.eval()
    with md.no_grad():
        for i in range(0, len(x), batch):
            yield network(x[i : i + batch]).numpy()


def cross_entropy(network: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Mean over pixels."""
    scores = np.concatenate(list(all_scores(network, x)))
    with md.no_grad():
        return F.cross_entropy(scores, y).item()


# ---- judging --------------------------------------------------------------------------------


def judged(result: Result, data: tuple[Frames, Frames]) -> dict[str, Any]:
    """Scores and failures of one training.

    'kaggle' is the competition's mean over frames, in which an empty frame that is left empty
    counts 1; 'dice' is of all pixels of all frames together. 'converged': that its cross-entropy is
    5 % below that of who knows nothing but how frequent nerve pixels are.
    """
    learn, judge = data
    pairs = list(zip(result.predictions, judge.labels > 0, strict=True))
    names = [metrics.failure(found, truth) for found, truth in pairs]
    hits = sum(int((found & truth).sum()) for found, truth in pairs)
    area = sum(int(found.sum()) + int(truth.sum()) for found, truth in pairs)
    return {
        "kaggle": float(np.mean([metrics.kaggle_dice(*pair) for pair in pairs])),
        "dice": 2 * hits / area if area else 1.0,
        "loss": result.curve[-1][1],
        "converged": result.curve[-1][1] < 0.95 * learn.watched().entropy,
        **{name: names.count(name) for name in metrics.FAILURES},
    }


# ---- the experiment -------------------------------------------------------------------------


def recommended(out: Path, data: tuple[Frames, Frames], steps: int, seed: int, say: Any) -> Result:
    """`minidl train` as it is, for as many frames: steps of 4 rather than 16."""
    learn, judge = data
    say(0, f"{4 * steps} steps")
    run = free_name(out / "trainings" / f"minidl-{seed}")
    start = time.monotonic()
    outcome = train_folder(learn.folder, run, Options(steps=4 * steps, seed=seed))
    assert outcome.segmenter is not None
    found = [outcome.segmenter(image[..., None]) > 0 for image in judge.images]
    segmenter, watched = outcome.segmenter, learn.watched()
    scores = [
        scores_of(segmenter.model, segmenter.normaliser(i[..., None])) for i in watched.images
    ]
    loss = F.cross_entropy(np.stack(scores), watched.labels).item()
    return Result([(4 * steps, loss)], np.stack(found), time.monotonic() - start, 4 * steps)


@dataclass
class Training:
    """One of the experiment's trainings, and what came out of it if it is done.

    `setting` is None for `minidl train`. `key` says what the result in `file` must be of.
    """

    name: str
    group: str
    setting: Setting | None
    seed: int
    file: Path
    key: str
    result: Result | None = None

    @property
    def work(self) -> float:
        """How long it takes, compared with others."""
        if self.setting is None:
            return 20
        return self.setting.times * self.setting.batch

    def load(self) -> None:
        """Take the result from the file, if it is there and of this setting."""
        if not self.file.exists():
            return
        with np.load(self.file) as file:
            if str(file["key"]) == self.key:
                shape = tuple(file["shape"])
                found = np.unpackbits(file["bits"], count=int(np.prod(shape))).reshape(shape)
                curve = [(int(step), float(loss)) for step, loss in file["curve"]]
                self.result = Result(
                    curve, found.astype(bool), float(file["seconds"]), int(file["steps"])
                )

    def keep(self, result: Result) -> None:
        """Write the result into the file, which is complete or not there."""
        self.result = result
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part.npz")
        np.savez_compressed(
            part, key=self.key, bits=np.packbits(result.predictions),
            shape=result.predictions.shape, curve=np.array(result.curve),
            seconds=result.seconds, steps=result.steps,
        )  # fmt: skip
        os.replace(part, self.file)


def planned(out: Path, steps: int, seeds: int, frames: int) -> list[Training]:
    """All trainings; those that are done have their result."""
    settings: dict[str, Any] = {**variants(steps), "minidl train": ("good", None)}
    plan = []
    for seed in range(seeds):
        for name, (group, setting) in settings.items():
            file = out / "trainings" / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{seed}.npz"
            key = json.dumps([asdict(setting) if setting else name, steps, frames])
            plan.append(Training(name, group, setting, seed, file, key))
            plan[-1].load()
    return plan


def experiment(
    out: Path,
    data: tuple[Frames, Frames],
    steps: int,
    seeds: int,
    minutes: float | None,
    progress: Progress,
) -> list[figures.Row] | None:
    """Run what is not done yet; None if it takes longer than `minutes`."""
    plan = planned(out, steps, seeds, len(data[0].names))
    todo = [training for training in plan if training.result is None]
    progress.say(f"{len(plan) - len(todo)} of {len(plan)} trainings are done")
    start, total, done = time.monotonic(), sum(training.work for training in todo), 0.0
    for training in todo:
        if minutes is not None and time.monotonic() - start > 60 * minutes:
            progress.say("time is up; the same command goes on from here")
            return None

        def say(share: float, text: str, now: Training = training, before: float = done) -> None:
            passed = before + share * now.work
            left = (time.monotonic() - start) * (total / passed - 1) if passed else None
            rest = "" if left is None else f"; all done in {duration(left)}"
            progress.now(f"{now.name}: {text}{rest}")

        if training.setting is None:
            result = recommended(out, data, steps, training.seed, say)
        else:
            result = train(training.setting, data, steps, training.seed, say)
        training.keep(result)
        name = f"{training.name}, seed {training.seed}"
        progress.say(f"{name}: {figures.words(judged(result, data))}")
        done += training.work
    rows: dict[str, figures.Row] = {}
    for training in plan:
        assert training.result is not None
        one = rows.setdefault(training.name, figures.Row(training.name, training.group))
        one.add(training.result, judged(training.result, data))
    return list(rows.values())


def main(
    out: str | Path = "nerve",
    steps: int = 120,
    seeds: int = 1,
    minutes: float | None = None,
    count: int = 360,
) -> Path | None:
    """Run what is not done yet; return the table's path, or None if minutes ended it before."""
    out = Path(out)
    with Progress() as progress:
        progress.begin(f"inventing {count} frames")
        data = frames(out / f"frames-{count}", count)
        rows = experiment(out, data, steps, seeds, minutes, progress)
        if rows is None:
            return None
        empty = Result([(0, np.inf)], np.zeros_like(data[1].labels, bool), 0.0, 0)
        nothing = figures.Row("no nerve in any frame", "slides")
        nothing.add(empty, judged(empty, data))
        text = figures.table([nothing, *rows])
        progress.say("\n" + text)
        (out / "nerve.md").write_text(text, encoding="utf-8")
        for picture in figures.draw(rows, data, out):
            progress.say(f"written: {picture}")
    return out / "nerve.md"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="nerve", help="folder for everything")
    parser.add_argument("--steps", type=int, default=120, help="steps of each training")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each variant")
    parser.add_argument("--minutes", type=float, help="begin no training after so long")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works")
    given = parser.parse_args()
    if given.quick:
        main(given.out, steps=3, count=24)
    else:
        main(given.out, given.steps, given.seeds, given.minutes)
