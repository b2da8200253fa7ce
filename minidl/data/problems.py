"""How a finding about many files is said in a few lines."""

from __future__ import annotations

from dataclasses import dataclass, field

from .masks import listing


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with every file it is wrong with.

    Attributes
    ----------
    title : str
        What is wrong.
    files : list of str
        All files concerned, each perhaps with a remark in brackets.
    advice : str
        The way out.
    """

    title: str
    files: list[str] = field(default_factory=list)
    advice: str = ""

    def __str__(self) -> str:
        """Title, the first ten files and the advice, in up to three lines."""
        counted = f" ({len(self.files)} {'file' if len(self.files) == 1 else 'files'})"
        lines = [self.title + (counted if len(self.files) > 1 else "")]
        if self.files:
            lines.append(f"  {listing(self.files)}")
        if self.advice:
            lines.append(f"  {self.advice}")
        return "\n".join(lines)
