"""The one exception of this room."""

from __future__ import annotations


class DataError(ValueError):
    """Something is wrong with a person's files; the message names the file and the way out."""
