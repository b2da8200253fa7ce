"""Networks by name, or out of run folders, for the commands that look at them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIDE, LENGTH = 224, 4096  # of images and sequences, where nothing is said


def load_network(
    name: str, channels: int | None, classes: int | None, settings: Mapping[str, Any]
) -> tuple[Any, int]:
    """A new network by its name, or that of a run folder or model file.

    Parameters
    ----------
    name : str
        Of a network, or a path.
    channels, classes : int, optional
        Of the images and of the scores; what is usual for the network if left out.
    settings : mapping of str to anything
        Further arguments.

    Returns
    -------
    model : nn.Module
    channels : int
        Of its images.

    Raises
    ------
    RunError
        If there is no such network, or it does not take the arguments.
    """
    from minidl.architecture import build, find_network, known_networks
    from minidl.run import RunError

    if Path(name).exists():
        if classes is not None or settings:
            raise RunError(f"the network of {name} is what it is. Leave off classes and settings.")
        return load_run(Path(name))
    make = find_network(name)
    if make is None:
        names = ", ".join(sorted({known.lower() for known in known_networks()}))
        raise RunError(f"{name}: no run folder, and no network. Networks are {names}.")
    parameters = inspect.signature(make).parameters
    keywords = dict(settings)
    if classes is not None:
        keywords["num_classes"] = classes
    elif _lacks(parameters, "num_classes"):
        keywords["num_classes"] = 2
    if channels is not None or _lacks(parameters, "in_channels"):
        keywords.setdefault("in_channels", channels or 3)
    model = build(name, keywords)
    return model, getattr(model, "in_channels", None) or keywords.get("in_channels", 3)


def _lacks(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    """Whether there is an argument of that name without a default."""
    return name in parameters and parameters[name].default is inspect.Parameter.empty


def load_run(path: Path) -> tuple[Any, int]:
    """The network of a run folder or a model file, and the channels of its images."""
    from minidl.run import model_path
    from minidl.segmenter import Segmenter

    segmenter = Segmenter.load(model_path(path))
    return segmenter.model, segmenter.architecture.in_channels


def usual_size(model: Any, channels: int) -> tuple[int, ...]:
    """Extents and channels of an input that the network takes, an image if it can be.

    Raises
    ------
    RunError
        If all that is tried is refused.
    """
    from minidl.run import RunError
    from minidl.trace import trace

    fitting = getattr(model, "fitting_size", int)
    side, least = fitting(SIDE), max(fitting(1), 1)
    reason: Exception | None = None
    for size in ((side, side, channels), (least, least, channels), (LENGTH, channels)):
        try:
            trace(model, (1, *size))
        except ValueError as error:
            reason = reason or error
        else:
            return size
    raise RunError(f"what it takes is not known; say it with --input. ({reason})")
