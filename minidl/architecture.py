"""Networks by their names: which there are, and how one is built for a data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minidl.nn.module import Module
from minidl.run import RunError

# Those whose scores are a picture: what `Architecture` finds out by itself, for people to choose.
SEGMENTATION = (
    "unet", "fcn8s", "fcn16s", "fcn32s", "segnet", "segnetbasic", "deconvnet", "fcdensenet",
    "fc-densenet56", "fc-densenet67", "fc-densenet103", "dilatednet", "deeplab", "deeplabv2",
    "refinenet", "segnetcmr", "unetslides", "fcnslides",
)  # fmt: skip
UNET = {"root": 16, "depth": 4}  # what a laptop trains in minutes
_PROBE = 224  # side of an image that is followed through a network


def known_networks() -> dict[str, Callable[..., Any]]:
    """Everything in `minidl.models` that makes a network for images or sequences, by its name."""
    from minidl import models

    makers = {name: getattr(models, name) for name in models.__all__}
    return {name: make for name, make in makers.items() if _is_network(make)}


def _is_network(make: Any) -> bool:
    """Functions, and classes that know how many channels an image has."""
    if not inspect.isclass(make):
        return callable(make)
    return issubclass(make, Module) and "in_channels" in inspect.signature(make).parameters


def find_network(name: str) -> Callable[..., Any] | None:
    """What makes the network of that name, in any case, with or without hyphens; None if nothing.

    >>> find_network("fc-densenet56").__name__, find_network("unet").__name__
    ('fc_densenet56', 'UNet')
    """
    makers = known_networks()
    if name in makers:
        return makers[name]
    plain = {_plain(known): make for known, make in makers.items()}
    return plain.get(_plain(name))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def build(name: str, settings: Mapping[str, Any]) -> Any:
    """A new network with random weights, from `minidl.manual_seed`.

    Parameters
    ----------
    name : str
        See `find_network`.
    settings : mapping of str to anything
        Arguments of its constructor.

    Raises
    ------
    RunError
        If there is no such network, or it does not take the settings; says what there is.
    """
    make = find_network(name)
    if make is None:
        raise RunError(f"no network {name!r}. {_choice()}")
    unknown = [key for key in settings if not _takes(make, key)]
    if unknown:
        raise RunError(
            f"{name}: no setting {', '.join(map(repr, unknown))}. It takes "
            f"{', '.join(settings_of(name)) or 'none'}."
        )
    try:
        return make(**settings)
    except (TypeError, ValueError) as error:
        raise RunError(f"{name}: {error}") from error


def _choice() -> str:
    return f"For segmentation there are {', '.join(SEGMENTATION)}."


def _takes(make: Callable[..., Any], key: str) -> bool:
    parameters = inspect.signature(make).parameters
    return key in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def settings_of(name: str) -> list[str]:
    """Arguments of a network's constructor that are up to the user."""
    make = find_network(name)
    assert make is not None
    parameters = inspect.signature(make).parameters.values()
    given = ("in_channels", "num_classes", "rng")
    return [p.name for p in parameters if p.name not in given and p.kind is not p.VAR_KEYWORD]


@dataclass(frozen=True)
class Architecture:
    """Which network, and the arguments it is built with.

    Attributes
    ----------
    model : str
        Name of a network of `minidl.models`; see `find_network`.
    in_channels, num_classes : int
    settings : mapping of str to anything
        Further arguments of its constructor, in types that JSON knows.
    reduce : int
        Side of squares of pixels of which it sees the averages; see `models.Reduced`.
    """

    model: str
    in_channels: int
    num_classes: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    reduce: int = 1

    @classmethod
    def chosen(
        cls,
        model: str,
        in_channels: int,
        num_classes: int,
        settings: Mapping[str, Any] | None = None,
        root: int | None = None,
        depth: int | None = None,
        reduce: int = 1,
    ) -> Architecture:
        """As a person asks for it: `root` and `depth` are of U-Nets, where they have defaults."""
        given = {key: value for key, value in (("root", root), ("depth", depth)) if value}
        if find_network(model) is find_network("unet"):
            given = UNET | given
        elif given:
            raise RunError(
                f"{model}: no setting {', '.join(given)}, which are a U-Net's. It takes "
                f"{', '.join(settings_of(model)) if find_network(model) else 'nothing'}, as "
                "--set NAME=VALUE."
            )
        return cls(model, in_channels, num_classes, given | dict(settings or {}), reduce)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Architecture:
        """What `dataclasses.asdict` made of one, also before there were `settings`."""
        named = {key: state[key] for key in ("model", "in_channels", "num_classes")}
        others = {key: value for key, value in state.items() if key not in named}
        reduce = others.pop("reduce", 1)
        return cls(**named, settings=others.pop("settings", None) or others, reduce=reduce)

    def build(self) -> Any:
        """A new network with random weights, from `minidl.manual_seed`.

        Raises
        ------
        RunError
            If there is no such network, it does not take the settings, or what it makes of an
            image is not a score for each pixel.
        """
        given = {"in_channels": self.in_channels, "num_classes": self.num_classes}
        model = build(self.model, given | dict(self.settings))
        self._check_scores(model)
        return model if self.reduce == 1 else _reduced(model, self.reduce)

    def _check_scores(self, model: Any) -> None:
        from minidl.trace import trace

        side = getattr(model, "fitting_size", int)(_PROBE)
        out = side - getattr(model, "shrink", 0)
        try:
            found = trace(model, (1, side, side, self.in_channels)).root.outputs
        except ValueError:  # one that takes images of a single size
            found = []
        if [value.shape for value in found] != [(1, out, out, self.num_classes)]:
            raise RunError(f"{self}: does not give a score for each pixel. {_choice()}")

    def __str__(self) -> str:
        words = [self.model, *(f"{key}={value}" for key, value in self.settings.items())]
        return " ".join(words + [f"reduce={self.reduce}"] * (self.reduce > 1))


def _reduced(model: Any, factor: int) -> Any:
    from minidl.models import Reduced

    try:
        return Reduced(model, factor)
    except ValueError as error:
        raise RunError(str(error)) from error
