"""Arguments: what types they have, and those that several commands share."""

from __future__ import annotations

import argparse
import ast
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Code 2 and one line."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def number(kind: Callable[[str], Any], least: float, words: str) -> Callable[[str], Any]:
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


count = number(int, 1, "a whole number, 1 or more")
whole = number(int, 0, "a whole number, 0 or more")
positive = number(float, sys.float_info.min, "a number above 0")


def fraction(text: str) -> float:
    """Between 0 and 1."""
    value = positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number between 0 and 1")
    return value


def share(text: str) -> float:
    """From 0 to 1, both included."""
    value = number(float, 0, "a number from 0 to 1")(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 0 to 1")
    return value


def depth(text: str) -> int:
    """Of a U-Net."""
    return number(int, 2, "a whole number, 2 or more")(text)


def values(text: str) -> tuple[int, ...]:
    """Mask values."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) < 2 or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected two or more different whole numbers such as 0,255"
        )
    return values


def shape(text: str) -> tuple[int, ...]:
    """Of a batch of images."""
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 4 or min(shape) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected four whole numbers, 1 or more, such as 4,256,256,1"
        )
    return shape


def size(text: str) -> tuple[int, ...]:
    """Of an image, a sequence or a volume, with its channels."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (2, 3, 4) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected height, width and channels, such as 256,256,3 (for sequences "
            "length and channels, for volumes depth in front)"
        )
    return numbers


def position(text: str) -> tuple[int, ...]:
    """Of a unit."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (-1,)
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}, expected whole numbers such as 3,5")
    return numbers


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE: the value is Python's where it is a number, a tuple, True or None, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}, expected NAME=VALUE such as width=16")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def names(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(part.strip() for part in text.split(","))


def add_command(commands: Any, name: str, run: Callable, usage: str, line: str, text: str) -> Any:
    """A command with its help; arguments are to be added to what it returns."""
    command = commands.add_parser(
        name,
        usage=f"minidl {name} {usage}",
        help=line,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def add_common(command: Any, seed: bool) -> None:
    """What nearly all commands take."""
    if seed:
        command.add_argument(
            "--seed", type=whole, default=0, metavar="N", help="start of all random numbers (0)"
        )
    command.add_argument(
        "--threads", type=count, metavar="N", help="threads to compute with (all cores)"
    )


def network(text: str) -> str:
    """Name of a network."""
    from minidl.architecture import SEGMENTATION, find_network

    if text != "unet" and find_network(text) is None:  # the usual one needs no looking up
        raise argparse.ArgumentTypeError(f"no network {text!r}, expected {', '.join(SEGMENTATION)}")
    return text


class Settings(argparse.Action):
    """Collects NAME=VALUE in a dict, however often the option is given."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Add them."""
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **dict(values)})


def add_network(command: Any) -> Any:
    """Which network: the group of its arguments."""
    group = command.add_argument_group("network")
    group.add_argument(
        "--model", type=network, default="unet", metavar="NAME",
        help="which network: unet, fcn8s, segnet, deeplab, fc-densenet56, refinenet, ... (unet); a "
        "wrong name lists all",
    )  # fmt: skip
    group.add_argument(
        "--set", dest="settings", nargs="+", type=setting, action=Settings, default={},
        metavar="NAME=VALUE",
        help="further arguments of the network, such as width=16; a wrong one lists all",
    )  # fmt: skip
    group.add_argument(
        "--root", type=count, metavar="N",
        help="U-Net: channels at full resolution (16); twice as many take up to four times as long",
    )  # fmt: skip
    group.add_argument(
        "--depth", type=depth, metavar="N",
        help="U-Net: number of resolutions, each half the one before (4)",
    )  # fmt: skip
    return group
