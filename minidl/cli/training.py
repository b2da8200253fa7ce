"""The commands that train a network and use it: demo, train, evaluate, predict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minidl.cli import arguments as types
from minidl.cli.arguments import add_command, add_common, add_network

DEMO = """\
Write a small set of synthetic ultrasound frames, train a U-Net to find the nerve in them, and
try it on frames of other subjects. Takes one to two minutes.

Leaves DIR with data/, the model, history.csv, curves.png and predictions.png.
"""

TRAIN = """\
Train a segmentation network on DATA and leave a run folder.

DATA holds NAME.tif beside NAME_mask.tif, or images/ beside masks/ or labels/ with the same
names: TIFF, PNG or JPEG, of any size. train.txt and val.txt in it say which names are for
training and which for validation; otherwise a fifth is drawn for validation. DATA is looked
over first, and all that is wrong with it is said. Nothing in it is changed.

Whatever ends first of --epochs, --steps and --minutes ends the training; without any of them
it takes 5 minutes. Ctrl-C ends it, too. The network that did best on the validation images
is kept.

minidl train --resume RUN goes on with a run that was interrupted, by Ctrl-C or by a power cut:
it becomes, bit for bit, the run that it would have been. All options are those that it began
with; a new budget, counted from the beginning, may be given to train a run for longer.
"""

NOT_GIVEN = object()

EVALUATE = """\
Score the network of RUN on DATA: accuracy, Dice and IoU of each class, over all pixels.

If DATA is what the network was trained on, its validation part is scored; otherwise all of
it. A "-" means that a class does not occur.
"""

PREDICT = """\
Write a mask for each image: of its size, and a file of the kind that the training masks
were, with the same values. Every page of a multi-page TIFF is predicted. Where the training
masks numbered objects, those found are numbered, 1, 2, ... in 16 bits.

Large images are predicted in tiles, which changes nothing but the memory it takes.
"""


def add_commands(commands: Any) -> None:
    """Make them known."""
    for add in (_add_demo, _add_train, _add_evaluate, _add_predict):
        add(commands)


def _add_demo(commands: Any) -> None:
    command = add_command(
        commands,
        "demo",
        _demo,
        "[--out DIR] [--seed N] [--threads N] [--steps N]",
        "train a small U-Net on ultrasound pictures made up for the purpose",
        DEMO,
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR",
        help="folder to make (runs/demo, or runs/demo-2 and so on if it exists)",
    )  # fmt: skip
    command.add_argument(
        "--steps", type=types.count, metavar="N", help="end after this many steps at the latest"
    )
    add_common(command, seed=True)


def _add_train(commands: Any) -> None:
    command = add_command(
        commands,
        "train",
        _train,
        "DATA [--out RUN] [options] | --resume RUN",
        "train a network on a folder of images and masks",
        TRAIN,
    )
    command.add_argument(
        "data", type=Path, nargs="?", metavar="DATA", help="folder of images and masks"
    )
    command.add_argument(
        "--out", type=Path, metavar="RUN", help="run folder to make (runs/NAME-OF-DATA)"
    )
    command.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run")
    group = add_network(command)
    group.add_argument(
        "--reduce", type=types.count, default=1, metavar="N",
        help="let the network see averages of N x N pixels (1): it then looks N times as far, for "
        "large things in fine images, and is much faster",
    )  # fmt: skip
    _add_budget(command)
    _add_learning(command)
    _add_reading(command)
    add_common(command, seed=True)
    # What is not given is left to Options; and --resume must know what is.
    options = vars(command.parse_args([])).keys() - {"data", "resume", "threads", "run"}
    command.set_defaults(options=options, **dict.fromkeys(options, NOT_GIVEN))


def _add_budget(command: Any) -> None:
    group = command.add_argument_group("training")
    group.add_argument(
        "--epochs", type=types.positive, metavar="N", help="end when every image was seen N times"
    )
    group.add_argument("--steps", type=types.count, metavar="N", help="end after N steps")
    group.add_argument("--minutes", type=types.positive, metavar="M", help="end after M minutes")
    group.add_argument(
        "--batch-size", type=types.count, default=4, metavar="N", help="crops in a step (4)"
    )
    group.add_argument(
        "--crop", type=types.whole, metavar="PIXELS",
        help="side of the squares cut out of the images at random (256, or what fits into them); "
        "0 takes whole images",
    )  # fmt: skip
    group.add_argument(
        "--augment", choices=("turns", "mirror", "none", "elastic", "upright"), default="turns",
        help="vary the crops by flips and right-angle turns (turns), by swapping left and right "
        "only, for pictures that have a top, such as ultrasound (mirror), or not at all; or by "
        "any angle, size and elastic deformation, brightness and noise (elastic), and the same "
        "for pictures that have a top (upright)",
    )  # fmt: skip
    group.add_argument(
        "--foreground-crops", type=types.share, default=0.0, metavar="SHARE",
        help="share of the crops that are moved to where foreground is (0)",
    )  # fmt: skip
    group.add_argument(
        "--empty-images", type=types.share, metavar="SHARE",
        help="largest share of images that have no foreground (as many as there are)",
    )  # fmt: skip
    group.add_argument(
        "--weight-map", action="store_true",
        help="let pixels between objects that nearly touch count more, and rare classes as much as "
        "frequent ones: U-Net's weight map",
    )  # fmt: skip


def _add_learning(command: Any) -> None:
    group = command.add_argument_group("learning")
    group.add_argument(
        "--loss", type=_loss, metavar="LOSS",
        help="ce (cross-entropy), dice, focal, tversky, generalised-dice, lovasz, boundary, or "
        "several with + between them (ce+dice)",
    )  # fmt: skip
    group.add_argument(
        "--class-weights", type=_class_weights, metavar="none|median|A,B,...",
        help="factor for each class in the loss: none, by median frequency, so that rare classes "
        "count as much as frequent ones, or these (none)",
    )  # fmt: skip
    group.add_argument(
        "--optimiser", "--optimizer", choices=("adam", "adamw", "sgd"), default="adam",
        help="rule for the steps (adam)",
    )  # fmt: skip
    group.add_argument(
        "--lr", type=types.positive, metavar="RATE",
        help="learning rate at the beginning (0.002; for sgd 0.02)",
    )  # fmt: skip
    group.add_argument(
        "--momentum", type=_below_one, metavar="SHARE", help="of sgd, for U-Net's 0.99 (0.9)"
    )
    group.add_argument(
        "--weight-decay", type=_not_negative, metavar="RATE",
        help="pull of the weights towards 0 (0; for adamw 0.01)",
    )  # fmt: skip
    group.add_argument(
        "--schedule", choices=("cosine", "poly", "step", "plateau", "constant"),
        help="how the learning rate falls: along half a cosine to a hundredth; as (1 - share "
        "done)^0.9; to a tenth at half and at three quarters; to a fifth after 5 validations "
        "without a better network; or not (cosine)",
    )  # fmt: skip
    group.add_argument(
        "--warm-up", type=types.whole, metavar="STEPS", help="steps in which the rate rises (0)"
    )
    group.add_argument(
        "--clip", type=types.positive, metavar="NORM",
        help="scale gradients down whose norm is larger than this (never)",
    )  # fmt: skip
    group.add_argument(
        "--accumulate", type=types.count, metavar="N",
        help="follow the mean gradient of N batches, for crops too large for larger batches (1)",
    )  # fmt: skip
    group.add_argument(
        "--average", type=_below_one, metavar="DECAY",
        help="validate and keep a running average of the weights, such as 0.99 or 0.999 (none)",
    )  # fmt: skip
    group.add_argument(
        "--patience", type=types.count, metavar="VALIDATIONS",
        help="end when so many in a row have found no better network (never)",
    )  # fmt: skip


def _loss(text: str) -> str:
    from minidl.training.objective import loss_terms

    try:
        return "+".join(loss_terms(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _class_weights(text: str) -> str | tuple[float, ...]:
    if text in ("none", "median"):
        return text
    weights = tuple(map(_not_negative, text.split(",")))
    if not sum(weights):
        raise argparse.ArgumentTypeError(f"{text!r}, expected weights that are not all 0")
    return weights


_not_negative = types.number(float, 0, "a number, 0 or more")


def _below_one(text: str) -> float:
    value = _not_negative(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 0 to below 1")
    return value


def _add_reading(command: Any) -> None:
    group = command.add_argument_group("data")
    group.add_argument(
        "--val-fraction", type=types.fraction, default=0.2, metavar="SHARE",
        help="share of the files for validation where no lists say which (0.2)",
    )  # fmt: skip
    group.add_argument(
        "--labels", type=types.values, metavar="V0,V1,...",
        help="mask values in class order (those that occur)",
    )  # fmt: skip
    group.add_argument(
        "--ignore", type=int, metavar="V", help="mask value of pixels that do not count"
    )
    group.add_argument(
        "--normalise", choices=("set", "image"), default="set",
        help="bring brightness to mean 0 and deviation 1 by those of all training images (set), or "
        "by each image's own (image), where scanners or exposures differ",
    )  # fmt: skip
    group.add_argument(
        "--instances", action="store_true",
        help="masks number the objects: 0 is background, and each object has a value of its own; "
        "predictions number them as well",
    )  # fmt: skip
    group.add_argument(
        "--class-names",
        type=types.names,
        metavar="A,B,...",
        help="names of the classes, for tables",
    )


def _add_evaluate(commands: Any) -> None:
    command = add_command(
        commands,
        "evaluate",
        _evaluate,
        "RUN DATA [--split PART] [options]",
        "score a network on images with masks",
        EVALUATE,
    )
    command.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, or a model file")
    command.add_argument("data", type=Path, metavar="DATA", help="folder of images and masks")
    command.add_argument(
        "--split", choices=("val", "train", "test", "all"),
        help="which part of DATA; test is what test.txt in it names",
    )  # fmt: skip
    command.add_argument(
        "--boundary", type=types.positive, metavar="TOLERANCE",
        help="also score how well boundaries are met: in pixels from 1 on, below as a share of the "
        "image's diagonal, such as 0.0075",
    )  # fmt: skip
    command.add_argument(
        "--flips", choices=("mirror", "all"),
        help="take the mean over the mirror image as well, or also over both upside down, for "
        "pictures without a top: often a little better, and two or four times slower",
    )  # fmt: skip
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all scores as JSON")
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write the scores of each class as CSV"
    )
    command.add_argument(
        "--images-csv", type=Path, metavar="FILE", help="also write those of each image as CSV"
    )
    add_common(command, seed=False)


def _add_predict(commands: Any) -> None:
    command = add_command(
        commands,
        "predict",
        _predict,
        "RUN IMAGE_OR_FOLDER... --out DIR [options]",
        "make masks for images",
        PREDICT,
    )
    command.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, or a model file")
    command.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER", help="image files, or folders"
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", required=True,
        help="folder for the masks; nothing in it is overwritten",
    )  # fmt: skip
    command.add_argument(
        "--flips", choices=("mirror", "all"),
        help="take the mean over the mirror image as well, or also over both upside down, for "
        "pictures without a top: often a little better, and two or four times slower",
    )  # fmt: skip
    command.add_argument(
        "--tile", type=types.count, metavar="PIXELS",
        help="side of the tiles that large images are predicted in (640, or more for networks that "
        "look far); smaller ones take less memory and more time",
    )  # fmt: skip
    add_common(command, seed=False)


# ---- commands -------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> int:
    print("minidl demo: a U-Net learns to find nerves in ultrasound frames", flush=True)
    from minidl import demo
    from minidl.progress import Progress, duration
    from minidl.run import free_name

    out = arguments.out or free_name(Path("runs/demo"))
    if arguments.out is None and out != Path("runs/demo"):
        print(f"runs/demo exists already and stays as it is; this run goes to {out}", flush=True)
    with Progress() as progress:
        result = demo.run_demo(out, arguments.seed, arguments.steps or demo.STEPS, progress)
    if result is None:
        return 130
    seconds = duration(progress.seconds)
    print(f"\nDone in {seconds}. Look at {out / 'predictions.png'} and {out / 'curves.png'}.")
    print("The same for images of your own: minidl train DATA --out RUN")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, name) for name in sorted(arguments.options)}
    given = {name: value for name, value in given.items() if value is not NOT_GIVEN}
    if arguments.resume is not None:
        return _resume(arguments, given)
    if arguments.data is None:
        raise _usage_error("the following arguments are required: DATA")
    out = given.pop("out", Path("runs") / arguments.data.resolve().name)
    print(f"minidl train: {arguments.data} -> {out}", flush=True)
    from minidl.progress import Progress
    from minidl.recipe import Options, train_folder

    with Progress() as progress:
        outcome = train_folder(arguments.data, out, Options(**given), progress)
    return _told(outcome)


def _resume(arguments: argparse.Namespace, given: dict[str, Any]) -> int:
    names = {"steps", "epochs", "minutes"} & given.keys()
    budget: dict[str, float] = {name: given.pop(name) for name in names}
    if given:
        name = next(iter(given)).replace("_", "-")
        raise _usage_error(
            f"--{name} cannot be given with --resume: a run keeps the options it began with, apart "
            "from --steps, --epochs and --minutes"
        )
    print(f"minidl train: going on with {arguments.resume}", flush=True)
    from minidl.progress import Progress
    from minidl.resume import resume_folder

    with Progress() as progress:
        outcome = resume_folder(arguments.resume, budget, arguments.data, progress)
    return _told(outcome)


def _usage_error(message: str) -> Exception:
    from minidl.run import RunError

    return RunError(f"{message} (see minidl train --help)")


def _told(outcome: Any) -> int:
    """Say what there is now; the exit code."""
    if outcome.evaluation is not None:
        print(f"\nThe best network on the validation images:\n{outcome.evaluation.text()}")
        print(f"\nIt is in {outcome.run}, with curves.png and predictions.png. To use it:")
        print(f"  minidl predict {outcome.run} IMAGES --out masks")
    return 130 if outcome.interrupted else 0


def _evaluate(arguments: argparse.Namespace) -> int:
    targets = arguments.json, arguments.csv, arguments.images_csv
    for path in targets:
        if path is not None and path.exists():
            raise FileExistsError(f"{path} exists already, and nothing is overwritten.")
    print(f"minidl evaluate: {arguments.run_folder} on {arguments.data}", flush=True)
    from minidl.evaluate import evaluate_folder
    from minidl.progress import Progress
    from minidl.run import write_text

    with Progress() as progress:
        result = evaluate_folder(
            arguments.run_folder, arguments.data, arguments.split, progress,
            boundary=arguments.boundary, flips=arguments.flips,
        )  # fmt: skip
    print(result.text())
    if arguments.json is not None:
        write_text(arguments.json, result.json())
    if arguments.csv is not None:
        write_text(arguments.csv, result.csv())
    if arguments.images_csv is not None:
        write_text(arguments.images_csv, result.images_csv())
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    print(f"minidl predict: {arguments.run_folder} -> {arguments.out}", flush=True)
    from minidl.predict import plan, predict_files
    from minidl.progress import Progress
    from minidl.run import model_path
    from minidl.segmenter import Segmenter

    with Progress() as progress:
        progress.begin("reading the network")
        segmenter = Segmenter.load(model_path(arguments.run_folder))
        jobs = plan(segmenter, arguments.images, arguments.out)
        progress.begin("first image; kernels are compiled once and kept for later runs")
        narrator = _Narrator(progress, len(jobs))
        written = predict_files(
            segmenter, jobs, narrator, narrator.tile, arguments.tile, arguments.flips
        )
    print(f"{len(written)} masks are in {arguments.out}")
    return 0


class _Narrator:
    """Says which image is being predicted, and how long it will take where it takes long."""

    def __init__(self, progress: Any, images: int) -> None:
        self.progress, self.images = progress, images
        self.done, self.image, self.line = 0, None, ""
        self.start = 0.0

    def __call__(self, job: Any, page: int) -> None:
        if job.image != self.image:
            self.done, self.image = self.done + 1, job.image
        pages = f", page {page + 1}/{job.pages}" if job.pages > 1 else ""
        self.line = f"image {self.done}/{self.images} {job.image.name}{pages}"
        self.progress.now(self.line)

    def tile(self, job: Any, page: int, done: int, total: int) -> None:
        """Before each tile of a page."""
        from minidl.progress import duration

        if not done:
            self.start = self.progress.seconds
        elif total > 1:
            left = (self.progress.seconds - self.start) / done * (total - done)
            self.progress.now(f"{self.line}, tile {done + 1}/{total}, {duration(left)} left")
