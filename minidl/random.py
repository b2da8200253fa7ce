"""The random numbers that are drawn where no generator is given."""

from __future__ import annotations

import numpy as np

# NumPy's generators lock themselves: any thread may draw. In which order threads get their numbers
# is up to them, so a run with several threads that draw should give each a generator of its own.
_generator = np.random.Generator(np.random.PCG64())


def manual_seed(seed: int) -> None:
    """Start the global generator anew: the same seed gives the same numbers.

    Parameters
    ----------
    seed : int
        At least 0.

    Raises
    ------
    ValueError
        If `seed` is negative or not an integer.
    """
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"manual_seed: seed must be an integer >= 0, but is {seed!r}.")
    _generator.bit_generator.state = np.random.PCG64(int(seed)).state


def generator() -> np.random.Generator:
    """The global generator, used by every function and layer that is given none.

    It is one and the same object all the time. ``generator().bit_generator.state`` can be read and
    set, to continue a run exactly where it was.
    """
    return _generator
