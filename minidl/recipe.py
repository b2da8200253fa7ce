"""From a data folder to a run folder: what is left open is settled by the data, then it trains."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from minidl import metrics, plot
from minidl import run as folder
from minidl.alarms import Alarms
from minidl.architecture import Architecture
from minidl.card import write_card
from minidl.data import DataError, Dataset, Normaliser, Report, Split, check_folder, split_pairs
from minidl.data.masks import listing
from minidl.doctor.advice import class_frequencies, median_frequency_weights
from minidl.environment import environment
from minidl.evaluate import Evaluation, evaluate
from minidl.gallery import Samples, draw_predictions, draw_samples
from minidl.progress import Progress
from minidl.random import manual_seed
from minidl.segmenter import Segmenter, fitting_crop
from minidl.train import Settings, Trainer, TrainingError
from minidl.training.origin import checksums, origin
from minidl.training.recorder import Recorder
from minidl.training.settings import BUDGET

DEFAULT_MINUTES = 5.0
DEFAULT_CROP = 256
NORMALISE = ("set", "image")
DEFAULT_LR = {"adam": 2e-3, "adamw": 2e-3, "sgd": 2e-2}


@dataclass(frozen=True)
class Options:
    """What a person may decide about a run; None leaves it to the data.

    Attributes
    ----------
    model : str
        Name of a network; see `architecture.find_network`.
    settings : mapping of str to anything
        Further arguments of its constructor.
    root, depth : int, optional
        Of a U-Net: channels at full resolution (16), and number of resolutions (4).
    reduce : int
        The network sees averages of so many by so many pixels, and so looks as many times as far.
    epochs, steps, minutes : number, optional
        Whatever ends first ends the training. Without any of them it takes 5 minutes.
    batch_size : int
        Crops in a step.
    crop : int, optional
        Side in pixels of the squares that are cut out of the images; 0 takes whole images. By
        itself 256, times `reduce`, or what fits into the images.
    augment : 'turns', 'mirror', 'none', 'elastic' or 'upright'
        How crops are varied; see `data.batches`.
    foreground_crops : float
        Share of the crops that are moved so that they have foreground in them, where there is any.
    empty_images, weight_map
        See `train.Settings`.
    lr : float, optional
        Learning rate at the beginning; by itself 0.002, and 0.02 for ``'sgd'``.
    seed : int
        Of the split, the weights and the crops.
    accumulate, optimiser, momentum, weight_decay, schedule, warm_up, clip, average, patience, loss
        See `train.Settings`.
    class_weights : 'none', 'median' or sequence of float
        A factor for each class in the loss; 'median' takes those of `doctor.advice`, by which rare
        classes count as much as frequent ones.
    val_fraction : float
        Share of the files to validate on, where no lists say which.
    labels : sequence of int, optional
        The mask values in class order, if not those that occur.
    ignore : int, optional
        Mask value of pixels that do not count.
    normalise : 'set' or 'image'
        Take off the mean of all training images, and divide by their deviation; or of each image
        its own, see `data.Normaliser`.
    instances : bool
        Masks number objects, which are then all of one class; see `data.MaskKind`.
    class_names : sequence of str, optional
    """

    model: str = "unet"
    settings: Mapping[str, Any] = field(default_factory=dict)
    root: int | None = None
    depth: int | None = None
    reduce: int = 1
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 4
    crop: int | None = None
    augment: str = "turns"
    foreground_crops: float = 0.0
    empty_images: float | None = None
    weight_map: bool = False
    lr: float | None = None
    seed: int = 0
    accumulate: int = 1
    optimiser: str = "adam"
    momentum: float = 0.9
    weight_decay: float | None = None
    schedule: str = "cosine"
    warm_up: int = 0
    clip: float | None = None
    average: float | None = None
    patience: int | None = None
    loss: str = "ce+dice"
    class_weights: str | Sequence[float] = "none"
    val_fraction: float = 0.2
    labels: Sequence[int] | None = None
    ignore: int | None = None
    normalise: str = "set"
    instances: bool = False
    class_names: Sequence[str] | None = None


@dataclass(frozen=True)
class Outcome:
    """What `train_folder` made.

    Attributes
    ----------
    run : Path
        The run folder.
    segmenter : Segmenter or None
        The best network; None if the training was interrupted before there was one.
    evaluation : Evaluation or None
        Of the best network, on the validation images.
    val : Dataset
        The validation images.
    interrupted : bool
        Whether the keyboard ended the training.
    """

    run: Path
    segmenter: Segmenter | None
    evaluation: Evaluation | None
    val: Dataset
    interrupted: bool


def train_folder(
    data: str | Path,
    run: str | Path,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train a network on a data folder and leave a run folder.

    Parameters
    ----------
    data : str or Path
        In one of the layouts of `data.find_pairs`. Never written to.
    run : str or Path
        Must not exist yet, or be empty.
    options : Options, optional
    progress : Progress, optional
        Where to tell about it; silent if not given.

    Returns
    -------
    Outcome

    Raises
    ------
    RunError
        If `run` exists.
    DataError
        With all that is wrong with `data`, before anything is trained or written.
    TrainingError
        If the loss is no longer finite. The best network until then stays in `run`.
    OSError
        If the disk is full; what was written before stays as it is.
    """
    options, progress = options or Options(), progress or Progress(silent=True)
    run = folder.refuse_existing(run)
    return with_pictures(train_into(run, data, options, progress), progress)


def with_pictures(outcome: Outcome, progress: Progress) -> Outcome:
    """Write the scores of the best network, and what it makes of some images."""
    run = outcome.run
    if outcome.segmenter is not None and outcome.evaluation is not None:
        progress.begin("drawing the pictures")
        title = f"{run.name}: validation images"
        draw_predictions(outcome.segmenter, outcome.val, run / folder.PREDICTIONS, title)
        folder.write_text(run / folder.METRICS, outcome.evaluation.json())
    write_summary(run)
    return outcome


def write_summary(run: Path) -> None:
    """Write how a finished run came about, as a picture and in words."""
    draw_samples(run, f"{run.name}: validation images while it learned")
    write_card(run)


def train_into(run: Path, data: str | Path, options: Options, progress: Progress) -> Outcome:
    """As `train_folder`, into a folder that may exist, and without the scores and predictions."""
    report = looked_over(data, options, progress)
    split = split_pairs(report.pairs, data, options.val_fraction, options.seed)
    progress.say(
        f"  split   {len(split.train)} to train on, {len(split.val)} to validate on ({split.how})"
    )
    progress.begin("reading the images")
    train, val = read_split(split, report, options)
    segmenter = new_segmenter(report, train.normaliser, options)
    weights = _class_weights(options.class_weights, train, segmenter.class_names)
    settings = resolve(options, report, segmenter.model, weights)
    _begin_folder(run, data, options, settings, segmenter, split)
    progress.keep(run / folder.LOG)
    progress.say(_plan_text(settings, segmenter))
    with folder.alone(run):
        return learn(*new_trainer(run, segmenter, train, val, settings, progress))


def new_trainer(
    run: Path,
    segmenter: Segmenter,
    train: Dataset,
    val: Dataset,
    settings: Settings,
    progress: Progress,
) -> tuple[Trainer, Recorder]:
    """What trains in a folder that has been begun, and what keeps the folder."""
    recorder = Recorder(run, segmenter, progress, origin(run, segmenter, settings))
    names, foreground = segmenter.class_names, segmenter.foreground
    alarms = Alarms(lambda alarm: progress.say(f"  ALARM {alarm}"), run / folder.ALARMS)
    watches = [recorder, alarms, Samples(run, segmenter)]
    return Trainer(segmenter.model, train, val, settings, names, foreground, watches), recorder


def learn(trainer: Trainer, recorder: Recorder) -> Outcome:
    """Train, and say how it ended."""
    progress, first = recorder.progress, trainer.step
    progress.begin("first step; kernels are compiled once and kept for later runs")
    try:
        with _ending_on_ctrl_c(trainer):
            trainer.run()
    except TrainingError as error:
        raise TrainingError(f"{error} {recorder.kept()}") from error
    except OSError as error:
        raise OSError(f"{error} {recorder.kept()} {recorder.way_on()}") from error
    if trainer.interrupted:
        recorder.keep_interrupted(trainer)
        progress.say(f"stopped by Ctrl-C after {trainer.step} steps. {recorder.kept()}")
        progress.say(recorder.way_on())
    elif trainer.stopped_early:
        progress.say(f"stopped early: no better network in {trainer.settings.patience} validations")
    if trainer.step > first:
        progress.say(f"  waited for data: {trainer.waited_share:.1%} of the time")
    return _outcome(trainer, recorder)


@contextlib.contextmanager
def _ending_on_ctrl_c(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C end the training after the present step; pressed again, at once."""
    before = signal.getsignal(signal.SIGINT)
    # Other threads may not; and who has it ignored, as nohup does, wants to go on.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def end(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        trainer.stop()
        # Not print: it may be what was interrupted.
        os.write(2, b"\nCtrl-C: ending after this step (once more: at once)\n")

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def looked_over(data: str | Path, options: Options, progress: Progress) -> Report:
    """Check a data folder, tell what is in it, and raise a DataError if anything is wrong."""
    progress.begin(f"looking over {data}")
    report = check_folder(
        data,
        labels=options.labels,
        ignore=options.ignore,
        instances=options.instances,
        progress=lambda done, total: progress.now(f"looking over {data}: {done}/{total}"),
    )
    report.raise_if_bad()
    progress.say(report.text())
    return report


def read_split(split: Split, report: Report, options: Options) -> tuple[Dataset, Dataset]:
    """What to train on, and what to validate on."""
    assert report.mask_kind is not None  # or there were errors
    if options.normalise not in NORMALISE:
        raise ValueError(
            f"normalise is {options.normalise!r}, expected one of {listing(NORMALISE)}"
        )
    train = Dataset(split.train, report.mask_kind, each=options.normalise == "image")
    return train, Dataset(split.val, report.mask_kind, train.normaliser)


def new_segmenter(report: Report, normaliser: Normaliser, options: Options) -> Segmenter:
    """An untrained network that fits the data."""
    assert report.mask_kind is not None
    names = options.class_names or [f"class {index}" for index in range(report.num_classes)]
    if len(names) != report.num_classes or len(set(names)) != len(names):
        raise DataError(
            f"{len(names)} class names ({listing(names)}) for {report.num_classes} classes (mask "
            f"values {listing(report.mask_kind.values)}), expected a different one for each."
        )
    architecture = Architecture.chosen(
        options.model, normaliser.channels, report.num_classes,
        options.settings, options.root, options.depth, options.reduce,
    )  # fmt: skip
    manual_seed(options.seed)
    ending = "_mask" if report.pairs[0].mask.stem == report.pairs[0].stem + "_mask" else ""
    return Segmenter(
        architecture,
        architecture.build(),
        normaliser,
        report.mask_kind,
        tuple(names),
        tuple(metrics.foreground_classes(report.class_counts)),
        ending,
    )


def resolve(
    options: Options,
    report: Report,
    model: Any,
    class_weights: tuple[float, ...] | None = None,
) -> Settings:
    """Settle what the options leave open."""
    minutes = options.minutes
    if minutes is None and options.steps is None and options.epochs is None:
        minutes = DEFAULT_MINUTES
    both = {field.name for field in fields(Settings)} & {field.name for field in fields(Options)}
    settled = {
        "minutes": minutes,
        "crop": _crop(options.crop, report.sizes, model),
        "lr": DEFAULT_LR[options.optimiser] if options.lr is None else options.lr,
        "class_weights": class_weights,
    }
    return Settings(**{name: getattr(options, name) for name in both} | settled)


def _class_weights(
    wanted: str | Sequence[float], train: Dataset, names: Sequence[str]
) -> tuple[float, ...] | None:
    if wanted == "none":
        return None
    if wanted == "median":
        counts = np.array([train.class_counts(index) for index in range(len(train))])
        frequencies = class_frequencies(counts)
        return tuple(median_frequency_weights(frequencies).tolist())
    if isinstance(wanted, str) or len(wanted) != len(names):
        raise DataError(
            f"class weights {wanted!r} for {len(names)} classes ({listing(names)}), expected a "
            "number for each, 'median' or 'none'."
        )
    return tuple(float(weight) for weight in wanted)


def _crop(
    asked: int | None, sizes: Sequence[tuple[int, int]], model: Any
) -> tuple[int, int] | None:
    if asked is None:
        side = min(
            DEFAULT_CROP * getattr(model, "factor", 1),
            int(np.median([min(size) for size in sizes])),
        )
        return fitting_crop(model, side), fitting_crop(model, side)
    if asked == 0:
        return _whole(sizes, model)
    if asked != model.fitting_size(asked):
        raise DataError(
            f"crop {asked} does not fit this network, whose sides must be {model.sizes()}. Take "
            f"{fitting_crop(model, asked)}."
        )
    return asked, asked


def _whole(sizes: Sequence[tuple[int, int]], model: Any) -> tuple[int, int]:
    """Crops as large as the images: those are then cut nowhere and mirrored at their edges."""
    if len(set(sizes)) > 1:
        raise DataError(
            "crop 0 takes whole images, which must then have one size, but here they have "
            f"{len(set(sizes))} sizes. Give the side of a crop."
        )
    height, width = sizes[0]
    return model.fitting_size(height), model.fitting_size(width)


def _begin_folder(
    run: Path,
    data: str | Path,
    options: Options,
    settings: Settings,
    segmenter: Segmenter,
    split: Split,
) -> None:
    run.mkdir(parents=True, exist_ok=True)
    config = {
        "data": str(Path(data).resolve()),
        "options": asdict(options),
        "settings": asdict(settings),
        "architecture": asdict(segmenter.architecture),
        "parameters": sum(p.size for p in segmenter.model.parameters()),
        "class_names": list(segmenter.class_names),
        "foreground": list(segmenter.foreground),
        "mask_kind": segmenter.mask_kind.to_dict(),
        "normaliser": segmenter.normaliser.to_dict(),
        "mask_ending": segmenter.mask_ending,
    }
    folder.write_json(run / folder.ENVIRONMENT, environment())
    parts = {part: [pair.stem for pair in getattr(split, part)] for part in ("train", "val")}
    sums = checksums(split.train + split.val, data)
    folder.write_json(run / folder.SPLIT, {"how": split.how, **parts, "checksums": sums})
    folder.write_json(run / folder.CONFIG, config)


def _plan_text(settings: Settings, segmenter: Segmenter) -> str:
    weights = sum(p.size for p in segmenter.model.parameters())
    crop, front = settings.crop, [segmenter.class_names[i] for i in segmenter.foreground]
    return (
        f"  network {segmenter.architecture}, {weights:,} weights\n"
        f"  training for {budget_text(settings)}, {settings.batch_size} crops of "
        f"{f'{crop[0]} x {crop[1]}' if crop else 'whole images'} a step, learning rate "
        f"{settings.lr:g}\n"
        f"{_unusual(settings)}"
        f"  val Dice is {'that' if len(front) == 1 else 'the mean'} of {listing(front)}"
    )


def budget_text(settings: Settings) -> str:
    """Such as "300 steps or 5 minutes"."""
    given = ((getattr(settings, name), name) for name in BUDGET)
    return " or ".join(f"{_value_text(value)} {name}" for value, name in given if value)


def _unusual(settings: Settings) -> str:
    """A line with what is decided otherwise than by itself, or nothing."""
    names = (
        "accumulate", "optimiser", "momentum", "weight_decay", "schedule", "warm_up", "clip",
        "average", "patience", "loss", "class_weights", "empty_images", "weight_map",
    )  # fmt: skip
    usual = {field.name: field.default for field in fields(Settings)}
    words = [
        f"{name.replace('_', ' ')} {_value_text(getattr(settings, name))}"
        for name in names
        if getattr(settings, name) != usual[name]
    ]
    return f"  {', '.join(words)}\n" if words else ""


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " : ".join(_value_text(part) for part in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _outcome(trainer: Trainer, recorder: Recorder) -> Outcome:
    run, found = recorder.run, recorder.evaluation
    best = Segmenter.load(run / folder.MODEL) if recorder.has_model else None
    if trainer.best is not None:
        figure = plot.curves(trainer.history, int(trainer.best["step"]), run.name)
        plot.write_figure(figure, run / folder.CURVES)
        if found is None and best is not None:  # found before a resume
            recorder.progress.begin("scoring the best network")
            found = evaluate(best.model, trainer.val, best.class_names, best.foreground)
    return Outcome(run, best, found, trainer.val, trainer.interrupted)
