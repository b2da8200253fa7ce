"""What a training started from, so that it is not continued from something else."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minidl import run as folder
from minidl.data import Pair
from minidl.segmenter import Segmenter
from minidl.training.settings import BUDGET, Settings


def checksums(pairs: Iterable[Pair], data: str | Path) -> dict[str, str]:
    """The CRC-32 of each image and mask, by its place in the data folder."""
    root = Path(data).resolve()
    files = [file for pair in pairs for file in (pair.image, pair.mask)]
    return {_place(file, root): f"{_checksum(file):08x}" for file in files}


def _place(file: Path, root: Path) -> str:
    file = file.resolve()
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def _checksum(file: Path, block: int = 2**22) -> int:
    total = 0
    with open(file, "rb") as stream:
        while part := stream.read(block):
            total = zlib.crc32(part, total)
    return total


def origin(run: Path, segmenter: Segmenter, settings: Settings) -> dict[str, Any]:
    """What may not change in the course of a run; the budget may."""
    decided = {name: value for name, value in asdict(settings).items() if name not in BUDGET}
    found = {
        "network": asdict(segmenter.architecture),
        "classes": segmenter.class_names,
        "settings": decided,
        "data": f"{zlib.crc32((run / folder.SPLIT).read_bytes()):08x}",
    }
    return json.loads(json.dumps(found))
