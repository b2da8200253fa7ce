"""Words on the screen while something runs: never a flood, never a silence."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TextIO

LONGEST_SILENCE = 3.5  # seconds


class Progress:
    """Lines that stay, and one line about the present that replaces itself.

    On a terminal the present is one line, rewritten in place. Anywhere else, in a log file or a
    notebook's pipe, it is an ordinary line every few seconds. A thread of its own repeats it
    with the time passed if nothing is said for a while, so that a long step does not look like a
    crash.

    Parameters
    ----------
    stream : text stream, optional
        Standard output if not given.
    silent : bool
        Say nothing at all.

    Examples
    --------
    ::

        with Progress() as progress:
            progress.say("reading 20 files")
            for i in range(20):
                progress.now(f"file {i + 1}/20")
    """

    def __init__(self, stream: TextIO | None = None, silent: bool = False) -> None:
        self.stream = stream or sys.stdout
        self.silent = silent
        self.live = self.stream.isatty()
        self._said: list[str] = []
        self._log: Path | None = None
        self._present = ""
        self._start = self._since = self._spoken = time.monotonic()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._watch = threading.Thread(target=self._break_silence, daemon=True)

    def __enter__(self) -> Progress:
        if not self.silent:
            self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        if self._watch.is_alive():
            self._watch.join()
        with self._lock:
            self._wipe()

    @property
    def seconds(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._start

    def say(self, line: str = "") -> None:
        """Print a line, or several, that stay."""
        with self._lock:
            self._wipe()
            self._print(line + "\n")
            self._said.append(line)
            self._write_log()

    def keep(self, log: Path) -> None:
        """Write the lines that stay to a file as well, those so far and those to come.

        They go behind what is in it, also if this is silent.
        """
        with self._lock:
            self._log = log
            self._write_log()

    def _write_log(self) -> None:
        if self._log is not None and self._said:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write("\n".join(self._said) + "\n")
            self._said = []

    def now(self, line: str) -> None:
        """Replace the line about the present."""
        with self._lock:
            changed = line != self._present
            if changed:
                self._present, self._since = line, time.monotonic()
            due = 0.1 if self.live else LONGEST_SILENCE
            if changed and time.monotonic() - self._spoken >= due:
                self._show(line)

    def begin(self, line: str) -> None:
        """Start something that may take long: said at once, repeated until something else is."""
        with self._lock:
            self._wipe()
            self._present, self._since = line, time.monotonic()
            self._show(line)

    def _break_silence(self) -> None:
        while not self._end.wait(0.25):
            with self._lock:
                quiet = time.monotonic() - self._spoken
                if self._present and quiet >= (1.0 if self.live else LONGEST_SILENCE):
                    self._show(self._present + self._age())

    def _age(self) -> str:
        age = time.monotonic() - self._since
        return f" ... {age:.0f} s" if age > 1 else ""

    def _show(self, line: str) -> None:
        # On a terminal the cursor is left at the start of the line: what others print to
        # standard error then begins there, too.
        if self.live:
            room = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be replaced
            self._print(f"\r\033[K{line[:room]}\r")
        else:
            self._print(f"{line}\n")

    def _wipe(self) -> None:
        if self.live and self._present:
            self._print("\r\033[K")
        self._present = ""

    def _print(self, text: str) -> None:
        if not self.silent:
            self.stream.write(text)
            self.stream.flush()
        self._spoken = time.monotonic()


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(7.2), duration(83), duration(4000)
    ('7 s', '1:23 min', '1:06 h')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02} min"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02} h"
