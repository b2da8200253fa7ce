"""Losses as layers: the settings are chosen once, and the layer is called as loss(x, target)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from minidl import functional as F
from minidl.nn.module import Module, ModuleList


class CrossEntropyLoss(Module):
    """`minidl.functional.cross_entropy`, whose settings it takes."""

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, logits: Any, target: Any, pixel_weight: Any = None) -> Any:
        """The loss of `logits`."""
        return F.cross_entropy(
            logits,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            pixel_weight=pixel_weight,
        )


class FocalLoss(Module):
    """`minidl.functional.focal_loss`, whose settings it takes."""

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, logits: Any, target: Any, pixel_weight: Any = None) -> Any:
        """The loss of `logits`."""
        return F.focal_loss(
            logits,
            target,
            gamma=self.gamma,
            alpha=self.alpha,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            pixel_weight=pixel_weight,
        )


class DiceLoss(Module):
    """`minidl.functional.dice_loss`, whose settings it takes."""

    def __init__(
        self,
        smooth: float = 1.0,
        include_background: bool = True,
        batch: bool = False,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Any = None,
        absent: str = "count",
    ) -> None:
        super().__init__()
        self.smooth = smooth
        self.include_background = include_background
        self.batch = batch
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.weight = weight
        self.absent = absent

    def forward(self, logits: Any, target: Any, pixel_weight: Any = None) -> Any:
        """The loss of `logits`."""
        return F.dice_loss(
            logits,
            target,
            smooth=self.smooth,
            include_background=self.include_background,
            batch=self.batch,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            weight=self.weight,
            pixel_weight=pixel_weight,
            absent=self.absent,
        )


class TverskyLoss(Module):
    """`minidl.functional.tversky_loss`, whose settings it takes."""

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        smooth: float = 1.0,
        include_background: bool = True,
        batch: bool = False,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Any = None,
        absent: str = "count",
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.smooth = smooth
        self.include_background = include_background
        self.batch = batch
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.weight = weight
        self.absent = absent

    def forward(self, logits: Any, target: Any, pixel_weight: Any = None) -> Any:
        """The loss of `logits`."""
        return F.tversky_loss(
            logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            smooth=self.smooth,
            include_background=self.include_background,
            batch=self.batch,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            weight=self.weight,
            pixel_weight=pixel_weight,
            absent=self.absent,
        )


class GeneralisedDiceLoss(Module):
    """`minidl.functional.generalised_dice_loss`, whose settings it takes."""

    def __init__(
        self,
        power: float = 2.0,
        include_background: bool = True,
        batch: bool = False,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Any = None,
        absent: str = "count",
    ) -> None:
        super().__init__()
        self.power = power
        self.include_background = include_background
        self.batch = batch
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.weight = weight
        self.absent = absent

    def forward(self, logits: Any, target: Any, pixel_weight: Any = None) -> Any:
        """The loss of `logits`."""
        return F.generalised_dice_loss(
            logits,
            target,
            power=self.power,
            include_background=self.include_background,
            batch=self.batch,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            weight=self.weight,
            pixel_weight=pixel_weight,
            absent=self.absent,
        )


class LovaszSoftmaxLoss(Module):
    """`minidl.functional.lovasz_softmax`, whose settings it takes."""

    def __init__(
        self,
        include_background: bool = True,
        batch: bool = True,
        ignore_index: int = -100,
        reduction: str = "mean",
        weight: Any = None,
        absent: str = "skip",
    ) -> None:
        super().__init__()
        self.include_background = include_background
        self.batch = batch
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.weight = weight
        self.absent = absent

    def forward(self, logits: Any, target: Any, pixel_weight: Any = None) -> Any:
        """The loss of `logits`."""
        return F.lovasz_softmax(
            logits,
            target,
            include_background=self.include_background,
            batch=self.batch,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            weight=self.weight,
            pixel_weight=pixel_weight,
            absent=self.absent,
        )


class BoundaryLoss(Module):
    """`minidl.functional.boundary_loss`, whose settings it takes."""

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.weight = weight
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(
        self, logits: Any, distance: Any, target: Any = None, pixel_weight: Any = None
    ) -> Any:
        """The loss of `logits`."""
        return F.boundary_loss(
            logits,
            distance,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            pixel_weight=pixel_weight,
        )


class CombinedLoss(Module):
    """A weighted sum of losses.

    Parameters
    ----------
    *losses : Module
        Each called with the scores first, and by name with those of the other arguments that its
        forward takes.
    shares : sequence of float, optional
        Factor for each of them; ones by default. The list of the same name may be changed in the
        course of a training.

    Raises
    ------
    ValueError
        If there is no loss, or not a share for each.

    Examples
    --------
    >>> loss = CombinedLoss(CrossEntropyLoss(), DiceLoss(batch=True), shares=(1, 0.5))
    >>> scores, target = [[[0.0, 0.0], [0.0, 0.0]]], [[0, 1]]
    >>> round(loss(scores, target).item(), 4)  # log(2) + 0.5 * (1 - 2 / 3)
    0.8598
    """

    def __init__(self, *losses: Module, shares: Sequence[float] | None = None) -> None:
        super().__init__()
        if not losses:
            raise ValueError("CombinedLoss: give it at least one loss.")
        self.shares = [1.0] * len(losses) if shares is None else list(shares)
        if len(self.shares) != len(losses):
            raise ValueError(
                f"CombinedLoss: shares must be {len(losses)} numbers, one for each loss, but are "
                f"{self.shares}."
            )
        self.losses = ModuleList(losses)

    def forward(self, logits: Any, target: Any = None, **more: Any) -> Any:
        """The loss of `logits`; `more` are the likes of `pixel_weight` and `distance`."""
        given = more if target is None else {"target": target, **more}
        takes = [list(inspect.signature(loss.forward).parameters)[1:] for loss in self.losses]
        for name in given:
            if not any(name in names for names in takes):
                raise TypeError(f"CombinedLoss: none of its losses takes an argument {name!r}.")
        parts = [
            loss(logits, **{name: given[name] for name in names if name in given}) * share
            for loss, names, share in zip(self.losses, takes, self.shares, strict=True)
        ]
        return sum(parts[1:], start=parts[0])


class BCEWithLogitsLoss(Module):
    """`minidl.functional.binary_cross_entropy_with_logits`, whose settings it takes."""

    def __init__(
        self,
        weight: Any = None,
        pos_weight: Any = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.weight = weight
        self.pos_weight = pos_weight
        self.reduction = reduction

    def forward(self, logits: Any, target: Any) -> Any:
        """The loss of `logits`."""
        return F.binary_cross_entropy_with_logits(
            logits,
            target,
            weight=self.weight,
            pos_weight=self.pos_weight,
            reduction=self.reduction,
        )


class MSELoss(Module):
    """`minidl.functional.mse_loss`, whose settings it takes."""

    def __init__(
        self,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Any:
        """The loss of `input`."""
        return F.mse_loss(
            input,
            target,
            reduction=self.reduction,
        )


class L1Loss(Module):
    """`minidl.functional.l1_loss`, whose settings it takes."""

    def __init__(
        self,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Any:
        """The loss of `input`."""
        return F.l1_loss(
            input,
            target,
            reduction=self.reduction,
        )


class KLDivLoss(Module):
    """`minidl.functional.kl_div`, whose settings it takes."""

    def __init__(
        self,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input: Any, target: Any) -> Any:
        """The loss of `input`."""
        return F.kl_div(
            input,
            target,
            reduction=self.reduction,
            log_target=self.log_target,
        )
