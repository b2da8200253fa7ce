"""The Lovasz extension of the Jaccard loss, and its gradient, for each class of a group of pixels.

Probabilities are turned into a row for each class. A class then sorts its errors, the largest
first, and walks through them; its slopes are the changes of the Jaccard loss along that way.
Tasks are the classes of the groups, and blocks of pixels for what comes before and after.

References
----------
Berman, Triki, Blaschko, The Lovasz-Softmax loss, 2018, algorithm 1.
"""

import numpy as np

from minidl.kernels import memory, parallel
from minidl.kernels.jit import kernel
from minidl.kernels.loss import BLOCK, PIXELS, _exponentials, _turn_back

# A word of the sort: a key of digits in its upper bits, and below a code: twice the number of a
# pixel, and 1 for one of the class. Errors that have the same key count as equal, which moves the
# loss by less than they differ: the changes of the Jaccard loss add up to 1.
DIGIT, CODE = 11, 31
MASK = (1 << DIGIT) - 1
DIGITS = {4: 2, 8: 3}  # by the size of a number: to 2**-22 and to 2**-33
MOST_PIXELS = 1 << CODE - 1


@kernel
def _probabilities(start, stop, logits, blocks, probabilities):
    """Softmax of logits (G, M, K), turned: (G, K, M). Tasks are `blocks` blocks of each group."""
    _, pixels, classes = logits.shape
    rows, highest = np.empty((classes, PIXELS), logits.dtype), np.empty(PIXELS, logits.dtype)
    total = np.empty(PIXELS)
    for task in range(start, stop):
        g, at = task // blocks, task % blocks * BLOCK
        for first in range(at, min(at + BLOCK, pixels), PIXELS):
            count = min(PIXELS, pixels - first)
            _exponentials(logits[g], first, count, rows, highest, total)
            for i in range(count):
                total[i] = 1 / total[i]
            for c in range(classes):
                row, result = rows[c], probabilities[g, c, first : first + count]
                for i in range(count):
                    result[i] = row[i] * total[i]


@kernel
def _by_class(start, stop, labels, ignore_index, pixels, starts):
    """Pixels of each class of groups of labels (G, M): those of c begin at starts[g, c].

    Overwrites pixels (G, M) and starts (G, K + 1).
    """
    classes = starts.shape[1] - 1
    for g in range(start, stop):
        following = np.zeros(classes, np.int64)
        for p in range(labels.shape[1]):
            if labels[g, p] != ignore_index:
                following[labels[g, p]] += 1
        at = 0
        for c in range(classes):
            starts[g, c] = at
            at, following[c] = at + following[c], at
        starts[g, classes] = at
        for p in range(labels.shape[1]):
            c = labels[g, p]
            if c != ignore_index:
                pixels[g, following[c]] = p
                following[c] += 1


@kernel
def _place(error, code, digits, words, count, places):
    """Put `code` at words[count], below a key that is the smaller the larger the error is."""
    most = (1 << digits * DIGIT) - 1
    scaled = np.float64(error) * most
    key = most - np.int64(scaled) if scaled < most else 0  # NaN: as if it were 1
    words[count] = key << CODE | code
    for d in range(digits):
        places[d, (key >> d * DIGIT) & MASK] += 1


@kernel
def _sorted(words, others, count, places):
    """The first `count` words by their keys, the smallest first; equals stay in order.

    Distributes by one digit after the other, from the last, of which places (digits, values) says
    how often each value occurs. Overwrites all three arrays, and returns the one it ends in.
    """
    for d in range(len(places)):
        place, shift, before = places[d], CODE + d * DIGIT, 0
        for v in range(place.size):
            before, place[v] = before + place[v], before
        for i in range(count):
            word = words[i]
            v = (word >> shift) & MASK
            others[place[v]] = word
            place[v] += 1
        words, others = others, words
    return words


@kernel
def _extensions(
    start, stop, probabilities, labels, pixel_weight, ignore_index, pixels, starts, digits, slopes,
    losses, sizes,
):  # fmt: skip
    """For each class of each group the loss and, where wanted, its slopes by the probabilities.

    With labels (G, M), weights of that shape or (0, 0), and what `_by_class` found, overwrites
    slopes (G, K, M), which may be empty, losses (G * K,) and sizes (G * K,), the weight of the
    pixels of each class.
    """
    _, classes, extent = probabilities.shape
    words, others = np.empty(extent, np.int64), np.empty(extent, np.int64)
    places = np.empty((digits, 1 << DIGIT), np.int64)
    one, weighted = probabilities.dtype.type(1), len(pixel_weight) > 0
    for task in range(start, stop):
        g, c = task // classes, task % classes
        row, label, own = probabilities[g, c], labels[g], pixels[g, starts[g, c] : starts[g, c + 1]]
        size, least, count = 0.0, np.inf, 0
        places[:] = 0
        for p in own:
            weight = pixel_weight[g, p] if weighted else 1.0
            if weight > 0:
                size += weight
                least = min(least, one - row[p])
                _place(one - row[p], 2 * p + 1, digits, words, count, places)
                count += 1
        if len(slopes):
            slopes[g, c] = 0
        losses[task], sizes[task] = 0, size
        if size == 0:  # then whatever is given to the class makes it wholly wrong
            worst = -1
            for p in range(extent):
                counts = label[p] != ignore_index and not (weighted and pixel_weight[g, p] == 0)
                if counts and label[p] != c and (worst < 0 or not row[p] <= row[worst]):
                    worst = p
            if worst >= 0:
                losses[task] = row[worst]
                if len(slopes):
                    slopes[g, c, worst] = 1
            continue
        # Once all pixels of the class are among the errors the loss is 1 and stays so: what other
        # pixels with smaller errors do is of no account, and these are most of all.
        floor = row.dtype.type(least)
        for p in range(extent):
            if not row[p] <= floor and label[p] != c and label[p] != ignore_index:
                if weighted and pixel_weight[g, p] == 0:
                    continue
                _place(row[p], 2 * p, digits, words, count, places)
                count += 1
        order = _sorted(words, others, count, places)
        left, union, loss = size, size, 0.0  # weight of what is still right, and of the union
        for i in range(count):
            p = (order[i] & ((1 << CODE) - 1)) >> 1
            weight = pixel_weight[g, p] if weighted else 1.0
            if order[i] & 1:
                slope = weight / union
                left = max(left - weight, 0.0)
                loss += np.float64(one - row[p]) * slope
                slope = -slope
            else:
                slope = left * weight / (union * (union + weight))
                union += weight
                loss += np.float64(row[p]) * slope
            if len(slopes):
                slopes[g, c, p] = slope
        losses[task] = loss


@kernel
def _gradient(start, stop, probabilities, slopes, factor, labels, ignore_index, blocks, gradient):
    """Gradient (G, M, K) of the logits. Tasks as in `_probabilities`."""
    _, classes, pixels = probabilities.shape
    rows, mean = np.empty((classes, PIXELS), gradient.dtype), np.empty(PIXELS)
    for task in range(start, stop):
        g, at = task // blocks, task % blocks * BLOCK
        for first in range(at, min(at + BLOCK, pixels), PIXELS):
            count = min(PIXELS, pixels - first)
            mean[:] = 0
            for c in range(classes):
                share = probabilities[g, c, first : first + count]
                slope, times = slopes[g, c, first : first + count], factor[g, c]
                for i in range(count):
                    mean[i] += share[i] * (slope[i] * times)
            for c in range(classes):
                share, row = probabilities[g, c, first : first + count], rows[c]
                slope, times = slopes[g, c, first : first + count], factor[g, c]
                for i in range(count):
                    row[i] = share[i] * (slope[i] * times - mean[i])
            _turn_back(rows, first, count, gradient[g])
            for p in range(first, first + count):
                if labels[g, p] == ignore_index:  # whatever the logits are
                    gradient[g, p] = 0


def extensions(
    logits: np.ndarray,
    labels: np.ndarray,
    pixel_weight: np.ndarray,
    ignore_index: int,
    want_slopes: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lovasz extension of the Jaccard loss of each class of each group of pixels.

    Parameters
    ----------
    logits : (G, M, K) array
    labels : (G, M) int64 array, each `ignore_index` or a class
    pixel_weight : (G, M) float64 array without negative numbers, or (0, 0) for ones
    ignore_index : int
    want_slopes : bool

    Returns
    -------
    probabilities : (G, K, M) array, the softmax
    slopes : (G, K, M) array, derivatives of the losses by them; empty where not wanted
    losses : (G, K) float64 array
    sizes : (G, K) float64 array, number of pixels of each class, or their weight
    """
    groups, pixels, classes = logits.shape
    blocks, shape = -(-pixels // BLOCK), (groups, classes, pixels)
    probabilities = memory.empty(shape, logits.dtype)
    parallel.run(
        _probabilities, groups * blocks, logits.size * 2.0,
        np.ascontiguousarray(logits), blocks, probabilities,
    )  # fmt: skip
    slopes = memory.empty(shape if want_slopes else (0, 0, 0), logits.dtype)
    losses, sizes = np.empty(groups * classes), np.empty(groups * classes)
    own, starts = np.empty((groups, pixels), np.int32), np.empty((groups, classes + 1), np.int64)
    parallel.run(_by_class, groups, labels.size * 3.0, labels, ignore_index, own, starts)
    parallel.run(
        _extensions, groups * classes, logits.size * 10.0,
        probabilities, labels, pixel_weight, ignore_index, own, starts,
        DIGITS[logits.itemsize], slopes, losses, sizes,
    )  # fmt: skip
    return probabilities, slopes, losses.reshape(groups, -1), sizes.reshape(groups, -1)


def gradient(
    probabilities: np.ndarray,
    slopes: np.ndarray,
    factor: np.ndarray,
    labels: np.ndarray,
    ignore_index: int,
) -> np.ndarray:
    """Gradient (G, M, K) of the logits of `extensions`, for the losses times factor (G, K)."""
    groups, classes, pixels = probabilities.shape
    blocks = -(-pixels // BLOCK)
    result = memory.empty((groups, pixels, classes), probabilities.dtype)
    parallel.run(
        _gradient, groups * blocks, result.size * 2.0,
        probabilities, slopes, np.ascontiguousarray(factor, np.float64), labels, ignore_index,
        blocks, result,
    )  # fmt: skip
    return result
