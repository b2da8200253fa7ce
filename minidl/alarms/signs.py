"""What is a sign of what: each function judges one thing, and returns an `Alarm` or None."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minidl import nn
from minidl.alarms.alarm import Alarm
from minidl.alarms.look import Look, NonFinite, ends_in_relu
from minidl.metrics import constant_entropy

BRIGHT, FAINT = 10.0, 0.02  # of images, in units of their deviation if they are normalised
MOSTLY = 0.5  # of channels or layers
NARROW, DROPPED = 32, 0.3  # channels; probability
OFF = 0.75  # a deviation of first weights, as a share of He's
TOO_SMALL, TOO_LARGE = 3e-5, 0.3  # change of weights in a step, relative to them
VANISHED, EXPLODED = 1e-6, 1e3  # gradient of a layer, of the largest one; of all
FALLING = 0.97  # a loss, of that before
RECURRING = 3  # looks or validations in a row


def unscaled_images(look: Look) -> Alarm | None:
    """Images as they are in files, 0 to 255, or divided twice."""
    values = look.images[..., ::7] if look.images.shape[-1] > 7 else look.images
    rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
    if FAINT < rms < BRIGHT or rms == 0:
        return None
    low, high = float(values.min()), float(values.max())
    return Alarm(
        "unscaled-images",
        f"The images that go into the network lie between {low:.3g} and {high:.3g}, with a root "
        f"mean square of {rms:.3g} where about 1 is expected.",
        "Weights begin at a size that is meant for inputs around 1: bring images to mean 0 and "
        "deviation 1 (`data.Normaliser`, which `minidl train` does).",
    )


def relu_scores(look: Look) -> Alarm | None:
    """A softmax that is fed by a ReLU."""
    none_below, zeros = look.scores.min() >= 0, float(np.mean(look.scores == 0))
    last = look.layers[-1] if look.layers else None
    built_in = last is not None and last.relu and last.dead.size == look.scores.shape[-1]
    if not none_below or not (built_in or (zeros > 0.05 and look.scores.max() > 0)):
        return None
    where = f" of layer {last.path}" if built_in and last is not None else ""
    both = float(np.mean((look.scores == 0).all(axis=-1)))
    return Alarm(
        "relu-scores",
        f"The scores{where} end in a ReLU: none is negative, {zeros:.0%} are exactly 0, and for "
        f"{both:.0%} of the pixels all of them.",
        "Where all scores of a pixel are 0 the classes stay equally likely and no gradient comes "
        "back, for good. The softmax in the loss wants linear scores: take the ReLU off the last "
        "layer (--set output_relu=False for unetslides).",
    )


def dropout_everywhere(look: Look) -> Alarm | None:
    """Dropout at most convolutions of a narrow network."""
    drops = [channels for p, channels in look.drops if p >= DROPPED and channels <= NARROW]
    if len(drops) < 4 or len(drops) < MOSTLY * look.convolutions:
        return None
    kept = math.prod(1 - p for p, _ in look.drops)
    return Alarm(
        "dropout-everywhere",
        f"Dropout follows {len(drops)} of {look.convolutions} convolutions, on layers of as few as "
        f"{min(drops)} channels; a signal gets through all of them unharmed with a chance of "
        f"{kept:.1g}.",
        "A narrow network needs the channels it has. Drop at the lowest level only, or not at all "
        "(--set dropout=0).",
    )


def first_weights(model: nn.Module) -> Alarm | None:
    """Weights in front of ReLUs that do not begin with the deviation they need.

    That is ``sqrt(2 / fan_in)`` (He, Zhang, Ren, Sun, Delving Deep into Rectifiers, 2015, equation
    10). Networks that normalise do not mind, and trained weights are left in peace: those whose
    biases differ from each other.
    """
    modules = list(model.named_modules())
    layers: list[tuple[str, Any]] = [(path, p) for path, p in modules if _before_relu(p)]
    if any(isinstance(part, nn.BatchNorm2d) for _, part in modules) or not layers:
        return None
    if any(part.bias is not None and np.ptp(part.bias.numpy()) > 0.05 for _, part in layers):
        return None
    shares = [float(np.std(part.weight.numpy())) / he_deviation(part) for _, part in layers]
    off = [share for share in shares if not OFF <= share <= 1 / OFF]
    if len(off) <= MOSTLY * len(shares) or OFF <= shares[0] <= 1 / OFF:
        return None
    path, first = layers[0]
    return Alarm(
        "first-weights",
        f"The weights of {path} begin with a deviation of {np.std(first.weight.numpy()):.3f}, "
        f"where a ReLU needs sqrt(2 / fan-in) = {he_deviation(first):.3f}; {len(off)} of "
        f"{len(shares)} layers are off by more than a quarter, down to {min(shares):.2f} of it.",
        "Signals and gradients then change in size from layer to layer. This comes of computing "
        "the deviation from the outgoing channels: `nn.init.he_normal`, which `nn.Conv2d` begins "
        "with, uses the incoming ones; so does --model unet.",
    )


def _before_relu(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return ends_in_relu(module) and weight is not None and weight.ndim > 1


def he_deviation(layer: Any) -> float:
    """What the weights of a layer in front of a ReLU should begin with."""
    fan_in, _ = nn.init.fans(layer.weight.shape)
    if isinstance(layer, nn.ConvTranspose2d):  # a result is the sum over part of the kernel
        height, width = layer.weight.shape[:2]
        stride = layer.stride if isinstance(layer.stride, tuple) else (layer.stride,) * 2
        fan_in = (
            layer.weight.shape[-1] * math.ceil(height / stride[0]) * math.ceil(width / stride[1])
        )
    return math.sqrt(2 / fan_in)


def dead_relus(looks: Sequence[Look]) -> Alarm | None:
    """Channels that are 0 at all pixels of several batches."""
    if len(looks) < RECURRING:
        return None
    each = zip(*(seen.layers for seen in looks), strict=False)
    dead = [
        (same[0].path, np.logical_and.reduce([layer.dead for layer in same]))
        for same in each
        if all(layer.relu for layer in same) and same[0].dead.size >= 4
    ]
    bad = [(path, int(d.sum()), d.size) for path, d in dead if d.mean() > MOSTLY]
    if not bad:
        return None
    path, count, of = bad[0]
    more = f" ({len(bad) - 1} more such layers)" if len(bad) > 1 else ""
    return Alarm(
        "dead-relus",
        f"{count} of the {of} channels of {path} are 0 at every pixel of {len(looks)} batches"
        f"{more}: their ReLUs are dead, and nothing that they had learned comes back.",
        "Mostly a step was too large: lower --lr to a tenth, or start with a warm-up. Batch "
        "normalisation keeps it from happening (--model unet has it).",
    )


def gradient_sizes(norms: Sequence[Mapping[str, float]]) -> Alarm | None:
    """Gradients that vanish on the way back, or explode; norms by parameter, at several steps."""
    recent = norms[-RECURRING:]
    if len(recent) < RECURRING:
        return None
    least = {
        name: max(at[name] / max(max(at.values()), 1e-30) for at in recent) for name in recent[-1]
    }
    gone = [name for name, share in least.items() if share < VANISHED]
    if gone:
        return Alarm(
            "vanishing-gradients",
            f"The gradient of {gone[0]} is {least[gone[0]]:.1g} of the largest one, at each of "
            f"{len(recent)} steps ({len(gone)} of {len(least)} weights below {VANISHED:g}): what "
            "lies that far from the loss does not learn.",
            "Saturating activations (sigmoid, tanh) and layers that are dead keep gradients back: "
            "use ReLUs, batch normalisation and skip connections (--model unet).",
        )
    sizes = [math.hypot(*at.values()) for at in recent]
    if min(sizes) > EXPLODED:
        return Alarm(
            "exploding-gradients",
            f"The gradient has a norm of {min(sizes):.3g} or more at each of {len(recent)} steps.",
            "Look whether images are normalised; clip the gradient (--clip 1) and lower --lr.",
        )
    return None


def weight_changes(ratios: Sequence[float], lr: float) -> Alarm | None:
    """Steps that are too small or too large for the weights; changes relative to these."""
    recent = ratios[-RECURRING:]
    if recent and recent[-1] > TOO_LARGE:
        return Alarm(
            "large-steps",
            f"A step changes the weights by {recent[-1]:.0%} of themselves, where 0.1 % is usual.",
            f"The learning rate of {lr:.1g} is too high: lower --lr to a hundredth.",
        )
    if len(recent) < RECURRING or max(recent) >= TOO_SMALL:
        return None
    return Alarm(
        "small-steps",
        f"A step changes the weights by {max(recent):.1g} of themselves, where 1e-3 is usual: "
        f"{0.1 / max(recent):,.0f} steps in one direction for a tenth.",
        f"The learning rate of {lr:.1g} is too low for this network, unless its weights come "
        "from another training: raise --lr a hundredfold.",
    )


def one_class(matrices: Sequence[np.ndarray], class_names: Sequence[str]) -> Alarm | None:
    """Predictions that have collapsed to one class; confusion matrices of validations."""
    recent = matrices[-RECURRING:]
    if len(recent) < RECURRING:
        return None
    for matrix in recent:
        if np.count_nonzero(matrix.sum(axis=0)) != 1 or np.count_nonzero(matrix.sum(axis=1)) < 2:
            return None
    found = int(recent[-1].sum(axis=0).argmax())
    share = recent[-1][found].sum() / recent[-1].sum()
    return Alarm(
        "one-class",
        f"Every pixel of {len(recent)} validations was predicted as {class_names[found]}, which "
        f"{share:.1%} of them are.",
        "The other classes are so rare that the loss is lowest without them: show them more often "
        "(--foreground-crops 0.5), and use a loss that looks at each class by itself (Dice, or "
        "cross-entropy with the weights that `minidl doctor` proposes).",
    )


def not_converged(
    losses: Sequence[float], constants: Sequence[float], shares: np.ndarray
) -> Alarm | None:
    """A loss that is not below that of the constant prediction of the classes' shares.

    Parameters
    ----------
    losses, constants : sequence of float
        Of the same batches, 20 or more: of the network, and of the constant prediction.
    shares : ndarray
        Of the classes, adding up to 1.
    """
    half = len(losses) // 2
    before, now = losses[:half], losses[half:]
    falling = half and np.mean(now) < FALLING * np.mean(before)
    if half < 10 or falling or np.mean(now) < 0.99 * np.mean(constants[half:]):
        return None
    return Alarm(
        "not-converged",
        f"The training loss, {np.mean(now):.3f}, hardly falls, and is not below "
        f"{np.mean(constants[half:]):.3f}, that of a prediction that is the same everywhere, the "
        f"shares of the classes (whose cross-entropy is H(q) = {constant_entropy(shares):.3f}): "
        "nothing was learned from the images yet.",
        "Look at the other alarms first. If there are none, try a learning rate ten times as high, "
        "and one ten times as low, and whether masks belong to their images (`minidl doctor`).",
    )


def non_finite(found: NonFinite, lr: float) -> Alarm:
    """Why the loss is not finite."""
    causes = {
        "images": "Replace such values in the image files, or take the files out (`minidl doctor` "
        "names them).",
        "weights": "The gradient of the step before was not finite, or the step too large: lower "
        f"--lr (it was {lr:.1g}), and clip the gradient (--clip 1).",
        "forward": f"The weights have grown too large: lower --lr (it was {lr:.1g}), clip the "
        "gradient (--clip 1), and look for images of extreme values.",
        "loss": "The scores are finite, the loss is not: look at the weights of classes and pixels "
        "that it is given.",
        "backward": "Results are finite, gradients are not: a division by 0, or the root or the "
        "logarithm of one. Add a small number there.",
    }
    place = {
        "images": "in the images",
        "weights": f"in the weights, first in {found.path}",
        "forward": f"first in the forward pass of layer {found.path}",
        "loss": "first in the loss itself",
        "backward": f"first in the backward pass of layer {found.path}",
    }[found.where]
    return Alarm(
        "non-finite", f"Numbers are not finite {place}: {found.words}.", causes[found.where]
    )
