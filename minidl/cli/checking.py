"""The commands that say what is wrong and how it went: doctor and report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minidl.cli import arguments as types
from minidl.cli.arguments import add_command

DOCTOR = """\
Look a data set over before anything is trained on it: files that do not pair up, sizes, value
ranges, masks with values that are no classes, empty masks, images that occur twice or look
alike, also across training and validation. Proposes class weights, loss and crop. Says it all
in words, and writes one HTML page with pictures. Nothing in DATA is changed.
"""

REPORT = """\
Write one HTML page about a run: scores, curves, the best and the worst validation images with
what was expected and predicted, and every setting.
"""


def add_commands(commands: Any) -> None:
    """Make them known."""
    _add_doctor(commands)
    _add_report(commands)


def _add_doctor(commands: Any) -> None:
    command = add_command(
        commands, "doctor", _doctor, "DATA [--out PAGE.html] [options]",
        "say what is wrong with a data set, and how to train on it", DOCTOR,
    )  # fmt: skip
    command.add_argument("data", type=Path, metavar="DATA", help="folder of images and masks")
    command.add_argument(
        "--out", type=Path, metavar="PAGE.html", help="page to write (doctor-NAME-OF-DATA.html)"
    )
    command.add_argument(
        "--labels", type=types.values, metavar="V0,V1,...",
        help="mask values in class order (those that occur)",
    )  # fmt: skip
    command.add_argument(
        "--ignore", type=int, metavar="V", help="mask value of pixels that do not count"
    )
    command.add_argument("--instances", action="store_true", help="masks number the objects")
    _add_overwrite(command)


def _add_report(commands: Any) -> None:
    command = add_command(
        commands, "report", _report, "RUN [--out PAGE.html] [options]",
        "write a page about a run", REPORT,
    )  # fmt: skip
    command.add_argument("run_folder", type=Path, metavar="RUN", help="run folder")
    command.add_argument(
        "--out", type=Path, metavar="PAGE.html", help="page to write (report.html in RUN)"
    )
    _add_overwrite(command)


def _add_overwrite(command: Any) -> None:
    command.add_argument("--overwrite", action="store_true", help="replace a page that exists")


def _doctor(arguments: argparse.Namespace) -> int:
    page = arguments.out or Path(f"doctor-{arguments.data.resolve().name}.html")
    print(f"minidl doctor: {arguments.data} -> {page}", flush=True)
    from minidl.doctor import doctor
    from minidl.progress import Progress

    with Progress() as progress:
        diagnosis = doctor(
            arguments.data, page, overwrite=arguments.overwrite, labels=arguments.labels,
            ignore=arguments.ignore, instances=arguments.instances, progress=progress,
        )  # fmt: skip
    return 1 if diagnosis.errors else 0


def _report(arguments: argparse.Namespace) -> int:
    from minidl.progress import Progress
    from minidl.report import write_report

    with Progress() as progress:
        page = write_report(
            arguments.run_folder, arguments.out, overwrite=arguments.overwrite, progress=progress
        )
    print(f"{page} is written")
    return 0
