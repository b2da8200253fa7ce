"""The command ``minidl``: thin faces over functions that one can import.

Nothing heavy is imported before the arguments are understood and the first line is on the screen.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

MODELS = ("unet",)

OVERVIEW = """\
minidl: deep learning for image segmentation on an ordinary computer

  minidl demo                          watch a U-Net learn to find nerves, in two minutes
  minidl train DATA --out RUN          train one on a folder of images and masks of your own
  minidl evaluate RUN DATA             score it
  minidl predict RUN IMAGES --out DIR  make masks for new images
  minidl profile                       see where the time of a training step goes

DATA has NAME.tif beside NAME_mask.tif, or images/ beside masks/ with the same names.
Each command explains itself: minidl train --help
"""

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
"""

EVALUATE = """\
Score the network of RUN on DATA: accuracy, Dice and IoU of each class, over all pixels.

If DATA is what the network was trained on, its validation part is scored; otherwise all of
it. A "-" means that a class does not occur.
"""

PREDICT = """\
Write a mask for each image: of its size, and a file of the kind that the training masks
were, with the same values. Every page of a multi-page TIFF is predicted.
"""

PROFILE = """\
Measure where the time of a training step goes, or of an inference: by layer and by kernel, as
means over the steps. The rows of each table add up to the whole step.

The network is that of RUN, or a new one built from the arguments. It works on random numbers;
a training step is a forward pass, cross-entropy, a backward pass and Adam. MB are the sizes of
the arrays that a kernel is given, and GB/s what it moves if it touches each of them once.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


# ---- arguments ------------------------------------------------------------------------------


def _number(kind: Callable[[str], Any], least: float, words: str) -> Callable[[str], Any]:
    """A type for argparse: a finite number, at least `least`, called `words` in errors."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (value >= least and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"{text!r}, expected {words}")
        return value

    return parse


_count = _number(int, 1, "a whole number, 1 or more")
_whole = _number(int, 0, "a whole number, 0 or more")
_positive = _number(float, sys.float_info.min, "a number above 0")


def _fraction(text: str) -> float:
    value = _positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number between 0 and 1")
    return value


def _depth(text: str) -> int:
    return _number(int, 2, "a whole number, 2 or more")(text)


def _values(text: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) < 2 or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected two or more different whole numbers such as 0,255"
        )
    return values


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 4 or min(shape) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected four whole numbers, 1 or more, such as 4,256,256,1"
        )
    return shape


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = _Parser(
        prog="minidl",
        description=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="minidl [-h] [--version] COMMAND ...",
    )
    top.add_argument("--version", action="store_true", help="say which version this is")
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=_Parser, prog="minidl"
    )
    for add in (_add_demo, _add_train, _add_evaluate, _add_predict, _add_profile):
        add(commands)
    return top


def _command(commands: Any, name: str, run: Callable, usage: str, line: str, text: str) -> Any:
    command = commands.add_parser(
        name,
        usage=f"minidl {name} {usage}",
        help=line,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_common(command: Any, seed: bool) -> None:
    if seed:
        command.add_argument(
            "--seed", type=_whole, default=0, metavar="N", help="start of all random numbers (0)"
        )
    command.add_argument(
        "--threads", type=_count, metavar="N", help="threads to compute with (all cores)"
    )


def _add_demo(commands: Any) -> None:
    command = _command(
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
        "--steps", type=_count, metavar="N", help="end after this many steps at the latest"
    )
    _add_common(command, seed=True)


def _add_train(commands: Any) -> None:
    command = _command(
        commands,
        "train",
        _train,
        "DATA [--out RUN] [options]",
        "train a network on a folder of images and masks",
        TRAIN,
    )
    command.add_argument("data", type=Path, metavar="DATA", help="folder of images and masks")
    command.add_argument(
        "--out", type=Path, metavar="RUN", help="run folder to make (runs/NAME-OF-DATA)"
    )
    _add_network(command)
    _add_budget(command)
    _add_reading(command)
    _add_common(command, seed=True)


def _add_network(command: Any) -> Any:
    group = command.add_argument_group("network")
    group.add_argument("--model", choices=MODELS, default="unet", help="which network (unet)")
    group.add_argument(
        "--root", type=_count, default=16, metavar="N",
        help="channels at full resolution (16); twice as many take up to four times as long",
    )  # fmt: skip
    group.add_argument(
        "--depth", type=_depth, default=4, metavar="N",
        help="number of resolutions, each half the one before (4)",
    )  # fmt: skip
    return group


def _add_budget(command: Any) -> None:
    group = command.add_argument_group("training")
    group.add_argument(
        "--epochs", type=_positive, metavar="N", help="end when every image was seen N times"
    )
    group.add_argument("--steps", type=_count, metavar="N", help="end after N steps")
    group.add_argument("--minutes", type=_positive, metavar="M", help="end after M minutes")
    group.add_argument(
        "--batch-size", type=_count, default=4, metavar="N", help="crops in a step (4)"
    )
    group.add_argument(
        "--crop", type=_whole, metavar="PIXELS",
        help="side of the squares cut out of the images at random (256, or what fits into them); "
        "0 takes whole images",
    )  # fmt: skip
    group.add_argument(
        "--augment", choices=("turns", "mirror", "none"), default="turns",
        help="vary the crops by flips and right-angle turns (turns), by swapping left and right "
        "only, for pictures that have a top, such as ultrasound (mirror), or not at all",
    )  # fmt: skip
    group.add_argument(
        "--lr", type=_positive, default=2e-3, metavar="RATE",
        help="Adam's learning rate at the beginning, falling to a hundredth at the end (0.002)",
    )  # fmt: skip


def _add_reading(command: Any) -> None:
    group = command.add_argument_group("data")
    group.add_argument(
        "--val-fraction", type=_fraction, default=0.2, metavar="SHARE",
        help="share of the files for validation where no lists say which (0.2)",
    )  # fmt: skip
    group.add_argument(
        "--labels", type=_values, metavar="V0,V1,...",
        help="mask values in class order (those that occur)",
    )  # fmt: skip
    group.add_argument(
        "--ignore", type=int, metavar="V", help="mask value of pixels that do not count"
    )
    group.add_argument(
        "--class-names", type=_names, metavar="A,B,...", help="names of the classes, for tables"
    )


def _add_evaluate(commands: Any) -> None:
    command = _command(
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
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all scores as JSON")
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write the scores of each class as CSV"
    )
    _add_common(command, seed=False)


def _add_predict(commands: Any) -> None:
    command = _command(
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
    _add_common(command, seed=False)


def _add_profile(commands: Any) -> None:
    command = _command(
        commands,
        "profile",
        _profile,
        "[RUN] [--input N,H,W,C] [options]",
        "see where the time of a training step goes",
        PROFILE,
    )
    command.add_argument(
        "run_folder", type=Path, nargs="?", metavar="RUN", help="run folder, or a model file"
    )
    command.add_argument(
        "--input", type=_shape, metavar="N,H,W,C",
        help="images, height, width, channels (4,256,256 and the channels of RUN, or 1)",
    )  # fmt: skip
    command.add_argument(
        "--inference", action="store_true", help="measure predictions in place of training"
    )
    command.add_argument(
        "--steps", type=_count, default=5, metavar="N", help="measured, after two that are not (5)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all as JSON")
    group = _add_network(command)
    group.add_argument("--classes", type=_count, metavar="N", help="classes to tell apart (2)")
    group.add_argument("--no-batch-norm", action="store_true", help="no batch normalisation")
    # None, so that one can see which were given: those of a run are not to be changed.
    command.set_defaults(model=None, root=None, depth=None)
    _add_common(command, seed=False)


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
    out = arguments.out or Path("runs") / arguments.data.resolve().name
    print(f"minidl train: {arguments.data} -> {out}", flush=True)
    from minidl.progress import Progress
    from minidl.recipe import Options, train_folder

    names = Options.__dataclass_fields__
    options = Options(**{name: getattr(arguments, name) for name in names})
    with Progress() as progress:
        outcome = train_folder(arguments.data, out, options, progress)
    if outcome.evaluation is not None:
        print(f"\nThe best network on the validation images:\n{outcome.evaluation.text()}")
        print(f"\nIt is in {out}, with curves.png and predictions.png. To use it:")
        print(f"  minidl predict {out} IMAGES --out masks")
    return 130 if outcome.interrupted else 0


def _evaluate(arguments: argparse.Namespace) -> int:
    targets = [path for path in (arguments.json, arguments.csv) if path is not None]
    for path in targets:
        if path.exists():
            raise FileExistsError(f"{path} exists already, and nothing is overwritten.")
    print(f"minidl evaluate: {arguments.run_folder} on {arguments.data}", flush=True)
    from minidl.evaluate import evaluate_folder
    from minidl.progress import Progress
    from minidl.run import write_text

    with Progress() as progress:
        result = evaluate_folder(arguments.run_folder, arguments.data, arguments.split, progress)
    print(result.text())
    if arguments.json is not None:
        write_text(arguments.json, result.json())
    if arguments.csv is not None:
        write_text(arguments.csv, result.csv())
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
        written = predict_files(segmenter, jobs, _Narrator(progress, len(jobs)))
    print(f"{len(written)} masks are in {arguments.out}")
    return 0


def _profile(arguments: argparse.Namespace) -> int:
    if arguments.json is not None and arguments.json.exists():
        raise FileExistsError(f"{arguments.json} exists already, and nothing is overwritten.")
    what = "inference" if arguments.inference else "a training step"
    print(f"minidl profile: {what} of {arguments.run_folder or 'a new network'}", flush=True)
    from minidl.profile import inference_step, profile, training_step
    from minidl.progress import Progress
    from minidl.run import RunError, write_text

    make = inference_step if arguments.inference else training_step
    with Progress() as progress:
        progress.begin("first step; kernels are compiled once and kept for later runs")
        model, channels = _profiled_network(arguments)
        shape = arguments.input or (4, 256, 256, channels)
        try:
            step = make(model, shape)
            step()
        except ValueError as error:  # an input that does not fit the network
            raise RunError(f"--input {','.join(map(str, shape))}: {error}") from error
        progress.begin("measuring")
        result = profile(step, model, arguments.steps, warm_up=1)
    print(f"\n{type(model).__name__}, input {' x '.join(map(str, shape))}, {result.text()}")
    if arguments.json is not None:
        write_text(arguments.json, result.json())
    return 0


def _profiled_network(arguments: argparse.Namespace) -> tuple[Any, int]:
    """The network of the run, or a new one, and the channels of its images."""
    from minidl.models import UNet
    from minidl.run import RunError, model_path
    from minidl.segmenter import Segmenter

    names = {"model": "unet", "root": 16, "depth": 4, "classes": 2, "no_batch_norm": False}
    if arguments.run_folder is None:
        chosen = {name: getattr(arguments, name) or value for name, value in names.items()}
        channels = arguments.input[-1] if arguments.input else 1
        model = UNet(
            channels, chosen["classes"], chosen["depth"], chosen["root"],
            batch_norm=not chosen["no_batch_norm"],
        )  # fmt: skip
        return model, channels
    if given := [name for name in names if getattr(arguments, name)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise RunError(
            f"{options}: the network of {arguments.run_folder} is what it is. Leave off."
        )
    segmenter = Segmenter.load(model_path(arguments.run_folder))
    return segmenter.model, segmenter.architecture.in_channels


class _Narrator:
    """Says which image is being predicted."""

    def __init__(self, progress: Any, images: int) -> None:
        self.progress, self.images = progress, images
        self.done, self.image = 0, None

    def __call__(self, job: Any, page: int) -> None:
        if job.image != self.image:
            self.done, self.image = self.done + 1, job.image
        pages = f", page {page + 1}/{job.pages}" if job.pages > 1 else ""
        self.progress.now(f"image {self.done}/{self.images} {job.image.name}{pages}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        0 if all went well; 1 if training failed; 2 for arguments or files that cannot be used;
        130 after Ctrl-C.
    """
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as exit:  # argparse has said why
        return int(exit.code or 0)
    if arguments.version:
        from minidl import __version__

        print(f"minidl {__version__}")
        return 0
    if arguments.command is None:
        print(OVERVIEW, end="")
        return 0
    return _guarded(arguments)


def _guarded(arguments: argparse.Namespace) -> int:
    """Run a command; what the user can mend is said in words, the rest is a bug and raised."""
    try:
        if getattr(arguments, "threads", None):
            from minidl.kernels.parallel import set_num_threads

            set_num_threads(arguments.threads)
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"\nminidl {arguments.command}: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"minidl {arguments.command}: error: {error}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> int | None:
    """1 for a training that failed, 2 for what the user can mend, None for a bug."""
    from minidl.data import DataError
    from minidl.run import RunError
    from minidl.train import TrainingError

    if isinstance(error, TrainingError):
        return 1
    return 2 if isinstance(error, DataError | RunError | OSError) else None
