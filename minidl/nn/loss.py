"""Losses as layers: the settings are chosen once, and the layer is called as loss(x, target)."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.nn.module import Module


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

    def forward(self, logits: Any, target: Any) -> Any:
        """The loss of `logits`."""
        return F.focal_loss(
            logits,
            target,
            gamma=self.gamma,
            alpha=self.alpha,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
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
    ) -> None:
        super().__init__()
        self.smooth = smooth
        self.include_background = include_background
        self.batch = batch
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, logits: Any, target: Any) -> Any:
        """The loss of `logits`."""
        return F.dice_loss(
            logits,
            target,
            smooth=self.smooth,
            include_background=self.include_background,
            batch=self.batch,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
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
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.smooth = smooth
        self.include_background = include_background
        self.batch = batch
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, logits: Any, target: Any) -> Any:
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
        )


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
