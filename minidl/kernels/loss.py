"""Losses over the softmax of each pixel, with their gradients in the same pass.

Arrays are flat: logits (M, K) for M pixels and K classes, labels (M,) int64. Tasks are blocks of
`BLOCK` pixels. What is summed is summed in float64, within a block from front to back and then
over the blocks, whoever computed them.
"""

from typing import NamedTuple

import numpy as np

from minidl.kernels import parallel
from minidl.kernels.jit import kernel

BLOCK = 1024  # pixels


@kernel
def _survey(start, stop, labels, class_weight, ignore_index, weights, counts, wrong):
    """For each block: sum of the weights of its labels, how many count, and a wrong one or -1."""
    for task in range(start, stop):
        weight, count, first = 0.0, 0, -1
        for p in range(task * BLOCK, min((task + 1) * BLOCK, len(labels))):
            label = labels[p]
            if label == ignore_index:
                continue
            if 0 <= label < len(class_weight):
                weight += class_weight[label]
                count += 1
            elif first < 0:
                first = p
        weights[task], counts[task], wrong[task] = weight, count, first


@kernel
def _exponentials(logits, p, row, rows):
    """Highest logit of pixel p, and the sum over its classes of ``exp(logit - highest)``.

    Each exponential is also written to ``rows[row]``, unless `rows` is empty.
    """
    classes = logits.shape[1]
    highest = logits[p, 0]
    for c in range(1, classes):
        highest = logits[p, c] if logits[p, c] > highest else highest
    total = 0.0
    for c in range(classes):
        e = np.exp(logits[p, c] - highest)
        total += e
        if len(rows):
            rows[row, c] = e
    return highest, total


@kernel
def _labelled(
    start, stop, logits, labels, class_weight, pixel_weight, ignore_index, smoothing, gamma,
    losses, gradient, sums,
):  # fmt: skip
    """Cross-entropy with labels, or focal loss where gamma > 0. See `labelled`.

    Overwrites losses (M,) and gradient (M, K), which may be empty, and sums (tasks,).
    """
    classes = logits.shape[1]
    all_weights = class_weight.sum()
    share = smoothing / classes
    for task in range(start, stop):
        block = 0.0
        for p in range(task * BLOCK, min((task + 1) * BLOCK, len(labels))):
            label = labels[p]
            if label == ignore_index:
                if len(losses):
                    losses[p] = 0
                if len(gradient):
                    for c in range(classes):
                        gradient[p, c] = 0
                continue
            highest, total = _exponentials(logits, p, p, gradient)
            log_total = np.log(total)
            surprise = log_total - (logits[p, label] - highest)  # -log of the probability
            factor = pixel_weight[p] if len(pixel_weight) else 1.0
            weight = factor * (1 - smoothing) * class_weight[label]
            value, slope = weight * surprise, weight
            if gamma > 0:
                miss = -np.expm1(-surprise)  # 1 - probability
                hard = miss**gamma
                value = weight * hard * surprise
                # The derivative of miss**gamma tends to 0 together with the surprise.
                pull = gamma * hard / miss * (1 - miss) * surprise if miss > 0 else 0.0
                slope = weight * (hard + pull)
            if share > 0:
                for c in range(classes):
                    away = log_total - (logits[p, c] - highest)
                    value += factor * share * class_weight[c] * away
            block += value
            if len(losses):
                losses[p] = value
            if len(gradient):
                scale = (slope + factor * share * all_weights) / total
                for c in range(classes):
                    wanted = factor * share * class_weight[c]
                    if c == label:
                        wanted += slope
                    gradient[p, c] = gradient[p, c] * scale - wanted
        sums[task] = block


@kernel
def _blended(
    start, stop, logits, target, class_weight, pixel_weight, smoothing, losses, gradient, sums
):
    """Cross-entropy with a probability for each class. See `blended`.

    Overwrites losses (M,) and gradient (M, K), which may be empty, and sums (tasks,).
    """
    pixels, classes = logits.shape
    share = smoothing / classes
    for task in range(start, stop):
        block = 0.0
        for p in range(task * BLOCK, min((task + 1) * BLOCK, pixels)):
            highest, total = _exponentials(logits, p, p, gradient)
            log_total = np.log(total)
            factor = pixel_weight[p] if len(pixel_weight) else 1.0
            value, mass = 0.0, 0.0
            for c in range(classes):
                wanted = class_weight[c] * (target[p, c] * (1 - smoothing) + share)
                mass += wanted
                value += wanted * (log_total - (logits[p, c] - highest))
            block += factor * value
            if len(losses):
                losses[p] = factor * value
            if len(gradient):
                scale = factor * mass / total
                for c in range(classes):
                    wanted = class_weight[c] * (target[p, c] * (1 - smoothing) + share)
                    gradient[p, c] = gradient[p, c] * scale - factor * wanted
        sums[task] = block


@kernel
def _overlaps(start, stop, logits, labels, ignore_index, blocks, probabilities, sums):
    """Tasks are `blocks` blocks of each image. See `overlaps`.

    Overwrites probabilities (N, M, K) and sums (N * blocks, 3, K).
    """
    _, pixels, classes = logits.shape
    for task in range(start, stop):
        n, first = task // blocks, task % blocks * BLOCK
        for i in range(3):
            for c in range(classes):
                sums[task, i, c] = 0
        for p in range(first, min(first + BLOCK, pixels)):
            label = labels[n, p]
            _, total = _exponentials(logits[n], p, p, probabilities[n])
            for c in range(classes):
                probabilities[n, p, c] = probabilities[n, p, c] / total
                if label != ignore_index:
                    sums[task, 1, c] += probabilities[n, p, c]
            if label != ignore_index:
                sums[task, 0, label] += probabilities[n, p, label]
                sums[task, 2, label] += 1


@kernel
def _overlaps_grad(
    start, stop, probabilities, labels, ignore_index, blocks, hit_slope, all_slope, gradient
):
    """Tasks as in `_overlaps`; overwrites gradient (N, M, K)."""
    _, pixels, classes = probabilities.shape
    for task in range(start, stop):
        n, first = task // blocks, task % blocks * BLOCK
        for p in range(first, min(first + BLOCK, pixels)):
            label = labels[n, p]
            mean = 0.0
            if label != ignore_index:
                mean = probabilities[n, p, label] * hit_slope[n, label]
                for c in range(classes):
                    mean += probabilities[n, p, c] * all_slope[n, c]
            for c in range(classes):
                slope = 0.0
                if label != ignore_index:
                    slope = all_slope[n, c] - mean
                    if c == label:
                        slope += hit_slope[n, c]
                gradient[n, p, c] = probabilities[n, p, c] * slope


class Survey(NamedTuple):
    """What the labels of a batch come to."""

    weight: float  # sum of the class weights of all labels that count
    pixels: int  # labels that are not ignored
    wrong: int  # position of the first label that is no class, or -1


def survey(labels: np.ndarray, class_weight: np.ndarray, ignore_index: int) -> Survey:
    """Add up the weights of `labels`, (M,) int64, and look for one that is no class."""
    tasks = -(-labels.size // BLOCK)
    weights, counts = np.empty(tasks), np.empty(tasks, np.int64)
    wrong = np.empty(tasks, np.int64)
    parallel.run(
        _survey, tasks, labels.size, labels, class_weight, ignore_index, weights, counts, wrong
    )
    first = wrong[wrong >= 0]
    return Survey(weights.sum(), int(counts.sum()), int(first[0]) if first.size else -1)


def _outputs(logits: np.ndarray, each: bool, slopes: bool) -> tuple[np.ndarray, ...]:
    """Arrays for losses, gradient and sums; what nobody asked for has no elements."""
    pixels, classes = logits.shape
    return (
        np.empty(pixels if each else 0, logits.dtype),
        np.empty((pixels if slopes else 0, classes), logits.dtype),
        np.empty(-(-pixels // BLOCK)),
    )


def labelled(
    logits: np.ndarray,
    labels: np.ndarray,
    class_weight: np.ndarray,
    pixel_weight: np.ndarray,
    ignore_index: int,
    smoothing: float,
    gamma: float,
    each: bool,
    slopes: bool,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cross-entropy or focal loss of M pixels with one label each.

    Parameters
    ----------
    logits : (M, K) array
    labels : (M,) int64 array, each `ignore_index` or a class
    class_weight : (K,) float64 array
    pixel_weight : (M,) float64 array, or empty for ones
    smoothing : float
        Share of the label that is spread over all classes.
    gamma : float
        Exponent of the focal loss; 0 for plain cross-entropy.
    each, slopes : bool
        Whether the loss of each pixel, and the gradient of their sum, are wanted.

    Returns
    -------
    losses (M,) and gradient (M, K), empty where not wanted, and the sum of all losses.
    """
    outputs = _outputs(logits, each, slopes)
    parallel.run(
        _labelled, len(outputs[-1]), logits.size * 10.0,
        np.ascontiguousarray(logits), labels, class_weight, pixel_weight, ignore_index,
        float(smoothing), float(gamma), *outputs,
    )  # fmt: skip
    return outputs[0], outputs[1], outputs[2].sum()


def blended(
    logits: np.ndarray,
    target: np.ndarray,
    class_weight: np.ndarray,
    pixel_weight: np.ndarray,
    smoothing: float,
    each: bool,
    slopes: bool,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cross-entropy of M pixels with probabilities (M, K) of their classes; else as `labelled`."""
    outputs = _outputs(logits, each, slopes)
    parallel.run(
        _blended, len(outputs[-1]), logits.size * 12.0,
        np.ascontiguousarray(logits), np.ascontiguousarray(target), class_weight, pixel_weight,
        float(smoothing), *outputs,
    )  # fmt: skip
    return outputs[0], outputs[1], outputs[2].sum()


def overlaps(
    logits: np.ndarray, labels: np.ndarray, ignore_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax of each pixel, and what the overlap of prediction and labels is made of.

    Parameters
    ----------
    logits : (N, M, K) array
    labels : (N, M) int64 array, each `ignore_index` or a class

    Returns
    -------
    probabilities : (N, M, K) array
    sums : (N, 3, K) float64 array
        For each image and class, over the pixels that are not ignored: probability on pixels of
        the class, probability on all pixels, number of pixels of the class.
    """
    images, pixels, classes = logits.shape
    blocks = -(-pixels // BLOCK)
    probabilities = np.empty(logits.shape, logits.dtype)
    sums = np.empty((images * blocks, 3, classes))
    parallel.run(
        _overlaps, images * blocks, logits.size * 10.0,
        np.ascontiguousarray(logits), labels, ignore_index, blocks, probabilities, sums,
    )  # fmt: skip
    return probabilities, sums.reshape(images, blocks, 3, classes).sum(axis=1)


def overlaps_grad(
    probabilities: np.ndarray,
    labels: np.ndarray,
    ignore_index: int,
    hit_slope: np.ndarray,
    all_slope: np.ndarray,
) -> np.ndarray:
    """Gradient of the logits of `overlaps`, given those of the first two of its sums, (N, K)."""
    images, pixels, _ = probabilities.shape
    blocks = -(-pixels // BLOCK)
    gradient = np.empty_like(probabilities)
    parallel.run(
        _overlaps_grad, images * blocks, probabilities.size * 3.0,
        probabilities, labels, ignore_index, blocks, hit_slope, all_slope, gradient,
    )  # fmt: skip
    return gradient
