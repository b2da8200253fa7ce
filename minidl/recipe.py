"""From a data folder to a run folder: what is left open is settled by the data, then it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from minidl.environment import environment
from minidl.evaluate import Evaluation
from minidl.gallery import Samples, draw_predictions, draw_samples
from minidl.progress import Progress, duration
from minidl.random import manual_seed
from minidl.segmenter import Segmenter, fitting_crop
from minidl.train import Settings, Trainer, TrainingError, Watch

DEFAULT_MINUTES = 5.0
DEFAULT_CROP = 256


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
    epochs, steps, minutes : number, optional
        Whatever ends first ends the training. Without any of them it takes 5 minutes.
    batch_size : int
        Crops in a step.
    crop : int, optional
        Side in pixels of the squares that are cut out of the images; 0 takes whole images. By
        itself 256, or what fits into the images.
    augment : 'turns', 'mirror', 'none', 'elastic' or 'upright'
        How crops are varied; see `data.batches`.
    foreground_crops : float
        Share of the crops that are moved so that they have foreground in them, where there is any.
    lr : float
        Learning rate at the beginning.
    seed : int
        Of the split, the weights and the crops.
    val_fraction : float
        Share of the files to validate on, where no lists say which.
    labels : sequence of int, optional
        The mask values in class order, if not those that occur.
    ignore : int, optional
        Mask value of pixels that do not count.
    class_names : sequence of str, optional
    """

    model: str = "unet"
    settings: Mapping[str, Any] = field(default_factory=dict)
    root: int | None = None
    depth: int | None = None
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 4
    crop: int | None = None
    augment: str = "turns"
    foreground_crops: float = 0.0
    lr: float = 2e-3
    seed: int = 0
    val_fraction: float = 0.2
    labels: Sequence[int] | None = None
    ignore: int | None = None
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
    """
    options, progress = options or Options(), progress or Progress(silent=True)
    run = folder.refuse_existing(run)
    outcome = train_into(run, data, options, progress)
    if outcome.segmenter is not None and outcome.evaluation is not None:
        progress.begin("drawing the pictures")
        title = f"{run.name}: validation images"
        draw_predictions(outcome.segmenter, outcome.val, run / folder.PREDICTIONS, title)
        folder.write_text(run / folder.METRICS, outcome.evaluation.json())
    draw_samples(run, f"{run.name}: validation images while it learned")
    write_card(run)
    return outcome


def train_into(run: Path, data: str | Path, options: Options, progress: Progress) -> Outcome:
    """As `train_folder`, into a folder that may exist, and without the scores and predictions."""
    report = looked_over(data, options, progress)
    split = split_pairs(report.pairs, data, options.val_fraction, options.seed)
    progress.say(
        f"  split   {len(split.train)} to train on, {len(split.val)} to validate on ({split.how})"
    )
    progress.begin("reading the images")
    assert report.mask_kind is not None  # or there were errors
    train = Dataset(split.train, report.mask_kind)
    val = Dataset(split.val, report.mask_kind, train.normaliser)
    segmenter = new_segmenter(report, train.normaliser, options)
    settings = resolve(options, report, segmenter.model)
    _begin_folder(run, data, options, settings, segmenter, split)
    progress.keep(run / folder.LOG)
    progress.say(_plan_text(options, settings, segmenter))
    watch = _Recorder(run, segmenter, progress)
    watch.others = [Alarms(lambda a: progress.say(f"  ALARM {a}"), run / folder.ALARMS)]
    watch.others.append(Samples(run, segmenter))
    trainer = Trainer(
        segmenter.model, train, val, settings, segmenter.class_names, segmenter.foreground, watch
    )
    progress.begin("first step; kernels are compiled once and kept for later runs")
    try:
        trainer.run()
    except TrainingError as error:
        raise TrainingError(f"{error} {watch.kept()}") from error
    if trainer.interrupted:
        watch.keep_unvalidated(trainer)
        progress.say(f"stopped by Ctrl-C after {trainer.step} steps. {watch.kept()}")
    return _outcome(run, trainer, watch)


def looked_over(data: str | Path, options: Options, progress: Progress) -> Report:
    """Check a data folder, tell what is in it, and raise a DataError if anything is wrong."""
    progress.begin(f"looking over {data}")
    report = check_folder(
        data,
        labels=options.labels,
        ignore=options.ignore,
        progress=lambda done, total: progress.now(f"looking over {data}: {done}/{total}"),
    )
    report.raise_if_bad()
    progress.say(report.text())
    return report


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
        options.settings, options.root, options.depth,
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


def resolve(options: Options, report: Report, model: Any) -> Settings:
    """Settle what the options leave open."""
    minutes = options.minutes
    if minutes is None and options.steps is None and options.epochs is None:
        minutes = DEFAULT_MINUTES
    return Settings(
        steps=options.steps,
        epochs=options.epochs,
        minutes=minutes,
        batch_size=options.batch_size,
        crop=_crop(options.crop, report.sizes, model),
        augment=options.augment,
        foreground_crops=options.foreground_crops,
        lr=options.lr,
        seed=options.seed,
    )


def _crop(
    asked: int | None, sizes: Sequence[tuple[int, int]], model: Any
) -> tuple[int, int] | None:
    if asked is None:
        side = min(DEFAULT_CROP, int(np.median([min(size) for size in sizes])))
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
    }
    folder.write_json(run / folder.CONFIG, config)
    folder.write_json(run / folder.ENVIRONMENT, environment())
    parts = {part: [pair.stem for pair in getattr(split, part)] for part in ("train", "val")}
    folder.write_json(run / folder.SPLIT, {"how": split.how, **parts})


def _plan_text(options: Options, settings: Settings, segmenter: Segmenter) -> str:
    weights = sum(p.size for p in segmenter.model.parameters())
    budget = [
        f"{value:.3g} {unit}"
        for value, unit in (
            (settings.steps, "steps"),
            (settings.epochs, "epochs"),
            (settings.minutes, "minutes"),
        )
        if value is not None
    ]
    crop, front = settings.crop, [segmenter.class_names[i] for i in segmenter.foreground]
    return (
        f"  network {segmenter.architecture}, {weights:,} weights\n"
        f"  training for {' or '.join(budget)}, {settings.batch_size} crops of "
        f"{f'{crop[0]} x {crop[1]}' if crop else 'whole images'} a step, learning rate "
        f"{settings.lr:g}\n"
        f"  val Dice is {'that' if len(front) == 1 else 'the mean'} of {listing(front)}"
    )


class _Recorder(Watch):
    """Shows a training on the screen and keeps its best network and its history in a folder."""

    def __init__(self, run: Path, segmenter: Segmenter, progress: Progress) -> None:
        self.run, self.segmenter, self.progress = run, segmenter, progress
        self.evaluation: Evaluation | None = None
        self.saved, self.others = False, list[Watch]()

    def not_finite(self, trainer: Trainer) -> str:
        return " ".join(filter(None, (other.not_finite(trainer) for other in self.others)))

    def stepped(self, trainer: Trainer) -> None:
        for other in self.others:
            other.stepped(trainer)
        of = "" if trainer.last_step is None else f"/{trainer.last_step}"
        line = f"  step {trainer.step}{of}  loss {trainer.loss:.3f}"
        if trainer.history:
            line += f"  val Dice {_score(trainer.history[-1])} (best {_score(trainer.best)})"
        if trainer.step > 1 and not math.isnan(trainer.remaining):
            line += f"  {duration(trainer.remaining)} left"
        self.progress.now(line)

    def validating(self, trainer: Trainer, done: int) -> None:
        self.progress.now(f"  step {trainer.step}  validating {done}/{len(trainer.val)}")

    def validated(self, trainer: Trainer, evaluation: Evaluation, better: bool) -> None:
        if better:
            self.segmenter.save(self.run / folder.MODEL)
            self.evaluation, self.saved = evaluation, True
        folder.write_text(self.run / folder.HISTORY, folder.history_text(trainer.history))
        row = trainer.history[-1]
        self.progress.say(
            f"  step {row['step']:5}  epoch {row['epoch']:6.1f}  loss {row['train_loss']:.3f}  "
            f"val loss {row['val_loss']:.3f}  val Dice {_score(row)}  "
            f"pixel accuracy {row['val_pixel_accuracy']:.3f}  {duration(row['seconds'])}"
            + ("  * best" if better else "")
        )
        for other in self.others:
            other.validated(trainer, evaluation, better)

    def keep_unvalidated(self, trainer: Trainer) -> None:
        """Save a network that was stopped before its first validation but has learnt something."""
        if not self.saved and trainer.step:
            self.segmenter.save(self.run / folder.MODEL)
            self.saved = True

    def kept(self) -> str:
        """A sentence about what is in the folder."""
        if self.saved:
            return f"The best network so far is in {self.run / folder.MODEL}."
        return f"There was no network to keep yet; {self.run} holds only its settings."


def _score(row: Mapping[str, float] | None) -> str:
    return "-" if row is None or math.isnan(row["val_dice"]) else f"{row['val_dice']:.3f}"


def _outcome(run: Path, trainer: Trainer, watch: _Recorder) -> Outcome:
    best = Segmenter.load(run / folder.MODEL) if watch.saved else None
    if trainer.best is not None:
        figure = plot.curves(trainer.history, int(trainer.best["step"]), run.name)
        plot.write_figure(figure, run / folder.CURVES)
    return Outcome(run, best, watch.evaluation, trainer.val, trainer.interrupted)
