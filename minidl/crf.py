r"""The fully connected CRF: labels that follow the edges of the image.

A network's scores are blurred, because it has pooled. This turns them into probabilities that agree
between pixels which are close to each other and look alike, whatever their distance in the image
(Kraehenbuehl, Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials,
NIPS 2011), as DeepLab does after its network (Chen et al. 2015 and 2018)::

    probabilities = F.softmax(model(images)).numpy()[0]  # (H, W, C), at the size of the image
    classes = crf.dense_crf(probabilities, image).argmax(axis=-1)

**Energy.** A labelling x of all pixels has

    E(x) = sum_i psi_i(x_i) + sum_{i<j} sum_m mu_m(x_i, x_j) k_m(f_i, f_j)

with unary energies ``psi_i(l) = -ln p_i(l)``, and in each pairwise term m a Gaussian of features,

    k(f_i, f_j) = exp(-|p_i - p_j|^2 / (2 sxy^2))                                    `Gaussian`
    k(f_i, f_j) = exp(-|p_i - p_j|^2 / (2 sxy^2) - |I_i - I_j|^2 / (2 srgb^2))       `Bilateral`

of positions p in pixels and colours I from 0 to 255, and a compatibility mu of labels: for a number
w, Potts' ``mu(l, l') = w [l != l']``.

**Mean field.** The distribution ``exp(-E) / Z`` is approximated by a product of Q_i, from
``Q_i = softmax(-psi_i)`` on by as many parallel steps as there are iterations (algorithm 1),

    Q_i(l) <- softmax over l of (-psi_i(l) - sum_m sum_l' mu_m(l, l') sum_j K_m[i, j] Q_j(l'))

For Potts, ``-mu Q`` is ``+w Q`` up to a number that is the same for all labels of a pixel.

**Normalisation.** The sum of k over all pixels depends on the image: the same weight would mean
little at a rare colour and everything in a wide sky. With ``n_i = 1 / sum_j k(f_i, f_j)``, K is::

    'symmetric'   sqrt(n_i) k(f_i, f_j) sqrt(n_j)
    'before'      k(f_i, f_j) n_j
    'after'       n_i k(f_i, f_j)        a mean over pixels, which preserves constants
    None          k(f_i, f_j) times the gain of the lattice: 0.9 in 2 dimensions; in 5 about 0.6,
                  less for pixels unlike all others

**The term j = i.** In the paper's equations a pixel sends no message to itself. The program of its
authors, by which DeepLab's weights were found, keeps that message, and so do we: weights then mean
what they mean elsewhere. A pixel trusts itself a little more, mostly where few others are like it.
Nor is it easily taken away: on the lattice it is not ``k(f_i, f_i) = 1`` but some smaller number,
another one for each pixel.

Sums over all pixels are taken on a permutohedral lattice, in time proportional to their number, see
`minidl.kernels.lattice`: means of numbers in [0, 1] are at most a few hundredths off.
Results are the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from minidl import kernels

__all__ = [
    "Bilateral",
    "DenseCRF",
    "Gaussian",
    "dense_crf",
    "mean_field",
    "unary_from_labels",
    "unary_from_probabilities",
]

Normalization = Literal["symmetric", "before", "after"] | None
FARTHEST = 1e7  # standard deviations, that two pixels may be apart
MOST_CORNERS = 2**31  # of all pixels in a lattice


@dataclass(frozen=True)
class Gaussian:
    """Pixels that are close agree: smooths, removes specks.

    Parameters
    ----------
    sxy : float, or two of them for x and y
        Standard deviation in pixels; DeepLab's theta_gamma.
    compat : float, (C,) or (C, C) array_like
        A number w: Potts, pixels with different labels cost w. A number for each label: pixels that
        agree about label l gain ``compat[l]``. A symmetric matrix: a pixel of label l and one of
        l' cost ``compat[l, l']``.
    """

    sxy: Any = 1.0
    compat: Any = 3.0

    def features(self, image: np.ndarray) -> np.ndarray:
        """Features of each pixel of an image (H, W, K), in standard deviations: (H, W, D)."""
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        return np.stack([x, y], axis=-1) / _deviations(self, "sxy", 2)


@dataclass(frozen=True)
class Bilateral:
    """Pixels that are close and look alike agree: moves borders to edges of the image.

    Parameters
    ----------
    sxy : float, or two of them for x and y
        Standard deviation in pixels; DeepLab's theta_alpha.
    srgb : float, or one for each channel
        Standard deviation of colours, which range from 0 to 255; DeepLab's theta_beta.
    compat : float, (C,) or (C, C) array_like
        See `Gaussian`.
    """

    sxy: Any = 67.0
    srgb: Any = 3.0
    compat: Any = 4.0

    def features(self, image: np.ndarray) -> np.ndarray:
        """Features of each pixel of an image (H, W, K), in standard deviations: (H, W, 2 + K)."""
        colours = image / _deviations(self, "srgb", image.shape[-1])
        return np.concatenate([Gaussian(self.sxy).features(image), colours], axis=-1)


Term = Gaussian | Bilateral


def _deviations(term: Term, name: str, count: int) -> np.ndarray:
    """`count` standard deviations from one or from as many."""
    value = getattr(term, name)
    try:
        numbers = np.broadcast_to(np.asarray(value, np.float64), (count,))
    except (TypeError, ValueError):
        numbers = np.zeros(count)
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise ValueError(
            f"{type(term).__name__}: {name} must be a positive number or {count} of them, but is "
            f"{value!r}."
        )
    return numbers


def _compatibility(term: Term, labels: int) -> np.ndarray:
    """The array `compat` of a term, of a shape that fits the number of labels."""
    name = type(term).__name__
    compat = np.asarray(term.compat, np.float32)
    if compat.shape not in ((), (labels,), (labels, labels)):
        raise ValueError(
            f"{name}: compat must be a number, or have shape ({labels},) or ({labels}, {labels}) "
            f"for {labels} labels, but has shape {compat.shape}."
        )
    if not np.isfinite(compat).all():
        raise ValueError(f"{name}: compat must be finite, but is {term.compat!r}.")
    if compat.ndim == 2 and not np.array_equal(compat, compat.T):
        raise ValueError(
            f"{name}: compat must be symmetric, because pairs of pixels have no order. Pass "
            "(compat + compat.T) / 2."
        )
    return compat


class _Message:
    """What a term adds to the logits of every pixel: ``-sum over l' of mu(l, l') (K Q)(l')``."""

    def __init__(self, term: Term, image: np.ndarray, labels: int, mode: Normalization) -> None:
        self.compat = _compatibility(term, labels)
        features = term.features(image)
        points = features.reshape(-1, features.shape[-1])
        _check_points(term, points)
        self.lattice = kernels.lattice.Lattice(points)
        weight = self.compat if self.compat.ndim == 0 else 1
        if mode is None:
            self.lattice.scale(1, weight)
        else:
            sums = self.lattice.filter(np.ones((len(points), 1), np.float32))
            before, after = {
                "symmetric": (sums**-0.5, sums**-0.5),
                "before": (1 / sums, 1),
                "after": (1, 1 / sums),
            }[mode]
            self.lattice.scale(before, after * weight)

    def add(self, q: np.ndarray, to: np.ndarray | None) -> np.ndarray:
        """Add the message to an array like `q`, (N, C), or to zeros."""
        # The filter works on pixels, the compatibility on labels: their order does not matter.
        if self.compat.ndim == 1:
            q = q * self.compat
        elif self.compat.ndim == 2:
            q = q @ -self.compat
        return self.lattice.filter(q, to)


def _check_points(term: Term, points: np.ndarray) -> None:
    if np.abs(points).max() > FARTHEST:
        raise ValueError(
            f"{term!r} is too narrow for this image: pixels are more than {FARTHEST:.0e} standard "
            "deviations apart. Take larger ones, or leave the term out."
        )
    if len(points) * (points.shape[1] + 1) >= MOST_CORNERS:
        raise ValueError(
            f"{type(term).__name__}: an image of {len(points)} pixels is too large. Cut it up."
        )


class DenseCRF:
    """A fully connected CRF, applied by calling it: ``DenseCRF()(unary, image)``.

    Parameters
    ----------
    terms : sequence of `Gaussian` and `Bilateral`
        Pairwise terms; those of DeepLab v2 on PASCAL VOC by default.
    iterations : int, at least 0
        Steps of mean field. They need not converge: 5 to 10 are usual.
    normalization : 'symmetric', 'before', 'after' or None
        See the head of this module.
    """

    def __init__(
        self,
        terms: Sequence[Term] = (Gaussian(), Bilateral()),
        iterations: int = 10,
        normalization: Normalization = "symmetric",
    ) -> None:
        self.terms = (terms,) if isinstance(terms, Term) else tuple(terms)
        for term in self.terms:
            if not isinstance(term, Term):
                raise TypeError(
                    f"DenseCRF: terms must be Gaussian or Bilateral, but one is {term!r}."
                )
        if normalization not in ("symmetric", "before", "after", None):
            raise ValueError(
                "DenseCRF: normalization must be 'symmetric', 'before', 'after' or None, but is "
                f"{normalization!r}."
            )
        self.iterations = _checked_iterations("DenseCRF", iterations)
        self.normalization: Normalization = normalization

    def __repr__(self) -> str:
        return (
            f"DenseCRF({list(self.terms)!r}, iterations={self.iterations}, "
            f"normalization={self.normalization!r})"
        )

    def __call__(self, unary: Any, image: Any = None) -> np.ndarray:
        """Probabilities of the labels of each pixel.

        Parameters
        ----------
        unary : (H, W, C) array_like, floating
            Energies ``-ln p``, zero or more; see `unary_from_probabilities`. Logits are something
            else.
        image : (H, W), (H, W, 1) or (H, W, 3) array_like, 0 to 255
            Of the size of `unary`. Without a `Bilateral` term it may be left out.

        Returns
        -------
        (H, W, C) ndarray, float32
            They sum to 1 over labels. Their argmax is the segmentation.

        Raises
        ------
        TypeError
            If `unary` is not floating, or `image` is not numeric.
        ValueError
            If a shape, a range or a compatibility does not fit, or numbers are not finite.
        """
        unary = _checked_unary(unary)
        if image is None:
            if any(isinstance(term, Bilateral) for term in self.terms):
                raise ValueError("DenseCRF: a Bilateral term needs the image, but image is None.")
            image = np.zeros((*unary.shape[:2], 1), np.float32)
        else:
            image = _checked_image(image, unary.shape)
        labels = unary.shape[-1]
        messages = [_Message(term, image, labels, self.normalization) for term in self.terms]

        def message(q: np.ndarray) -> np.ndarray:
            total = None
            for part in messages:
                total = part.add(q, total)
            return np.zeros_like(q) if total is None else total

        return mean_field(unary.reshape(-1, labels), message, self.iterations).reshape(unary.shape)


def mean_field(
    unary: np.ndarray, message: Callable[[np.ndarray], np.ndarray], iterations: int
) -> np.ndarray:
    """Mean-field inference: ``q = softmax(message(q) - unary)``, again and again.

    Parameters
    ----------
    unary : (..., C) ndarray, float32 or float64
        Energies of the labels of each pixel.
    message : callable
        Takes q, like `unary`, and returns what all pixels' q add to the logits of each,
        ``-sum over l' of mu(l, l') (K q)(l')``: an array like `unary`.
    iterations : int, at least 0

    Returns
    -------
    (..., C) ndarray
        Probabilities, in the dtype of `unary`.
    """
    _checked_iterations("mean_field", iterations)
    logits = -unary
    q = kernels.softmax.softmax(logits, log=False)
    for _ in range(iterations):
        q = kernels.softmax.softmax(kernels.elementwise.add(message(q), logits), log=False)
    return q


def dense_crf(
    probabilities: Any,
    image: Any,
    w1: float = 4.0,
    theta_alpha: float = 67.0,
    theta_beta: float = 3.0,
    w2: float = 3.0,
    theta_gamma: float = 1.0,
    iterations: int = 10,
    normalization: Normalization = "symmetric",
) -> np.ndarray:
    """Make probabilities of labels agree with the edges of an image, in DeepLab's notation.

    ``k = w1 exp(-|p_i - p_j|^2 / (2 theta_alpha^2) - |I_i - I_j|^2 / (2 theta_beta^2))
    + w2 exp(-|p_i - p_j|^2 / (2 theta_gamma^2))`` with Potts' compatibility. The defaults are those
    found for DeepLab v2 with ResNet-101 on PASCAL VOC, where objects are large; small ones vanish
    when weights or widths are too large. `DenseCRF` has more to choose from.

    Parameters
    ----------
    probabilities : (H, W, C) array_like, floating
        From 0 to 1, of the size of the image, summing to 1 over labels: a softmax.
    image : (H, W), (H, W, 1) or (H, W, 3) array_like, 0 to 255
    w1, theta_alpha, theta_beta : float
        Weight of the appearance term, its width in pixels and in colours; weight 0 leaves it out.
    w2, theta_gamma : float
        Weight of the smoothness term and its width in pixels; weight 0 leaves it out.
    iterations : int, at least 0
    normalization : 'symmetric', 'before', 'after' or None
        See the head of this module.

    Returns
    -------
    (H, W, C) ndarray, float32
        Probabilities. Their argmax is the segmentation.

    Raises
    ------
    TypeError, ValueError
        As `DenseCRF` and `unary_from_probabilities` do.
    """
    appearance = Bilateral(theta_alpha, theta_beta, w1)
    terms = [term for term in (Gaussian(theta_gamma, w2), appearance) if np.any(term.compat)]
    crf = DenseCRF(terms, iterations, normalization)
    return crf(unary_from_probabilities(probabilities), image)


def unary_from_probabilities(probabilities: Any, clip: float = 1e-5) -> np.ndarray:
    """Unary energies ``-ln max(p, clip)``.

    Parameters
    ----------
    probabilities : (H, W, C) array_like, floating
        From 0 to 1, summing to 1 over labels: a softmax.
    clip : float, above 0, at most 1
        Smaller probabilities count as this one, so that no label is out of the question.

    Returns
    -------
    (H, W, C) ndarray, float32

    Raises
    ------
    TypeError
        If they are not floating.
    ValueError
        If they are not probabilities, for example logits.
    """
    name = "unary_from_probabilities: probabilities"
    p = _checked_scores(name, probabilities)
    if not 0 < clip <= 1:
        raise ValueError(f"unary_from_probabilities: clip must be in (0, 1], but is {clip!r}.")
    sums = p.sum(axis=-1)
    if p.min() < -1e-3 or abs(sums - 1).max() > 1e-2:
        raise ValueError(
            f"{name} must be >= 0 and sum to 1 over labels, but range from {p.min():.3g} to "
            f"{p.max():.3g} with sums from {sums.min():.3g} to {sums.max():.3g}. Take the softmax "
            "of logits first."
        )
    return -np.log(np.clip(p, np.float32(clip), np.float32(1)))


def unary_from_labels(
    labels: Any, num_classes: int, gt_prob: float = 0.7, ignore_index: int = -100
) -> np.ndarray:
    """Unary energies from a labelling that is right with some probability.

    Its label has ``-ln gt_prob``, each of the others ``-ln((1 - gt_prob) / (num_classes - 1))``.

    Parameters
    ----------
    labels : (H, W) array_like, integer
        Classes 0 .. num_classes - 1, or `ignore_index`.
    num_classes : int, at least 1
    gt_prob : float, between 0 and 1 exclusive
    ignore_index : int
        Pixels with this label are undecided: all classes have ``-ln(1 / num_classes)``.

    Returns
    -------
    (H, W, num_classes) ndarray, float32

    Raises
    ------
    TypeError
        If the labels are not integer.
    ValueError
        If one is out of range, or a number does not fit.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iub":
        raise TypeError(
            f"unary_from_labels: labels must be integer, but have dtype {labels.dtype}. Take the "
            "argmax of scores first."
        )
    if labels.ndim != 2:
        raise ValueError(
            f"unary_from_labels: labels must have shape (H, W), but have shape {labels.shape}."
        )
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(
            f"unary_from_labels: num_classes must be an integer >= 1, but is {num_classes!r}."
        )
    if not 0 < gt_prob < 1:
        raise ValueError(f"unary_from_labels: gt_prob must be between 0 and 1, but is {gt_prob!r}.")
    unsure = labels == ignore_index
    wrong = labels[~unsure & ((labels < 0) | (labels >= num_classes))]
    if wrong.size:
        raise ValueError(
            f"unary_from_labels: labels must be in 0..{num_classes - 1} or {ignore_index}, but one "
            f"is {wrong[0]}."
        )
    one_hot = labels[..., None] == np.arange(num_classes)
    p = np.where(one_hot, gt_prob, (1 - gt_prob) / max(1, num_classes - 1))
    p[unsure] = 1 / num_classes
    return -np.log(p).astype(np.float32)


# ---- checks --------------------------------------------------------------------------------


def _checked_iterations(function: str, iterations: Any) -> int:
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"{function}: iterations must be an integer >= 0, but is {iterations!r}.")
    return iterations


def _checked_scores(name: str, scores: Any) -> np.ndarray:
    """Finite float32 of shape (H, W, C), none of them zero."""
    scores = np.asarray(scores)
    if scores.dtype.kind != "f":
        raise TypeError(f"{name} must be floating, but has dtype {scores.dtype}.")
    if scores.ndim != 3 or not scores.size:
        raise ValueError(
            f"{name} must have shape (H, W, C), none of them 0, but has shape {scores.shape}. "
            "Labels are the last axis, and images go one by one."
        )
    with np.errstate(over="ignore"):
        scores = np.ascontiguousarray(scores, np.float32)
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} must be finite in float32, but has NaN or infinite numbers.")
    return scores


def _checked_unary(unary: Any) -> np.ndarray:
    unary = _checked_scores("DenseCRF: unary", unary)
    if unary.min() < -1e-3:
        raise ValueError(
            f"DenseCRF: unary energies are -ln p, at least 0, but one is {unary.min():.4g}. Pass "
            "unary_from_probabilities(p) with the softmax p of logits, or subtract the smallest "
            "energy."
        )
    return unary


def _checked_image(image: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An image as (H, W, 1 | 3), with numbers from 0 to 255."""
    image = np.asarray(image)
    if image.dtype.kind not in "iuf":
        raise TypeError(f"DenseCRF: image must be numeric, but has dtype {image.dtype}.")
    given = image.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[:2] != shape[:2] or image.shape[2] not in (1, 3):
        h, w = shape[:2]
        raise ValueError(
            f"DenseCRF: image must have shape ({h}, {w}), ({h}, {w}, 1) or ({h}, {w}, 3), because "
            f"unary has shape {shape}, but has shape {given}. Bring scores to the size of the "
            "image first (F.interpolate)."
        )
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"DenseCRF: image must be finite and range from 0 to 255, but ranges from {low} to "
            f"{high}. Rescale it."
        )
    if image.dtype.kind == "f" and 0 < high <= 1:
        raise ValueError(
            f"DenseCRF: image must range from 0 to 255, but its largest number is {high:.3g}, as "
            "if it were scaled to 0..1. Multiply it by 255."
        )
    return image
