"""The other side of `recipes.py`: the same network, loss, steps and schedule, in PyTorch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from peers import UNet
from torch.nn import functional as T

from minidl.data import Dataset, pad_to_multiple
from minidl.evaluate import Evaluation
from minidl.metrics import confusion_matrix
from minidl.train import Settings

LAST_LR = 0.01  # of the first


def hand_over(ours: Any, theirs: torch.nn.Module) -> None:
    """Copy the parameters of our network, which has them in the same order, channels last."""
    with torch.no_grad():
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            array = own.data.transpose(3, 2, 0, 1) if own.ndim == 4 else own.data
            if array.shape != tuple(other.shape):
                raise ValueError(f"hand_over: {own.shape} of ours to {tuple(other.shape)}")
            other.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def segmentation_loss(
    scores: torch.Tensor, target: torch.Tensor, foreground: Sequence[int]
) -> torch.Tensor:
    """`minidl.train.segmentation_loss` of scores (N, classes, H, W): cross-entropy plus Dice."""
    logs = T.log_softmax(scores, 1)
    probabilities, counted = logs.exp(), target >= 0
    overlaps = []
    for label in foreground:
        own, wanted = probabilities[:, label], target == label
        hit, predicted = (own * wanted).sum(), (own * counted).sum()
        overlaps.append((2 * hit + 1) / (predicted + wanted.sum() + 1))
    return T.nll_loss(logs, target, ignore_index=-100) + 1 - torch.stack(overlaps).mean()


class Reduced(torch.nn.Module):
    """`minidl.models.Reduced`."""

    def __init__(self, network: torch.nn.Module, factor: int) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.network(T.avg_pool2d(x, self.factor))
        return T.interpolate(scores, scale_factor=self.factor, mode="bilinear")


def like(model: Any) -> torch.nn.Module:
    """The same network in PyTorch, with weights of its own."""
    if hasattr(model, "factor"):
        return Reduced(like(model.network), model.factor)
    return UNet(model.in_channels, model.num_classes, model.depth, model.root, model.batch_norm)


class Average:
    """`minidl.training.average.Average`: of parameters, running means and variances."""

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        values = network.state_dict().values()  # they share the network's memory
        self.own = [value for value in values if value.is_floating_point()]
        self.values = [value.clone() for value in self.own]

    def update(self) -> None:
        """After every step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, self.own, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network be the averaged one inside of the block."""
        kept = [value.clone() for value in self.own]
        torch._foreach_copy_(self.own, self.values)
        yield
        torch._foreach_copy_(self.own, kept)


class Twin:
    """A `minidl.models.UNet` in PyTorch, with what it is trained by.

    Parameters
    ----------
    model : minidl.models.UNet or minidl.models.Reduced
        Whose weights it begins with.
    foreground : sequence of int
        Classes with a Dice loss.
    channels_last : bool
        In which of PyTorch's layouts it computes.
    settings : minidl.train.Settings
        Of which it follows the optimiser, 'adam' or 'adamw', its weight decay, and the average.
    """

    def __init__(
        self, model: Any, foreground: Sequence[int], channels_last: bool, settings: Settings
    ) -> None:
        self.multiple, self.channels_last = model.multiple, channels_last
        self.foreground = tuple(foreground)
        self.network = like(model)
        hand_over(model, self.network)
        if channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        rule = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
        decay = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
        self.optimiser = rule(self.network.parameters(), fused=True, **decay)
        self.average = Average(self.network, settings.average) if settings.average else None

    def judged(self) -> contextlib.AbstractContextManager[None]:
        """Let the network be, inside of the block, the one that is validated."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Scores (H, W, classes) of an image (H, W, C), mirrored beyond its edges as need be."""
        padded, place = pad_to_multiple(x, self.multiple)
        self.network.eval()
        with torch.inference_mode():
            scores = self.network(self._images(padded[None]))
        self.network.train()
        return scores[0].movedim(0, -1).numpy()[place]

    def evaluate(self, dataset: Dataset, class_names: Sequence[str]) -> Evaluation:
        """What `minidl.evaluate` does with our networks."""
        classes = dataset.mask_kind.num_classes
        matrix = np.zeros((classes, classes), np.int64)
        with self.judged():
            for index in range(len(dataset)):
                x, target = dataset[index]
                matrix += confusion_matrix(self.scores(x).argmax(axis=-1), target, classes)
        values = dataset.mask_kind.values
        return Evaluation(matrix, len(dataset), tuple(class_names), values, self.foreground)

    def _images(self, x: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(x).permute(0, 3, 1, 2)  # channels last without a copy
        kind = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=kind)

    def step(self, x: np.ndarray, y: np.ndarray, lr: float) -> float:
        """One step on images (N, H, W, C) and classes (N, H, W); the loss before it."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        scores = self.network(self._images(x))
        loss = segmentation_loss(scores, torch.from_numpy(y).long(), self.foreground)
        loss.backward()
        self.optimiser.step()
        if self.average:
            self.average.update()
        return loss.item()


def learning_rate(first: float, done: float) -> float:
    """Half a cosine from the first to a hundredth of it; `done` is the share of the steps."""
    return first * (LAST_LR + (1 - LAST_LR) * 0.5 * (1 + math.cos(math.pi * done)))


def faster_layout(
    model: Any, foreground: Sequence[int], settings: Settings, x: np.ndarray, y: np.ndarray
) -> bool:
    """Whether channels last is the faster layout for such batches, tried on three steps."""
    seconds = []
    for channels_last in (False, True):
        twin = Twin(deepcopy(model), foreground, channels_last, settings)
        times = []
        for _ in range(4):
            started = time.perf_counter()
            twin.step(x, y, 1e-4)
            times.append(time.perf_counter() - started)
        seconds.append(min(times[1:]))
    return seconds[1] < seconds[0]


def train(
    twin: Twin,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    lr: float,
    steps: int,
    validate_every: int,
    validate: Callable[[int, float], Any],
) -> None:
    """What `minidl.train.Trainer` does; `validate` gets the step and the mean loss since."""
    losses = []
    for step, (x, y) in enumerate(batches, 1):
        losses.append(twin.step(x, y, learning_rate(lr, (step - 1) / steps)))
        if step == steps or step % validate_every == 0:
            validate(step, float(np.mean(losses)))
            losses = []
