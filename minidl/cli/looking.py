"""The commands that look at a network: summary, receptive-field, profile."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minidl.cli import arguments as types
from minidl.cli.arguments import add_command, add_common, add_network

SUMMARY = """\
Describe a network: layers in layers with their results, parameters, multiply-adds, the pixels
that a unit sees and those from one to the next, and the memory that training keeps.

MODEL is a network of minidl.models in any case (unet, vgg16, fcn8s, segnet, ...), a run folder
or a model file. NAME=VALUE are further arguments of the network, such as width=16. Nothing is
computed: large networks take no longer than small ones, but for their first weights.
"""

FIELD = """\
Draw what units of a network see of an image: in theory, as exact borders, and measured, as the
gradient of the unit with respect to each pixel. Prints the same as a table: "sees" is the side of
the field in an image without ends, "here" that in this image, "measured" that of all pixels with
a gradient, and "half within" the square that holds half of it.

MODEL is a network of minidl.models in any case, a run folder or a model file. The weights of a
new network are random; behind those that begin at zero, as some make it with their last layer,
there is no gradient.
"""

PROFILE = """\
Measure where the time of a training step goes, or of an inference: by layer and by kernel, as
means over the steps. The rows of each table add up to the whole step.

The network is that of a run folder or model file, one of minidl.models by its name, or else a
new U-Net built from the arguments. It works on random numbers;
a training step is a forward pass, cross-entropy, a backward pass and Adam. MB are the sizes of
the arrays that a kernel is given, and GB/s what it moves if it touches each of them once.
"""


def add_commands(commands: Any) -> None:
    """Make them known."""
    for add in (_add_summary, _add_field, _add_profile):
        add(commands)


def _add_model(command: Any) -> None:
    command.add_argument("model", metavar="MODEL", help="a network's name, or a run folder")
    command.add_argument(
        "settings", nargs="*", type=types.setting, metavar="NAME=VALUE",
        help="further arguments of the network",
    )  # fmt: skip
    command.add_argument(
        "--input", type=types.size, metavar="H,W,C",
        help="height, width and channels (224,224 or what fits, and the network's channels)",
    )  # fmt: skip
    command.add_argument(
        "--classes", type=types.count, metavar="N", help="classes to tell apart (the network's own)"
    )


def _add_summary(commands: Any) -> None:
    command = add_command(
        commands,
        "summary",
        _summary,
        "MODEL [NAME=VALUE ...] [--input H,W,C] [options]",
        "describe a network layer by layer, and draw it",
        SUMMARY,
    )
    _add_model(command)
    command.add_argument(
        "--batch", type=types.count, default=1, metavar="N", help="images at once (1)"
    )
    command.add_argument(
        "--depth", type=types.count, metavar="N", help="levels of layers in layers to show (all)"
    )
    command.add_argument(
        "--draw", type=Path, metavar="FILE", help="also draw it: .svg, .png or .pdf"
    )
    command.add_argument(
        "--blocks", type=types.count, default=36, metavar="N",
        help="the most blocks of the drawing (36)",
    )  # fmt: skip
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all as JSON")


def _add_field(commands: Any) -> None:
    command = add_command(
        commands,
        "receptive-field",
        _field,
        "MODEL [NAME=VALUE ...] [--layer PATH ...] [options]",
        "see which pixels the layers of a network see",
        FIELD,
    )
    _add_model(command)
    command.add_argument(
        "--layer", action="append", default=[], metavar="PATH",
        help="a layer as the summary names it with those it lies in; may be given several times "
        "(the last of each resolution, at most six)",
    )  # fmt: skip
    command.add_argument(
        "--at", type=types.position, metavar="Y,X", help="which unit of the layers (the middle)"
    )
    command.add_argument("--image", type=Path, metavar="FILE", help="what is looked at (a card)")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="picture to make (receptive-field.png)"
    )
    add_common(command, seed=True)


def _add_profile(commands: Any) -> None:
    command = add_command(
        commands,
        "profile",
        _profile,
        "[MODEL] [--input N,H,W,C] [options]",
        "see where the time of a training step goes",
        PROFILE,
    )
    command.add_argument(
        "run_folder", nargs="?", metavar="MODEL", help="run folder, model file, or a network's name"
    )
    command.add_argument(
        "--input", type=types.shape, metavar="N,H,W,C",
        help="images, height, width, channels (4,256,256 and the channels of MODEL, or 1)",
    )  # fmt: skip
    command.add_argument(
        "--inference", action="store_true", help="measure predictions in place of training"
    )
    command.add_argument(
        "--steps",
        type=types.count,
        default=5,
        metavar="N",
        help="measured, after two that are not (5)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all as JSON")
    group = add_network(command)
    group.add_argument("--classes", type=types.count, metavar="N", help="classes to tell apart (2)")
    group.add_argument("--no-batch-norm", action="store_true", help="no batch normalisation")
    # None, so that one can see which were given: those of a run are not to be changed.
    command.set_defaults(model=None, root=None, depth=None)
    add_common(command, seed=False)


def _refuse_existing(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and path.exists():
            raise FileExistsError(f"{path} exists already, and nothing is overwritten.")


def _network(arguments: argparse.Namespace) -> tuple[Any, tuple[int, ...]]:
    """The network, and the shape of an input for it, without the batch."""
    from minidl.cli.networks import load_network, usual_size

    channels = arguments.input[-1] if arguments.input else None
    model, channels = load_network(
        arguments.model, channels, arguments.classes, dict(arguments.settings)
    )
    return model, arguments.input or usual_size(model, channels)


def _summary(arguments: argparse.Namespace) -> int:
    _refuse_existing(arguments.draw, arguments.json)
    from minidl.run import RunError, write_json
    from minidl.summary import summary

    model, size = _network(arguments)
    try:
        result = summary(model, (arguments.batch, *size), arguments.depth)
    except ValueError as error:  # an input that does not fit the network
        raise RunError(f"input {','.join(map(str, size))}: {error}") from error
    print(result)
    if arguments.json is not None:
        write_json(arguments.json, result.to_dict())
    if arguments.draw is not None:
        _check_picture(arguments.draw)
        print(f"drawn in {result.draw(arguments.draw, arguments.blocks)}")
    return 0


def _check_picture(path: Path) -> None:
    """Refuse what no picture can be called."""
    from minidl.plot import FORMATS
    from minidl.run import RunError

    if path.suffix.lower().removeprefix(".") not in FORMATS:
        raise RunError(f"{path}: a picture must end in {', '.join(f'.{kind}' for kind in FORMATS)}")


def _field(arguments: argparse.Namespace) -> int:
    out = arguments.out or Path("receptive-field.png")
    _refuse_existing(out)
    _check_picture(out)
    print(f"minidl receptive-field: {arguments.model} -> {out}", flush=True)
    from minidl import manual_seed
    from minidl.field_picture import picture, see, table
    from minidl.plot import write_figure
    from minidl.progress import Progress
    from minidl.run import RunError

    manual_seed(arguments.seed)
    with Progress() as progress:
        progress.begin("making the network")
        model, size = _network(arguments)
        image = _image(arguments.image, model, size, fixed=arguments.input is not None)
        progress.begin("looking; kernels are compiled once and kept for later runs")
        try:
            seen = see(model, image, arguments.layer, arguments.at)
        except ValueError as error:
            raise RunError(str(error)) from error
    name = " × ".join(map(str, image.shape))
    print(f"\n{table(seen)}")
    write_figure(picture(image, seen, f"{type(model).__name__}, input {name}"), out)
    print(f"\ndrawn in {out}")
    return 0


def _image(path: Path | None, model: Any, size: tuple[int, ...], fixed: bool) -> Any:
    """The image that is looked at, in [0, 1]: a file, or a card of its own."""
    import numpy as np

    from minidl.field_picture import card
    from minidl.plot import displayable
    from minidl.run import RunError

    if len(size) != 3:
        raise RunError(f"--input {','.join(map(str, size))}: fields are drawn over images only.")
    height, width, channels = size
    if path is None:
        return card(height, width, channels)
    from minidl.data import read_image

    pixels = np.asarray(displayable(read_image(path)), np.float32)
    grey = pixels if pixels.ndim == 2 else pixels.mean(axis=-1)
    colours = pixels if pixels.ndim == 3 and channels == 3 else np.stack([grey] * channels, axis=-1)
    if fixed:
        wanted = height, width
    else:
        fitting = getattr(model, "fitting_size", int)
        wanted = fitting(colours.shape[0]), fitting(colours.shape[1])
    more = [(0, max(n - have, 0)) for n, have in zip(wanted, colours.shape, strict=False)]
    return np.pad(colours, (*more, (0, 0)), "edge")[: wanted[0], : wanted[1]]


def _profile(arguments: argparse.Namespace) -> int:
    _refuse_existing(arguments.json)
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
    """The network by its name or of the run, or a new U-Net, and the channels of its images."""
    from minidl.architecture import Architecture
    from minidl.cli.networks import load_network
    from minidl.run import RunError, model_path

    name, channels = arguments.run_folder, arguments.input[-1] if arguments.input else None
    options = "model", "root", "depth", "no_batch_norm", "classes"
    if name is None:
        settings = arguments.settings | ({"batch_norm": False} if arguments.no_batch_norm else {})
        architecture = Architecture.chosen(
            arguments.model or "unet", channels or 1, arguments.classes or 2, settings,
            arguments.root, arguments.depth,
        )  # fmt: skip
        return architecture.build(), architecture.in_channels
    is_run = Path(name).exists()
    if given := [
        key for key in options if getattr(arguments, key) and (is_run or key != "classes")
    ]:
        listed = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise RunError(f"{listed}: the network of {name} is what it is. Leave off.")
    if not is_run and len(Path(name).parts) > 1:
        model_path(name)  # says that there is nothing
    return load_network(name, channels, arguments.classes, arguments.settings)
