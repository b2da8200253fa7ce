"""The update rules. Each changes one parameter in one pass of a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minidl import kernels
from minidl.optim.optimizer import Optimizer


def _zeros(state: dict[str, Any], name: str, p: np.ndarray) -> np.ndarray:
    """The array `name` of the state, zeros at first."""
    if name not in state:
        state[name] = np.zeros_like(p)
    return state[name]


class SGD(Optimizer):
    """Gradient descent, with momentum.

    Parameters
    ----------
    params : iterable of Tensor, or of groups
    lr : float
    momentum : float
        How much of the last step is made again.
    dampening : float
        How much of the gradient is held back from the momentum.
    weight_decay : float
        This times the parameter is added to its gradient.
    nesterov : bool
        Look ahead along the momentum. Needs momentum, and no dampening.

    Notes
    -----
    With gradient g: ``v = momentum * v + (1 - dampening) * g``, at first ``v = g``, and
    ``p = p - lr * v``; with `nesterov` ``p = p - lr * (g + momentum * v)``.

    References
    ----------
    Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
            nesterov=nesterov,
        )  # fmt: skip

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ValueError if a setting is out of its range."""
        super().check(settings)
        if settings["nesterov"] and (settings["momentum"] <= 0 or settings["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a momentum above 0 and no dampening.")

    def update(self, p, g, state, group):
        """One step of one parameter."""
        first = "velocity" not in state
        velocity = _zeros(state, "velocity", p) if group["momentum"] else None
        kernels.optim.sgd(
            p, g, velocity, group["lr"], group["weight_decay"], group["momentum"],
            0.0 if first else group["dampening"], group["nesterov"],
        )  # fmt: skip


class Adam(Optimizer):
    """Steps of about equal length for every parameter, whatever the size of its gradients.

    Parameters
    ----------
    params : iterable of Tensor, or of groups
    lr : float
        About the length of a step.
    betas : two floats in [0, 1)
        Memory of the mean of gradients, and of the mean of their squares.
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        This times the parameter is added to its gradient.
    amsgrad : bool
        Divide by the largest mean square so far.

    References
    ----------
    Kingma, Ba, Adam: A Method for Stochastic Optimization, 2015, algorithm 1.
    Reddi, Kale, Kumar, On the Convergence of Adam and Beyond, 2018, algorithm 2 (AMSGrad).
    """

    decoupled = False  # whether the decay acts on the parameter rather than on its gradient

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
        )

    def update(self, p, g, state, group):
        """One step of one parameter."""
        state["step"] = state.get("step", 0) + 1
        mean, square = _zeros(state, "mean", p), _zeros(state, "square", p)
        highest = _zeros(state, "highest", p) if group["amsgrad"] else None
        decay, shrink = group["weight_decay"], 1.0
        if self.decoupled:
            decay, shrink = 0.0, 1 - group["lr"] * decay
        kernels.optim.adam(
            p, g, mean, square, highest, state["step"], group["lr"], shrink, decay,
            group["betas"], group["eps"],
        )  # fmt: skip


class AdamW(Adam):
    """Adam whose weight decay acts on the parameters, not on their gradients.

    Parameters
    ----------
    params : iterable of Tensor, or of groups
    lr : float
        About the length of a step.
    betas : two floats in [0, 1)
        Memory of the mean of gradients, and of the mean of their squares.
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        Before each step a parameter loses ``lr * weight_decay`` of itself.
    amsgrad : bool
        Divide by the largest mean square so far.

    References
    ----------
    Loshchilov, Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


class RMSprop(Optimizer):
    """Gradients divided by the root of the mean of their squares.

    Parameters
    ----------
    params : iterable of Tensor, or of groups
    lr : float
    alpha : float in [0, 1]
        Memory of the mean of squares.
    eps : float
        Added to the root.
    weight_decay : float
        This times the parameter is added to its gradient.
    momentum : float
        How much of the last step is made again.
    centered : bool
        Divide by the standard deviation: take the square of the mean from the mean of squares.

    References
    ----------
    Hinton, Neural Networks for Machine Learning, lecture 6e, 2012. Graves, Generating Sequences
    With Recurrent Neural Networks, 2013, equations 38-45 (centred).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
            centered=centered,
        )  # fmt: skip

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ValueError if a setting is out of its range."""
        super().check(settings)
        if not 0 <= settings["alpha"] <= 1:
            raise ValueError(f"RMSprop: alpha must be in [0, 1], but is {settings['alpha']!r}.")

    def update(self, p, g, state, group):
        """One step of one parameter."""
        kernels.optim.rmsprop(
            p, g, _zeros(state, "square", p),
            _zeros(state, "mean", p) if group["centered"] else None,
            _zeros(state, "velocity", p) if group["momentum"] else None,
            group["lr"], group["weight_decay"], group["alpha"], group["momentum"], group["eps"],
        )  # fmt: skip
