"""One recipe for each of six real data sets, trained with minidl and, step for step, with PyTorch.

    python benchmarks/recipes.py DATA_ROOT                      all of them, both sides
    python benchmarks/recipes.py DATA_ROOT --only isbi2012_em   one
    python benchmarks/recipes.py DATA_ROOT --side minidl        one side; the table takes both

Both sides begin with the same weights, take the same batches from the same thread, compute the same
loss, and are scored by the same code on the images of val.txt, at the same steps; the best of these
scores is what counts. Steps are timed apart from validations. PyTorch uses whichever of its two
layouts is the faster on this network. Writes into --out, a folder for each data set, and the table
recipes.md, recipes.json. Needs the package and PyTorch: ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import minidl as md
from minidl import recipe
from minidl.data import Dataset, batches, check_folder, split_pairs
from minidl.evaluate import Evaluation
from minidl.gallery import draw_predictions
from minidl.prefetch import prefetch
from minidl.progress import Progress
from minidl.recipe import Options
from minidl.segmenter import Segmenter
from minidl.train import Settings, Trainer, Watch

SIDES = ("minidl", "pytorch")
THREADS = 2


NERVE = ("background", "nerve", "vessel")
STREET = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
CLOSE: dict[str, Any] = {"depth": 4, "crop": 256, "batch_size": 4}
FAR: dict[str, Any] = {"depth": 5, "augment": "upright"}
CALM: dict[str, Any] = {"optimiser": "adamw", "weight_decay": 0.1, "average": 0.99}

# What `minidl train` is asked for.
RECIPES = {
    "isbi2012_em": Options(**CLOSE, steps=450),
    "cardiac_sunnybrook": Options(
        depth=5, augment="elastic", normalise="image", crop=128, batch_size=8,
        foreground_crops=0.75, steps=1200, **CALM
    ),
    "nerve_usgra": Options(
        **FAR, reduce=4, crop=512, batch_size=4, class_names=NERVE, steps=800, **CALM
    ),
    "camvid": Options(
        depth=5, reduce=2, crop=256, batch_size=8, augment="mirror", ignore=11,
        class_names=STREET, steps=450,
    ),
    "nuclei_dsb2018": Options(depth=4, crop=128, batch_size=16, instances=True, steps=350),
    "drive_retina": Options(**CLOSE, steps=400),
}  # fmt: skip


@dataclass
class Task:
    """A data set read, and a network that fits it."""

    name: str
    how: Options
    settings: Settings
    segmenter: Segmenter
    train: Dataset
    val: Dataset

    @classmethod
    def prepare(cls, name: str, data: Path, how: Options, progress: Progress) -> Task:
        """As `minidl train` does, up to the first step."""
        report = check_folder(data, labels=how.labels, ignore=how.ignore, instances=how.instances)
        report.raise_if_bad()
        progress.say(report.text())
        split = split_pairs(report.pairs, data, how.val_fraction, how.seed)
        train, val = recipe.read_split(split, report, how)
        segmenter = recipe.new_segmenter(report, train.normaliser, how)
        settings = recipe.resolve(how, report, segmenter.model)
        for part in (train, val):  # decoding is not to be measured
            for index in range(len(part)):
                part.raw(index)
        return cls(name, how, settings, segmenter, train, val)

    def trainer(self, watch: Watch | None = None) -> Trainer:
        return Trainer(
            self.segmenter.model, self.train, self.val, self.settings, self.segmenter.class_names,
            self.segmenter.foreground, watch,
        )  # fmt: skip

    def batches(self) -> Any:
        """What the trainer learns from."""
        settings = self.settings
        return batches(
            self.train, settings.batch_size, settings.crop, settings.seed, steps=settings.steps,
            augment=settings.augment, foreground=settings.foreground_crops,
        )  # fmt: skip


@dataclass
class Record:
    """What one side did.

    Attributes
    ----------
    side, layout : who, and in PyTorch's case in which layout
    progress : told about every validation
    rows : one for each validation
    best : scores of the best one; the step of it
    validating : seconds in validations
    seconds : in all, validations included
    """

    side: str
    progress: Progress
    layout: str = ""
    rows: list[dict[str, float]] = field(default_factory=list)
    best: Evaluation | None = None
    best_step: int = 0
    validating: float = 0.0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, step: int, loss: float, evaluation: Evaluation, began: float) -> bool:
        """Note a validation that began then and has just ended; whether it is the best so far."""
        now = time.perf_counter()
        self.validating += now - began
        self.seconds = now - self.started
        scores = evaluation.to_dict()
        kept = ("foreground_dice", "mean_iou", "pixel_accuracy")
        row = {"step": step, "steps_seconds": round(self.steps_seconds, 2), "train_loss": loss}
        self.rows.append(row | {key: scores[key] for key in kept})
        self.progress.say(
            f"  {self.side:8} step {step:5}  loss {loss:.3f}  Dice {scores['foreground_dice']:.4f}"
            f"  mean IoU {scores['mean_iou']:.4f}  accuracy {scores['pixel_accuracy']:.4f}"
            f"  {self.steps_seconds:.0f} s of steps, {self.validating:.0f} s of validations"
        )
        better = self.best is None or evaluation.foreground_dice > self.best.foreground_dice
        if better:
            self.best, self.best_step = evaluation, step
        return better

    @property
    def steps_seconds(self) -> float:
        """Seconds in training steps, waiting for data included."""
        return self.seconds - self.validating

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        assert self.best is not None
        scores = self.best.to_dict()
        scores.pop("each", None)
        return {
            "side": self.side,
            "layout": self.layout,
            "steps_seconds": self.steps_seconds,
            "seconds": self.seconds,
            "best_step": self.best_step,
            "last_dice": self.rows[-1]["foreground_dice"],
            "best": scores,
        }


class Recorder(Watch):
    """Notes our validations and keeps the best weights."""

    def __init__(self, record: Record) -> None:
        self.record, self.weights = record, {}
        self.began: float | None = None

    def validating(self, trainer: Trainer, done: int) -> None:
        if self.began is None:
            self.began = time.perf_counter()

    def validated(self, trainer: Trainer, evaluation: Evaluation, better: bool) -> None:
        assert self.began is not None
        loss = trainer.history[-1]["train_loss"]
        self.record.add(trainer.step, loss, evaluation, self.began)
        self.began = None
        if better:
            self.weights = {k: v.copy() for k, v in trainer.model.state_dict().items()}


def run_minidl(task: Task, out: Path, progress: Progress) -> Record:
    """Train with minidl; a picture of what the best network finds stays in `out`."""
    md.set_num_threads(THREADS)
    watch = Recorder(Record("minidl", progress))
    task.trainer(watch).run()
    task.segmenter.model.load_state_dict(watch.weights)
    title = f"{task.name}: validation images"
    draw_predictions(task.segmenter, task.val, out / "predictions.png", title)
    return watch.record


def run_pytorch(task: Task, out: Path, progress: Progress) -> Record:
    """Train the twin with PyTorch."""
    import torch
    import torch_recipes

    md.set_num_threads(THREADS)  # augmentation, if it resamples, is ours on both sides
    torch.set_num_threads(THREADS)
    model, foreground, settings = task.segmenter.model, task.segmenter.foreground, task.settings
    first = next(task.batches())
    channels_last = torch_recipes.faster_layout(model, foreground, settings, *first)
    twin = torch_recipes.Twin(model, foreground, channels_last, settings)
    every = task.trainer().validate_every
    record = Record("pytorch", progress, "channels last" if channels_last else "contiguous")

    def validate(step: int, loss: float) -> None:
        began = time.perf_counter()
        record.add(step, loss, twin.evaluate(task.val, task.segmenter.class_names), began)

    with prefetch(task.batches()) as ready:
        torch_recipes.train(twin, ready, settings.lr, settings.steps, every, validate)
    return record


def write_side(task: Task, record: Record, out: Path) -> None:
    """Write what a side did: SIDE.json and its validations as SIDE.csv."""
    model = task.segmenter.model
    network = getattr(model, "network", model)
    about = {
        "name": task.name,
        "options": asdict(task.how),
        "crop": task.settings.crop,
        "network": f"U-Net, root {network.root}, depth {network.depth}",
        "parameters": sum(p.size for p in model.parameters()),
        "images": [len(task.train), len(task.val)],
    }
    text = json.dumps(about | record.to_dict(), indent=1)
    (out / f"{record.side}.json").write_text(text + "\n", encoding="utf-8")
    with open(out / f"{record.side}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, record.rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(record.rows)


def table(out: Path) -> tuple[str, list[dict[str, Any]]]:
    """Markdown of all data sets in `out` that both sides are done with, and the same as records."""
    lines = [
        "| data set | network, crops | steps | minidl Dice | mean IoU | accuracy | min "
        "| PyTorch Dice | mean IoU | accuracy | min | times as fast |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    records = []
    for name in RECIPES:
        files = [out / name / f"{side}.json" for side in SIDES]
        if not all(file.is_file() for file in files):
            continue
        ours, theirs = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        ratio = theirs["steps_seconds"] / ours["steps_seconds"]
        records.append({"name": name, "ratio": ratio, "minidl": ours, "pytorch": theirs})
        options, crop = ours["options"], " x ".join(map(str, ours["crop"]))
        cells = [
            name,
            f"{ours['network']}; {options['batch_size']} of {crop}" + _reduced(options["reduce"]),
            options["steps"],
            *_cells(ours),
            *_cells(theirs),
            f"{ratio:.2f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n", records


def _reduced(factor: int) -> str:
    return f", averaged over {factor} x {factor}" if factor > 1 else ""


def _cells(side: dict[str, Any]) -> list[str]:
    scores = [side["best"][key] for key in ("foreground_dice", "mean_iou", "pixel_accuracy")]
    return [f"{100 * score:.1f}" for score in scores] + [f"{side['steps_seconds'] / 60:.1f}"]


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA_ROOT", help="folder of the data sets")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--side", choices=SIDES, help="only this one")
    parser.add_argument("--steps", type=int, help="instead of each recipe's own number")
    parser.add_argument("--seed", type=int, default=0, help="of weights and crops (default 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    arguments = parser.parse_args()
    for name in arguments.only:
        how = replace(RECIPES[name], seed=arguments.seed)
        if arguments.steps:
            how = replace(how, steps=arguments.steps)
        out = arguments.out / name
        out.mkdir(parents=True, exist_ok=True)
        for side in [arguments.side] if arguments.side else SIDES:
            with Progress() as progress:
                task = Task.prepare(name, arguments.data / name, how, progress)
                run = run_minidl if side == "minidl" else run_pytorch
                write_side(task, run(task, out, progress), out)
    text, records = table(arguments.out)
    (arguments.out / "recipes.md").write_text(text, encoding="utf-8")
    (arguments.out / "recipes.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
