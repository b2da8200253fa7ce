"""How the learning rate changes in the course of a training, as a factor of that at its beginning.

``cosine``    falls along half a cosine to a hundredth at the end.
``poly``      falls as ``(1 - done)**0.9`` (Chen et al., DeepLab, 2017, section 4.1).
``step``      is a tenth from half of the budget on, and a hundredth from three quarters on (He et
              al., Deep Residual Learning, 2016, section 4.2).
``plateau``   is a fifth of what it was whenever 5 validations in a row found no better network.
``constant``  stays.

All but the last two follow the share of the budget that is used up, also if that is a time.
"""

from __future__ import annotations

import math

SCHEDULES = ("cosine", "poly", "step", "plateau", "constant")
PLATEAU = 5  # validations
_PLATEAU_FACTOR = 0.2
_LAST = 0.01  # of the first learning rate, for a cosine


def factor(schedule: str, done: float, reductions: int = 0) -> float:
    """What the first learning rate is multiplied with.

    Parameters
    ----------
    schedule : str
        One of `SCHEDULES`.
    done : float
        Share of the budget that is used up, 0..1.
    reductions : int
        How many plateaus there were.
    """
    if schedule == "cosine":
        return _LAST + (1 - _LAST) * (0.5 * (1 + math.cos(math.pi * done)))
    if schedule == "poly":
        return (1 - done) ** 0.9
    if schedule == "step":
        return 0.1 ** ((done >= 0.5) + (done >= 0.75))
    return _PLATEAU_FACTOR**reductions if schedule == "plateau" else 1.0


def warm_up(step: int, steps: int) -> float:
    """Factor at the beginning: rises in equal parts, and is 1 from the last of `steps` on.

    References
    ----------
    Goyal et al., Accurate, Large Minibatch SGD, 2017, section 2.2.
    """
    return min((step + 1) / steps, 1.0) if steps else 1.0
