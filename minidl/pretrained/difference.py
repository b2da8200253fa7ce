"""What a file has and a model lacks, and the other way round, as text that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

LINES = 20  # of each group


@dataclass
class Difference:
    """Names of the model that are missing in a file, names in the file that are unexpected, and
    arrays of another shape, each described in a line.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    other_shapes: list[str] = field(default_factory=list)

    def text(self, there: dict[str, str]) -> str:
        """The groups that are not empty, with what names could stand for.

        Parameters
        ----------
        there : dict from str to str
            From names of the model to the names that were looked for in the file.
        """
        groups = []
        if self.missing:
            lines = [
                name if there[name] == name else f"{name} ({there[name]} in the file)"
                for name in self.missing
            ]
            looked_for = [there[name] for name in self.missing]
            groups.append(_group("missing in the file", lines, looked_for, self.unexpected))
        if self.unexpected:
            looked_for = [there[name] for name in self.missing]
            groups.append(
                _group("unexpected in the file", self.unexpected, self.unexpected, looked_for)
            )
        if self.other_shapes:
            groups.append(_group("other shape", self.other_shapes, (), ()))
        return "\n".join(groups)


def _group(title: str, lines: Sequence[str], names: Sequence[str], others: Iterable[str]) -> str:
    """At most LINES of `lines`, each with the most similar one of `others` to its name."""
    shown = []
    candidates = list(others)
    for i, line in enumerate(lines[:LINES]):
        near = nearest(names[i], candidates) if candidates else None
        shown.append(f"  {line}" + (f"  ~ {near}" if near else ""))
    if len(lines) > LINES:
        shown.append(f"  ... and {len(lines) - LINES} more")
    return "\n".join([f"{title} ({len(lines)}):", *shown])


def nearest(name: str, candidates: Sequence[str]) -> str | None:
    """The most similar name for the same part of a layer, if any is similar."""
    import difflib

    part = name.rpartition(".")[2]
    same = [candidate for candidate in candidates if candidate.rpartition(".")[2] == part]
    found = difflib.get_close_matches(name, same[:2000], 1, 0.6)
    return found[0] if found else None
