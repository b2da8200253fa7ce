"""The command ``minidl``: thin faces over functions that one can import.

Nothing heavy is imported before the arguments are understood and the first line is on the screen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minidl.cli import checking, looking, training
from minidl.cli.arguments import Parser

OVERVIEW = """\
minidl: deep learning for image segmentation on an ordinary computer

  minidl demo                          watch a U-Net learn to find nerves, in two minutes
  minidl train DATA --out RUN          train one on a folder of images and masks of your own
  minidl evaluate RUN DATA             score it
  minidl predict RUN IMAGES --out DIR  make masks for new images
  minidl doctor DATA                   say what is wrong with a data set
  minidl report RUN                    write a page about a run
  minidl summary MODEL                 describe a network layer by layer, and draw it
  minidl receptive-field MODEL         see which pixels its layers see
  minidl profile                       see where the time of a training step goes

DATA has NAME.tif beside NAME_mask.tif, or images/ beside masks/ with the same names.
Each command explains itself: minidl train --help
"""


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = Parser(
        prog="minidl",
        description=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="minidl [-h] [--version] COMMAND ...",
    )
    top.add_argument("--version", action="store_true", help="say which version this is")
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=Parser, prog="minidl"
    )
    training.add_commands(commands)
    checking.add_commands(commands)
    looking.add_commands(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        0 if all went well; 1 if training failed, or the doctor found what prevents it; 2 for
        arguments or files that cannot be used; 130 after Ctrl-C.
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
