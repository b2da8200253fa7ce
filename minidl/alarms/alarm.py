"""What an alarm says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """One thing that goes wrong in a training.

    Attributes
    ----------
    kind : str
        A short name, such as ``"dead-relus"``; each is said once in a training.
    words : str
        What was seen, with its numbers.
    remedy : str
        The likely cause, and the switch that mends it.
    step : int
        After which it was seen.
    """

    kind: str
    words: str
    remedy: str
    step: int = 0

    def __str__(self) -> str:
        return f"{self.words} {self.remedy}"
