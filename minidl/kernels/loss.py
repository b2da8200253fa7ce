"""Losses over the softmax of each pixel, with their gradients in the same pass.

Arrays are flat: logits (M, K) for M pixels and K classes, labels (M,) int64. Tasks are blocks of
`BLOCK` pixels. What is summed is summed in float64, within a block from front to back and then
over the blocks, whoever computed them.

There may be as few as two classes, so the vector does not run over them but over pixels: `PIXELS`
at a time are turned into a row for each class, and their gradient is turned back.
"""

from typing import NamedTuple

import numpy as np

from minidl.kernels import memory, parallel, simd
from minidl.kernels.exponential import exp, log
from minidl.kernels.jit import kernel

BLOCK = 1024  # pixels
PIXELS = 128  # divides the block; tens of classes of so many fit into the first-level cache


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
def _turn(logits, first, count, rows):
    """``rows[c, i] = logits[first + i, c]`` for i < count: squares, then what they leave."""
    classes, lanes = logits.shape[1], simd.lanes(logits)
    flat, out = logits[first : first + count].reshape(count * classes), rows.reshape(rows.size)
    squares, pixels = classes - classes % lanes, count - count % lanes
    for c in range(0, squares, lanes):
        for i in range(0, pixels, lanes):
            simd.transpose(flat, i * classes + c, classes, out, c * PIXELS + i, PIXELS)
    for c in range(classes):
        done = pixels if c < squares else 0
        row, rest = rows[c, done:count], flat[done * classes :]
        for i in range(row.size):
            row[i] = rest[i * classes + c]


@kernel
def _turn_back(rows, first, count, out):
    """``out[first + i, c] = rows[c, i]`` for i < count, as `_turn` does it."""
    classes, lanes = out.shape[1], simd.lanes(out)
    source, flat = rows.reshape(rows.size), out[first : first + count].reshape(count * classes)
    squares, pixels = classes - classes % lanes, count - count % lanes
    for i in range(0, pixels, lanes):
        for c in range(0, squares, lanes):
            simd.transpose(source, c * PIXELS + i, PIXELS, flat, i * classes + c, classes)
    for c in range(classes):
        done = pixels if c < squares else 0
        row, rest = rows[c, done:count], flat[done * classes :]
        for i in range(row.size):
            rest[i * classes + c] = row[i]


@kernel
def _exponentials(logits, first, count, rows, highest, total):
    """For `count` pixels from `first` on, the exponentials ``rows[c, i] = exp(logit - highest)``.

    Overwrites rows (K, PIXELS), highest (PIXELS,) and the sums total (PIXELS,). These are in
    float64: beside the 1 of the highest, the others may be very small.
    """
    _turn(logits, first, count, rows)
    highest[:] = rows[0]
    total[:] = 0
    for c in range(1, len(rows)):
        row = rows[c]
        for i in range(count):
            highest[i] = row[i] if row[i] > highest[i] else highest[i]
    for c in range(len(rows)):
        row = rows[c]
        for i in range(count):
            row[i] = exp(row[i] - highest[i])
            total[i] += row[i]


@kernel
def _labelled(
    start, stop, logits, labels, class_weight, pixel_weight, ignore_index, smoothing, gamma, share,
    losses, gradient, sums,
):  # fmt: skip
    """Cross-entropy with labels, or focal loss where gamma > 0. See `labelled`.

    Overwrites losses (M,) and gradient (M, K), which may be empty, and sums (tasks,).
    """
    classes = logits.shape[1]
    rows = np.empty((classes, PIXELS), logits.dtype)
    highest, scale = np.empty(PIXELS, logits.dtype), np.empty(PIXELS, logits.dtype)
    total, log_total, at_label = np.empty(PIXELS), np.empty(PIXELS), np.empty(PIXELS)
    sharp, even = 1 - smoothing, smoothing / classes  # of a target
    all_weights = class_weight.sum()
    for task in range(start, stop):
        block = 0.0
        for first in range(task * BLOCK, min((task + 1) * BLOCK, len(labels)), PIXELS):
            count = min(PIXELS, len(labels) - first)
            _exponentials(logits, first, count, rows, highest, total)
            for i in range(count):
                log_total[i] = log(total[i])
                total[i] = share / total[i]
            for i in range(count):
                p = first + i
                label = labels[p]
                if label == ignore_index:
                    if len(losses):
                        losses[p] = 0
                    continue
                surprise = log_total[i] - (logits[p, label] - highest[i])  # -log(probability)
                factor = pixel_weight[p] if len(pixel_weight) else 1.0
                weight = factor * sharp * class_weight[label]
                value, slope = weight * surprise, weight
                if gamma > 0:
                    miss = -np.expm1(-surprise)  # 1 - probability
                    hard = miss**gamma
                    value = weight * hard * surprise
                    # The derivative of miss**gamma tends to 0 together with the surprise.
                    pull = gamma * hard / miss * (1 - miss) * surprise if miss > 0 else 0.0
                    slope = weight * (hard + pull)
                if even > 0:
                    for c in range(classes):
                        away = log_total[i] - (logits[p, c] - highest[i])
                        value += factor * even * class_weight[c] * away
                block += value
                if len(losses):
                    losses[p] = value
                each = (slope + factor * even * all_weights) * total[i]
                scale[i] = each
                # Here the difference may be small: it is taken in double precision.
                at_label[i] = rows[label, i] * each - share * slope
            if not len(gradient):
                continue
            for c in range(classes):
                row = rows[c]
                for i in range(count):
                    row[i] = row[i] * scale[i]
            _turn_back(rows, first, count, gradient)
            for i in range(count):
                p = first + i
                label = labels[p]
                if label == ignore_index:
                    gradient[p] = 0
                    continue
                gradient[p, label] = at_label[i]
                if even > 0:
                    factor = pixel_weight[p] if len(pixel_weight) else 1.0
                    for c in range(classes):
                        gradient[p, c] -= share * factor * even * class_weight[c]
        sums[task] = block


@kernel
def _blended(
    start, stop, logits, target, class_weight, pixel_weight, smoothing, share, losses, gradient,
    sums,
):  # fmt: skip
    """Cross-entropy with a probability for each class. See `blended`.

    Overwrites losses (M,) and gradient (M, K), which may be empty, and sums (tasks,).
    """
    pixels, classes = logits.shape
    rows, highest = np.empty((classes, PIXELS), logits.dtype), np.empty(PIXELS, logits.dtype)
    total = np.empty(PIXELS)
    sharp, even = 1 - smoothing, smoothing / classes  # of a target
    for task in range(start, stop):
        block = 0.0
        for first in range(task * BLOCK, min((task + 1) * BLOCK, pixels), PIXELS):
            count = min(PIXELS, pixels - first)
            _exponentials(logits, first, count, rows, highest, total)
            for i in range(count):
                p = first + i
                log_total = log(total[i])
                factor = pixel_weight[p] if len(pixel_weight) else 1.0
                value, mass = 0.0, 0.0
                for c in range(classes):
                    wanted = class_weight[c] * (target[p, c] * sharp + even)
                    mass += wanted
                    value += wanted * (log_total - (logits[p, c] - highest[i]))
                block += factor * value
                if len(losses):
                    losses[p] = factor * value
                if len(gradient):
                    scale = mass / total[i]
                    for c in range(classes):
                        wanted = class_weight[c] * (target[p, c] * sharp + even)
                        gradient[p, c] = share * factor * (rows[c, i] * scale - wanted)
        sums[task] = block


@kernel
def _expected(start, stop, logits, costs, pixel_weight, share, losses, gradient, sums):
    """Expected cost of a class drawn from the softmax of each pixel. See `expected`.

    Overwrites losses (M,) and gradient (M, K), which may be empty, and sums (tasks,).
    """
    pixels, classes = logits.shape
    rows, price = (
        np.empty((classes, PIXELS), logits.dtype),
        np.empty((classes, PIXELS), costs.dtype),
    )
    highest, scale = np.empty(PIXELS, logits.dtype), np.empty(PIXELS, logits.dtype)
    total, mean = np.empty(PIXELS), np.empty(PIXELS)
    for task in range(start, stop):
        block = 0.0
        for first in range(task * BLOCK, min((task + 1) * BLOCK, pixels), PIXELS):
            count = min(PIXELS, pixels - first)
            _exponentials(logits, first, count, rows, highest, total)
            _turn(costs, first, count, price)
            mean[:] = 0
            for c in range(classes):
                row, cost = rows[c], price[c]
                for i in range(count):
                    mean[i] += row[i] * cost[i]
            for i in range(count):
                weight = pixel_weight[first + i]
                mean[i] = mean[i] / total[i]
                scale[i] = weight * share / total[i]
                value = weight * mean[i] if weight != 0 else 0.0
                block += value
                if len(losses):
                    losses[first + i] = value
            if not len(gradient):
                continue
            for c in range(classes):
                row, cost = rows[c], price[c]
                for i in range(count):
                    row[i] = row[i] * scale[i] * (cost[i] - mean[i])
            _turn_back(rows, first, count, gradient)
            for i in range(count):
                if pixel_weight[first + i] == 0:  # whatever the logits are
                    gradient[first + i] = 0
        sums[task] = block


@kernel
def _overlaps(start, stop, logits, labels, pixel_weight, ignore_index, blocks, probabilities, sums):
    """Tasks are `blocks` blocks of each image. See `overlaps`.

    Overwrites probabilities (N, M, K) and sums (N * blocks, 3, K).
    """
    _, pixels, classes = logits.shape
    rows, highest = np.empty((classes, PIXELS), logits.dtype), np.empty(PIXELS, logits.dtype)
    total = np.empty(PIXELS)
    for task in range(start, stop):
        n, at = task // blocks, task % blocks * BLOCK
        hit, predicted, wanted = sums[task]
        sums[task] = 0
        for first in range(at, min(at + BLOCK, pixels), PIXELS):
            count = min(PIXELS, pixels - first)
            _exponentials(logits[n], first, count, rows, highest, total)
            for c in range(classes):
                row = rows[c]
                for i in range(count):
                    row[i] = row[i] / total[i]
            _turn_back(rows, first, count, probabilities[n])
            for i in range(count):
                label, result = labels[n, first + i], probabilities[n, first + i]
                if label == ignore_index:
                    continue
                if len(pixel_weight):
                    weight = pixel_weight[n, first + i]
                    for c in range(classes):
                        predicted[c] += weight * result[c]
                    hit[label] += weight * result[label]
                    wanted[label] += weight
                else:
                    for c in range(classes):
                        predicted[c] += result[c]
                    hit[label] += result[label]
                    wanted[label] += 1


@kernel
def _overlaps_grad(
    start, stop, probabilities, labels, pixel_weight, ignore_index, blocks, hit_slope, all_slope,
    gradient,
):  # fmt: skip
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
            if len(pixel_weight):
                for c in range(classes):
                    gradient[n, p, c] *= pixel_weight[n, p]


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
        memory.empty((pixels if slopes else 0, classes), logits.dtype),
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
    share: float,
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
    share : float
        Factor for the gradient, such as 1 / number of pixels for that of the mean.
    each, slopes : bool
        Whether the loss of each pixel, and the gradient, are wanted.

    Returns
    -------
    losses (M,) and gradient (M, K), empty where not wanted, and the sum of all losses.
    """
    outputs = _outputs(logits, each, slopes)
    parallel.run(
        _labelled, len(outputs[-1]), logits.size * 2.0,
        np.ascontiguousarray(logits), labels, class_weight, pixel_weight, ignore_index,
        float(smoothing), float(gamma), float(share), *outputs,
    )  # fmt: skip
    return outputs[0], outputs[1], outputs[2].sum()


def blended(
    logits: np.ndarray,
    target: np.ndarray,
    class_weight: np.ndarray,
    pixel_weight: np.ndarray,
    smoothing: float,
    share: float,
    each: bool,
    slopes: bool,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cross-entropy of M pixels with probabilities (M, K) of their classes; else as `labelled`."""
    outputs = _outputs(logits, each, slopes)
    parallel.run(
        _blended, len(outputs[-1]), logits.size * 5.0,
        np.ascontiguousarray(logits), np.ascontiguousarray(target), class_weight, pixel_weight,
        float(smoothing), float(share), *outputs,
    )  # fmt: skip
    return outputs[0], outputs[1], outputs[2].sum()


def expected(
    logits: np.ndarray,
    costs: np.ndarray,
    pixel_weight: np.ndarray,
    share: float,
    each: bool,
    slopes: bool,
) -> tuple[np.ndarray, np.ndarray, float]:
    """``pixel_weight * sum_c softmax(logits)[c] * costs[c]`` of M pixels.

    Parameters
    ----------
    logits, costs : (M, K) arrays of one dtype
    pixel_weight : (M,) float64 array; where it is 0 the logits may be anything
    share, each, slopes
        As in `labelled`.

    Returns
    -------
    As `labelled`.
    """
    outputs = _outputs(logits, each, slopes)
    parallel.run(
        _expected, len(outputs[-1]), logits.size * 2.5,
        np.ascontiguousarray(logits), np.ascontiguousarray(costs), pixel_weight, float(share),
        *outputs,
    )  # fmt: skip
    return outputs[0], outputs[1], outputs[2].sum()


def overlaps(
    logits: np.ndarray, labels: np.ndarray, pixel_weight: np.ndarray, ignore_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax of each pixel, and what the overlap of prediction and labels is made of.

    Parameters
    ----------
    logits : (N, M, K) array
    labels : (N, M) int64 array, each `ignore_index` or a class
    pixel_weight : (N, M) float64 array, or (0, 0) for ones

    Returns
    -------
    probabilities : (N, M, K) array
    sums : (N, 3, K) float64 array
        For each image and class, over the pixels that are not ignored: probability on pixels of
        the class, probability on all pixels, number of pixels of the class; all of them weighted.
    """
    images, pixels, classes = logits.shape
    blocks = -(-pixels // BLOCK)
    probabilities = memory.empty(logits.shape, logits.dtype)
    sums = np.empty((images * blocks, 3, classes))
    parallel.run(
        _overlaps, images * blocks, logits.size * 2.0,
        np.ascontiguousarray(logits), labels, pixel_weight, ignore_index, blocks, probabilities,
        sums,
    )  # fmt: skip
    return probabilities, sums.reshape(images, blocks, 3, classes).sum(axis=1)


def overlaps_grad(
    probabilities: np.ndarray,
    labels: np.ndarray,
    pixel_weight: np.ndarray,
    ignore_index: int,
    hit_slope: np.ndarray,
    all_slope: np.ndarray,
) -> np.ndarray:
    """Gradient of the logits of `overlaps`, given those of the first two of its sums, (N, K)."""
    images, pixels, _ = probabilities.shape
    blocks = -(-pixels // BLOCK)
    gradient = memory.empty_like(probabilities)
    parallel.run(
        _overlaps_grad, images * blocks, probabilities.size * 3.0,
        probabilities, labels, pixel_weight, ignore_index, blocks, hit_slope, all_slope, gradient,
    )  # fmt: skip
    return gradient
