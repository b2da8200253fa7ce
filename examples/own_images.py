"""From a folder of one's own to masks for new images, by functions instead of commands.

::

    python examples/own_images.py DATA NEW_IMAGES OUT
"""

import sys
from pathlib import Path

from minidl.predict import plan, predict_files
from minidl.progress import Progress
from minidl.recipe import Options, train_folder


def main(data: Path, images: Path, out: Path, options: Options | None = None) -> list[Path]:
    """Train on `data` into ``out/run``, and write masks of `images` to ``out/masks``."""
    with Progress() as progress:
        outcome = train_folder(data, out / "run", options or Options(minutes=5), progress)
    print(outcome.evaluation.text())
    jobs = plan(outcome.segmenter, [images], out / "masks")
    written = predict_files(outcome.segmenter, jobs)
    print(f"{len(written)} masks are in {out / 'masks'}")
    return written


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
