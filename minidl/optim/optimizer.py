"""What all optimisers have in common: groups of parameters, their settings, their state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minidl.tensor import Tensor


class Optimizer:
    """Parameters in groups, each with settings of its own, and what is remembered of each.

    Subclasses pass the defaults of their settings on, and write `update`.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        What ``model.parameters()`` gives; or groups, dicts with the parameters under ``"params"``
        and settings that differ from the defaults.
    **defaults
        Settings of groups that have none of their own.

    Attributes
    ----------
    param_groups : list of dict
        The groups. Settings, such as ``"lr"``, may be changed between steps.
    state : dict
        For each parameter that was updated, its state by name: arrays and step numbers.
    """

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise TypeError(
                f"{self._name}: params must be an iterable of tensors or of groups, but got "
                f"{type(params).__name__}. Pass model.parameters()."
            )
        groups = list(params)
        if not groups:
            raise ValueError(f"{self._name}: params is empty, there is nothing to optimise.")
        if not isinstance(groups[0], Mapping):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with settings of their own.

        Parameters
        ----------
        group : mapping
            ``"params"``, a tensor or an iterable of tensors, and settings by name.
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f'{self._name}: a group must be a dict with "params", got {group!r}.')
        unknown = group.keys() - self.defaults.keys() - {"params", "initial_lr"}
        if unknown:
            raise ValueError(
                f"{self._name}: unknown setting {sorted(unknown)[0]!r} in a group; there are "
                f"{', '.join(self.defaults)}."
            )
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for position, p in enumerate(params):
            self._check_parameter(position, p, known)
            known.add(id(p))
        settings = {**self.defaults, **group, "params": params}
        self.check(settings)
        self.param_groups.append(settings)

    def _check_parameter(self, position: int, p: Any, known: set[int]) -> None:
        if not isinstance(p, Tensor):
            raise TypeError(
                f"{self._name}: parameter {position} is of type {type(p).__name__}, not a Tensor. "
                "Pass model.parameters()."
            )
        if not p.is_leaf or p.dtype.kind != "f":
            raise ValueError(
                f"{self._name}: parameter {position} of shape {p.shape} is computed from others "
                "or not floating, so it cannot be optimised."
            )
        if id(p) in known:
            raise ValueError(
                f"{self._name}: parameter {position} of shape {p.shape} is given twice."
            )

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ValueError if a setting is out of its range."""
        for name in ("lr", "eps", "weight_decay", "momentum"):
            if name in settings and not settings[name] >= 0:
                raise ValueError(
                    f"{self._name}: {name} must be at least 0, but is {settings[name]!r}."
                )
        for beta in settings.get("betas", ()):
            if not 0 <= beta < 1:
                raise ValueError(
                    f"{self._name}: betas must be in [0, 1), but are {settings['betas']!r}."
                )

    def update(
        self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Change the array `p` by its gradient `g`; `state` is empty at first."""
        raise NotImplementedError(f"{self._name} has no update")

    def step(self) -> None:
        """Change every parameter by its gradient; parameters without one are skipped."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.shape != p.shape:
                    raise ValueError(
                        f"{self._name}.step: a gradient has shape {p.grad.shape}, but its "
                        f"parameter {p.shape}."
                    )
                g = p.grad.astype(p.dtype, copy=False)
                self.update(p.data, g, self.state.setdefault(p, {}), group)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on as if nothing had happened.

        Returns
        -------
        dict
            ``"state"``, a list with the state of each parameter or None, in the order of groups
            and parameters, arrays copied; and ``"param_groups"``, the settings of each group and
            the number of its parameters. `minidl.save` can write it.
        """
        params = [p for group in self.param_groups for p in group["params"]]
        return {
            "state": [_copy(self.state[p]) if p in self.state else None for p in params],
            "param_groups": [
                {**group, "params": len(group["params"])} for group in self.param_groups
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` of an optimiser of as many parameters gave.

        Raises
        ------
        ValueError
            If groups, parameters or their shapes differ. Nothing has been changed then.
        """
        sizes = [len(group["params"]) for group in self.param_groups]
        saved_sizes = [group["params"] for group in state["param_groups"]]
        if sizes != saved_sizes:
            raise ValueError(
                f"{self._name}.load_state_dict: the state is of groups of {saved_sizes} "
                f"parameters, but here are {sizes}. Create the optimiser as it was then."
            )
        params = [p for group in self.param_groups for p in group["params"]]
        states = dict(zip(params, map(_copy, state["state"]), strict=True))
        for position, (p, values) in enumerate(states.items()):
            for name, value in (values or {}).items():
                if isinstance(value, np.ndarray) and value.shape != p.shape:
                    raise ValueError(
                        f"{self._name}.load_state_dict: {name} of parameter {position} has shape "
                        f"{value.shape}, but the parameter {p.shape}."
                    )
        self.state = {p: values for p, values in states.items() if values is not None}
        for group, saved in zip(self.param_groups, state["param_groups"], strict=True):
            group.update({**saved, "params": group["params"]})


def _copy(state: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`state` with arrays of its own."""
    if state is None:
        return None
    return {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in state.items()
    }
