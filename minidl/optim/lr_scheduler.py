"""Schedules: how the learning rate of an optimiser changes from epoch to epoch.

Call `step` once after each epoch (or after each batch; a schedule counts its calls). At the n-th
call the rate of each group becomes a function of n and of its first rate. A schedule owns the
rates of its optimiser; several of them one after the other are a `SequentialLR`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minidl.optim.optimizer import Optimizer


class LRScheduler:
    """A schedule of learning rates.

    Subclasses write `rate`.

    Parameters
    ----------
    optimizer : Optimizer

    Attributes
    ----------
    last_epoch : int
        How often `step` was called.
    base_lrs : list of float
        The first rate of each group.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: expected an optimiser, got {type(optimizer).__name__}."
            )
        self.optimizer = optimizer
        self.last_epoch = 0
        self.base_lrs = [
            group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups
        ]
        self._set()

    def rate(self, epoch: int, base: float, group: int) -> float:
        """The rate after `epoch` steps of the group of this number, whose first was `base`."""
        raise NotImplementedError(f"{type(self).__name__} has no rate")

    def _set(self) -> None:
        for i, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.rate(self.last_epoch, self.base_lrs[i], i)

    def step(self) -> None:
        """Go on to the rates of the next epoch."""
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The present rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on; the settings are not in it."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where the `state` of a schedule with the same settings was taken."""
        self.last_epoch, self.base_lrs = state["last_epoch"], list(state["base_lrs"])
        self._set()


class LambdaLR(LRScheduler):
    """The first rate times a function of the epoch.

    Parameters
    ----------
    optimizer : Optimizer
    lr_lambda : callable, or list of one for each group
        Factor after so many epochs.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
    ) -> None:
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise ValueError(
                f"LambdaLR: got {len(self.lr_lambdas)} functions for {groups} parameter groups."
            )
        super().__init__(optimizer)

    def rate(self, epoch, base, group):
        """See the class."""
        return base * self.lr_lambdas[group](epoch)


class StepLR(LRScheduler):
    """Multiplied by `gamma` every `step_size` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
    gamma : float
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = _positive("StepLR", "step_size", step_size), gamma
        super().__init__(optimizer)

    def rate(self, epoch, base, group):
        """See the class."""
        return base * self.gamma ** (epoch // self.step_size)


class MultiStepLR(LRScheduler):
    """Multiplied by `gamma` at each of the epochs `milestones`.

    Parameters
    ----------
    optimizer : Optimizer
    milestones : sequence of int
        An epoch named twice multiplies twice.
    gamma : float
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def rate(self, epoch, base, group):
        """See the class."""
        return base * self.gamma ** bisect.bisect_right(self.milestones, epoch)


class ExponentialLR(LRScheduler):
    """Multiplied by `gamma` every epoch.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float
    """

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, epoch, base, group):
        """See the class."""
        return base * self.gamma**epoch


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the first rate down to `eta_min` in `T_max` epochs, and up again.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
    eta_min : float

    References
    ----------
    Loshchilov, Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, equation 5,
    without restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max, self.eta_min = _positive("CosineAnnealingLR", "T_max", T_max), eta_min
        super().__init__(optimizer)

    def rate(self, epoch, base, group):
        """See the class."""
        share = (1 + math.cos(math.pi * epoch / self.T_max)) / 2
        return self.eta_min + (base - self.eta_min) * share


class PolynomialLR(LRScheduler):
    """Down to 0 in `total_iters` epochs, as ``(1 - epoch / total_iters)**power``.

    DeepLab's "poly" schedule with a power of 0.9, stepped after every batch.

    Parameters
    ----------
    optimizer : Optimizer
    total_iters : int
    power : float

    References
    ----------
    Chen et al., DeepLab, 2017, section 4.1.
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0) -> None:
        self.total_iters = _positive("PolynomialLR", "total_iters", total_iters)
        self.power = power
        super().__init__(optimizer)

    def rate(self, epoch, base, group):
        """See the class."""
        return base * (1 - min(epoch, self.total_iters) / self.total_iters) ** self.power


class LinearLR(LRScheduler):
    """From `start_factor` to `end_factor` times the first rate in `total_iters` epochs.

    As it is, a warm-up from a third of the rate.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor, end_factor : float
    total_iters : int
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = _positive("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer)

    def rate(self, epoch, base, group):
        """See the class."""
        done = min(epoch, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


class SequentialLR(LRScheduler):
    """One schedule after the other.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : sequence of LRScheduler
        Each counts its epochs from where it takes over.
    milestones : sequence of int
        The epochs at which the second, the third and so on take over.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
    ) -> None:
        if len(milestones) != len(schedulers) - 1 or sorted(set(milestones)) != list(milestones):
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} "
                f"increasing milestones, but got {list(milestones)}."
            )
        for scheduler in schedulers:
            if not isinstance(scheduler, LRScheduler) or scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"SequentialLR: {type(scheduler).__name__} is not a schedule of epochs for "
                    "this optimiser."
                )
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def rate(self, epoch, base, group):
        """See the class."""
        which = bisect.bisect_right(self.milestones, epoch)
        start = self.milestones[which - 1] if which else 0
        return self.schedulers[which].rate(epoch - start, base, group)


class ReduceLROnPlateau:
    """Multiplied by `factor` when a number has not improved for more than `patience` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    mode : 'min' or 'max'
        Whether lower or higher is better.
    factor : float below 1
    patience : int
    threshold : float
        How much better counts as better.
    threshold_mode : 'rel' or 'abs'
        Whether `threshold` is a share of the best number so far, or a difference.
    cooldown : int
        Epochs after a reduction that do not count as bad.
    min_lr : float, or list of one for each group
    eps : float
        Smaller changes of the rate are not made.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode must be 'min' or 'max', but is {mode!r}.")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs', not {threshold_mode!r}."
            )
        if not factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be below 1, but is {factor!r}.")
        groups = len(optimizer.param_groups)
        self.min_lrs = [min_lr] * groups if isinstance(min_lr, int | float) else list(min_lr)
        if len(self.min_lrs) != groups:
            raise ValueError(
                f"ReduceLROnPlateau: got {len(self.min_lrs)} min_lr for {groups} parameter groups."
            )
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.last_epoch = 0
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0

    def step(self, metrics: float) -> None:
        """Take note of the number `metrics` of one more epoch."""
        self.last_epoch += 1
        metrics = float(metrics)
        if self._better(metrics):
            self.best, self.num_bad_epochs = metrics, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _better(self, metrics: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        margin = self.threshold
        if self.threshold_mode == "rel":
            margin = self.threshold * self.best
        if math.isinf(self.best):
            margin = 0.0
        return sign * metrics < sign * self.best - margin

    def _reduce(self) -> None:
        for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            lr = max(group["lr"] * self.factor, least)
            if group["lr"] - lr > self.eps:
                group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        """The present rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on; the rates are in the optimiser's own state."""
        names = ("last_epoch", "best", "num_bad_epochs", "cooldown_counter")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where the `state` of a schedule with the same settings was taken."""
        for name in self.state_dict():
            setattr(self, name, state[name])


def _positive(scheduler: str, name: str, value: int) -> int:
    if not value > 0:
        raise ValueError(f"{scheduler}: {name} must be at least 1, but is {value!r}.")
    return value
