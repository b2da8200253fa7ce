"""Naive twins of the operations: NumPy and loops, short and obvious, sharing nothing with minidl.

Each has the arguments of the function it is the twin of, takes arrays and returns arrays. Channels
come last. Slow on purpose: what is written here is the definition.
"""

import math

import numpy as np

# ---- windows -------------------------------------------------------------------------------


def each(value, count):
    """``3`` and ``(3, 3)`` mean the same for two axes."""
    return tuple(value) if np.ndim(value) else (value,) * count


def same_padding(size, kernel, stride=1, dilation=1):
    """TensorFlow's SAME: zeros before and after, an odd one after."""
    out = math.ceil(size / stride)
    total = max((out - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def pairs(padding, size, kernel, stride, dilation):
    """(before, after) for each axis from any form of the argument `padding`."""
    if padding == "valid":
        return [(0, 0) for _ in size]
    if padding == "same":
        return [same_padding(*axis) for axis in zip(size, kernel, stride, dilation, strict=True)]
    return [each(p, 2) for p in each(padding, len(size))]


def conv_nd(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    axes = x.ndim - 2
    kernel = weight.shape[:axes]
    stride, dilation = each(stride, axes), each(dilation, axes)
    zeros = pairs(padding, x.shape[1:-1], kernel, stride, dilation)
    padded = np.pad(x, [(0, 0), *zeros, (0, 0)])
    out = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padded.shape[1:-1], kernel, stride, dilation, strict=True)
    ]
    channels, features = weight.shape[-2], weight.shape[-1] // groups
    y = np.zeros((len(x), *out, weight.shape[-1]), x.dtype)
    for position in np.ndindex(*out):
        for tap in np.ndindex(*kernel):
            at = [p * s + t * d for p, s, t, d in zip(position, stride, tap, dilation, strict=True)]
            for g in range(groups):
                read = slice(g * channels, (g + 1) * channels)
                write = slice(g * features, (g + 1) * features)
                pixel = padded[(slice(None), *at, read)]
                y[(slice(None), *position, write)] += pixel @ weight[tap][:, write]
    return y if bias is None else y + bias


def conv_transpose_nd(
    x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    """Every input pixel adds its multiple of the kernel to the output; then the borders go."""
    axes = x.ndim - 2
    kernel = weight.shape[:axes]
    stride, dilation, extra = each(stride, axes), each(dilation, axes), each(output_padding, axes)
    crop = pairs(padding, x.shape[1:-1], kernel, stride, dilation)
    full = [
        (n - 1) * s + d * (k - 1) + 1 + more
        for n, s, d, k, more in zip(x.shape[1:-1], stride, dilation, kernel, extra, strict=True)
    ]
    features, channels = weight.shape[-2], weight.shape[-1] // groups
    y = np.zeros((len(x), *full, features * groups), x.dtype)
    for position in np.ndindex(*x.shape[1:-1]):
        for tap in np.ndindex(*kernel):
            at = [p * s + t * d for p, s, t, d in zip(position, stride, tap, dilation, strict=True)]
            for g in range(groups):
                read = slice(g * channels, (g + 1) * channels)
                write = slice(g * features, (g + 1) * features)
                pixel = x[(slice(None), *position, read)]
                y[(slice(None), *at, write)] += pixel @ weight[tap][:, read].T
    kept = [slice(before, n - after) for n, (before, after) in zip(full, crop, strict=True)]
    y = y[(slice(None), *kept)]
    return y if bias is None else y + bias


conv1d = conv2d = conv3d = conv_nd
conv_transpose1d = conv_transpose2d = conv_transpose3d = conv_transpose_nd


def pool_windows(size, kernel, stride, padding, dilation, ceil_mode):
    """For each output position of one axis, its taps as positions on the axis, outside included."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (math.ceil if ceil_mode else math.floor)(room / stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return [[i * stride - padding + k * dilation for k in range(kernel)] for i in range(count)]


def pool_axes(x, kernel_size, stride, padding, dilation, ceil_mode):
    axes = x.ndim - 2
    stride = kernel_size if stride is None else stride
    settings = [each(v, axes) for v in (kernel_size, stride, padding, dilation)]
    return [pool_windows(*axis, ceil_mode) for axis in zip(x.shape[1:-1], *settings, strict=True)]


def max_pool_nd(
    x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    """Ties go to the first tap; the first NaN beats everything."""
    windows = pool_axes(x, kernel_size, stride, padding, dilation, ceil_mode)
    size, channels = x.shape[1:-1], x.shape[-1]
    y = np.full((len(x), *map(len, windows), channels), -np.inf, x.dtype)
    indices = np.zeros(y.shape, np.int64)
    for n, *position, c in np.ndindex(*y.shape):
        best = None
        for tap in np.ndindex(*(len(w[0]) for w in windows)):
            at = tuple(w[p][t] for w, p, t in zip(windows, position, tap, strict=True))
            if not all(0 <= a < extent for a, extent in zip(at, size, strict=True)):
                continue
            value = x[(n, *at, c)]
            if best is None or value > best or (np.isnan(value) and not np.isnan(best)):
                best = value
                y[(n, *position, c)] = value
                indices[(n, *position, c)] = np.ravel_multi_index(at, size) * channels + c
    return (y, indices) if return_indices else y


max_pool1d = max_pool2d = max_pool3d = max_pool_nd


def avg_pool_nd(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Padding counts as zeros if asked for; what hangs over beyond the padding never counts."""
    windows = pool_axes(x, kernel_size, stride, padding, 1, ceil_mode)
    size, padding = x.shape[1:-1], each(padding, x.ndim - 2)
    y = np.zeros((len(x), *map(len, windows), x.shape[-1]), x.dtype)
    for position in np.ndindex(*y.shape[1:-1]):
        total, count = 0, 0
        for tap in np.ndindex(*(len(w[0]) for w in windows)):
            at = tuple(w[p][t] for w, p, t in zip(windows, position, tap, strict=True))
            inside = all(0 <= a < n for a, n in zip(at, size, strict=True))
            padded = all(-p <= a < n + p for a, n, p in zip(at, size, padding, strict=True))
            if inside:
                total = total + x[(slice(None), *at)]
            count += padded if count_include_pad else inside
        y[(slice(None), *position)] = total / count
    return y


avg_pool1d = avg_pool2d = avg_pool3d = avg_pool_nd


def adaptive_windows(size, out):
    return [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def adaptive_parts(x, output_size):
    """(row, column) of the result, and the rows and columns that go into it."""
    rows, columns = (
        adaptive_windows(n, n if o is None else o)
        for n, o in zip(x.shape[1:-1], each(output_size, 2), strict=True)
    )
    shape = (len(x), len(rows), len(columns), x.shape[-1])
    return shape, [(i, j, r, c) for i, r in enumerate(rows) for j, c in enumerate(columns)]


def adaptive_avg_pool2d(x, output_size):
    shape, parts = adaptive_parts(x, output_size)
    y = np.zeros(shape, x.dtype)
    for i, j, rows, columns in parts:
        y[:, i, j] = x[:, rows][:, :, columns].mean((1, 2))
    return y


def adaptive_max_pool2d(x, output_size, return_indices=False):
    shape, parts = adaptive_parts(x, output_size)
    y, indices = np.full(shape, -np.inf, x.dtype), np.zeros(shape, np.int64)
    for i, j, rows, columns in parts:
        for n, c in np.ndindex(shape[0], shape[-1]):
            for h in rows:
                for w in columns:
                    if x[n, h, w, c] > y[n, i, j, c]:
                        y[n, i, j, c] = x[n, h, w, c]
                        indices[n, i, j, c] = (h * x.shape[2] + w) * shape[-1] + c
    return (y, indices) if return_indices else y


def max_unpool2d(x, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Where a position is named more than once, the last value stays."""
    k, p = each(kernel_size, 2), each(padding, 2)
    s = k if stride is None else each(stride, 2)
    if output_size is None:
        output_size = [(n - 1) * s[i] - 2 * p[i] + k[i] for i, n in enumerate(x.shape[1:-1])]
    elif len(output_size) == 4:
        output_size = output_size[1:3]
    y = np.zeros((len(x), *output_size, x.shape[-1]), x.dtype)
    for at in np.ndindex(*x.shape):
        y[at[0]].reshape(-1)[indices[at]] = x[at]
    return y


# ---- linear, normalisation, shape ----------------------------------------------------------


def linear(x, weight, bias=None):
    y = np.einsum("...c,cf->...f", x, weight)
    return y if bias is None else y + bias


def batch_norm(
    x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Over all axes but the last. The running moments are left as they are."""
    axes = tuple(range(x.ndim - 1))
    own = training or running_mean is None
    mean, var = (x.mean(axes), x.var(axes)) if own else (running_mean, running_var)
    y = (x - mean) / np.sqrt(var + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    y = np.empty_like(x)
    for n in range(len(x)):
        for part in np.split(np.arange(x.shape[-1]), num_groups):
            values = x[n, ..., part]
            y[n, ..., part] = (values - values.mean()) / np.sqrt(values.var() + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    axes = tuple(range(-len(each(normalized_shape, 1)), 0))
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        near = x[..., max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        y[..., c] = x[..., c] / (k + alpha / size * (near**2).sum(-1)) ** beta
    return y


def pad(x, pad, mode="constant", value=0):
    if mode == "constant":
        return np.pad(x, pad, constant_values=value)
    return np.pad(x, pad, mode={"reflect": "reflect", "replicate": "edge"}[mode])


def concatenate(tensors, axis=-1):
    return np.concatenate(tensors, axis)


def stack(tensors, axis=0):
    return np.stack(tensors, axis)


def resize_axis(size, out, mode, align_corners, step):
    """(out, size) matrix that takes one axis from `size` to `out` elements."""
    matrix = np.zeros((out, size))
    for i in range(out):
        if mode == "nearest":  # else linear, in one or more axes
            matrix[i, min(math.floor(i * step), size - 1)] = 1
            continue
        if align_corners:
            at = i * (size - 1) / (out - 1) if out > 1 else 0
        else:
            at = max((i + 0.5) * step - 0.5, 0)
        low = min(math.floor(at), size - 1)
        high = min(low + 1, size - 1)
        matrix[i, low] += 1 - (at - low)
        matrix[i, high] += at - low
    return matrix


def interpolate(x, size=None, scale_factor=None, mode="nearest", align_corners=False):
    """One matrix for each spatial axis, applied one axis after the other."""
    axes = x.ndim - 2
    scales = each(scale_factor, axes)
    sizes = each(size, axes)
    for axis in range(axes):
        n = x.shape[axis + 1]
        out = int(n * scales[axis]) if size is None else sizes[axis]
        step = 1 / scales[axis] if size is None else n / out
        matrix = resize_axis(n, out, mode, align_corners, step)
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis + 1)), 0, axis + 1)
    return x


# ---- activations ---------------------------------------------------------------------------


def relu(x):
    return np.where(x > 0, x, 0)


def leaky_relu(x, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x)


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * (np.exp(x) - 1))


def gelu(x, approximate="none"):
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    below = [0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel().tolist()]
    return x * np.reshape(below, x.shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tanh(x):
    return (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))


def softplus(x, beta=1.0, threshold=20.0):
    return np.where(beta * x > threshold, x, np.log(1 + np.exp(beta * x)) / beta)


def softmax(x, axis=-1):
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def log_softmax(x, axis=-1):
    return np.log(softmax(x, axis))


# ---- losses --------------------------------------------------------------------------------


def reduced(losses, reduction):
    return {"none": lambda: losses, "sum": losses.sum, "mean": losses.mean}[reduction]()


def log_softmax_at(logits, at):
    return logits[at] - np.log(np.exp(logits[at]).sum())


def cross_entropy(
    logits, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0,
    pixel_weight=None,
):  # fmt: skip
    """Pixel by pixel. The mean over labels is weighted by class."""
    classes = logits.shape[-1]
    weight = np.ones(classes) if weight is None else weight
    labelled = target.ndim < logits.ndim
    pixel_weight = np.ones(logits.shape[:-1]) if pixel_weight is None else pixel_weight
    losses, divisor = np.zeros(logits.shape[:-1]), 0
    for at in np.ndindex(*losses.shape):
        if labelled and target[at] == ignore_index:
            continue
        wanted = np.eye(classes)[target[at]] if labelled else target[at]
        divisor += weight[target[at]] if labelled else 1
        wanted = (1 - label_smoothing) * wanted + label_smoothing / classes
        losses[at] = -pixel_weight[at] * (weight * wanted * log_softmax_at(logits, at)).sum()
    return losses.sum() / divisor if reduction == "mean" else reduced(losses, reduction)


def focal_loss(
    logits, target, gamma=2.0, alpha=None, ignore_index=-100, reduction="mean", pixel_weight=None
):
    alpha = np.ones(logits.shape[-1]) if alpha is None else alpha
    alpha = np.array([1 - alpha, alpha]) if np.ndim(alpha) == 0 else alpha
    losses, count = np.zeros(target.shape), 0
    for at in np.ndindex(*target.shape):
        if target[at] != ignore_index:
            log_p = log_softmax_at(logits, at)[target[at]]
            losses[at] = -alpha[target[at]] * (1 - np.exp(log_p)) ** gamma * log_p
            losses[at] *= 1 if pixel_weight is None else pixel_weight[at]
            count += 1
    return losses.sum() / count if reduction == "mean" else reduced(losses, reduction)


def regions(logits, target, include_background, batch, ignore_index, pixel_weight):
    """For each image, unless they are one batch, and each class: p and truth of what counts."""
    p = softmax(logits)
    weight = np.ones(target.shape) if pixel_weight is None else pixel_weight
    for part in [slice(None)] if batch else range(len(logits)):
        counts = target[part] != ignore_index
        yield [
            (c, p[part][counts][:, c], (target[part][counts] == c) * 1.0, weight[part][counts])
            for c in range(0 if include_background else 1, logits.shape[-1])
        ]


def reduced_regions(losses, present, weight, absent, reduction, batch):
    """Losses, and whether the class is there, for images and classes."""
    losses, factors = np.array(losses), np.ones(np.shape(losses))
    factors *= np.ones(losses.shape[1]) if weight is None else weight[-losses.shape[1] :]
    if absent == "skip":
        factors = np.where(present, factors, 0)
    if reduction == "mean":
        return (losses * factors).sum() / factors.sum()
    return reduced((losses * factors)[0] if batch else losses * factors, reduction)


def tversky_loss(
    logits, target, alpha=0.5, beta=0.5, smooth=1.0, include_background=True, batch=False,
    ignore_index=-100, reduction="mean", weight=None, pixel_weight=None, absent="count",
):  # fmt: skip
    """Images one by one, unless they are one `batch`; classes one by one."""
    losses, present = [], []
    for image in regions(logits, target, include_background, batch, ignore_index, pixel_weight):
        losses.append([])
        present.append([truth.any() for _, _, truth, _ in image])
        for _, p, truth, v in image:
            hits, false = (v * p * truth).sum(), (v * p * (1 - truth)).sum()
            missed = (v * (1 - p) * truth).sum()
            index = (hits + smooth) / (hits + alpha * false + beta * missed + smooth)
            losses[-1].append(1 - index)
    return reduced_regions(losses, present, weight, absent, reduction, batch)


def dice_loss(
    logits, target, smooth=1.0, include_background=True, batch=False, ignore_index=-100,
    reduction="mean", weight=None, pixel_weight=None, absent="count",
):  # fmt: skip
    """``1 - (2 hits + smooth) / (2 hits + false + missed + smooth)``."""
    return tversky_loss(
        logits, target, 0.5, 0.5, smooth / 2, include_background, batch, ignore_index, reduction,
        weight, pixel_weight, absent,
    )  # fmt: skip


def generalised_dice_loss(
    logits, target, power=2.0, include_background=True, batch=False, ignore_index=-100,
    reduction="mean", weight=None, pixel_weight=None, absent="count",
):  # fmt: skip
    losses = []
    for image in regions(logits, target, include_background, batch, ignore_index, pixel_weight):
        sizes = {c: (truth * v).sum() for c, _, truth, v in image}
        rarest = min((size for size in sizes.values() if size), default=np.inf)
        above = below = 0
        for c, p, truth, v in image:
            share = (sizes[c] or (rarest if absent == "count" else np.inf)) ** -power
            share *= 1 if weight is None else weight[c]
            above += 2 * share * (v * p * truth).sum()
            below += share * (v * (p + truth)).sum()
        losses.append(1 - above / below if below else 0)
    return reduced(np.array(losses), reduction)


def lovasz_softmax(
    logits, target, include_background=True, batch=True, ignore_index=-100, reduction="mean",
    weight=None, pixel_weight=None, absent="skip",
):  # fmt: skip
    """By the definition of the extension: one pixel after the other joins those that are wrong."""

    def jaccard(wrong, truth, v):
        union = v[truth | wrong].sum()
        return 1 - v[truth & ~wrong].sum() / union if union else 0

    losses, present = [], []
    for image in regions(logits, target, include_background, batch, ignore_index, pixel_weight):
        losses.append([])
        present.append([truth.any() for _, _, truth, _ in image])
        for _, p, truth, v in image:
            errors, total, wrong = abs(truth - p), 0, np.zeros(len(p), bool)
            for i in np.argsort(-errors):
                before = jaccard(wrong, truth > 0, v)
                wrong[i] = True
                total += errors[i] * (jaccard(wrong, truth > 0, v) - before)
            losses[-1].append(total)
    return reduced_regions(losses, present, weight, absent, reduction, batch)


def boundary_loss(
    logits, distance, target=None, weight=None, ignore_index=-100, reduction="mean",
    pixel_weight=None,
):  # fmt: skip
    losses, counted = np.zeros(logits.shape[:-1]), 0
    weight = np.ones(logits.shape[-1]) if weight is None else weight
    for at in np.ndindex(*losses.shape):
        if target is not None and target[at] == ignore_index:
            continue
        counted += 1
        p = np.exp(log_softmax_at(logits, at))
        whole = distance.ndim == logits.ndim
        costs = weight * p * distance[at] if whole else weight[1] * p[1] * distance[at]
        losses[at] = costs.sum() * (1 if pixel_weight is None else pixel_weight[at])
    return losses.sum() / counted if reduction == "mean" else reduced(losses, reduction)


def mse_loss(input, target, reduction="mean"):
    return reduced((input - target) ** 2, reduction)


def l1_loss(input, target, reduction="mean"):
    return reduced(abs(input - target), reduction)


def kl_div(input, target, reduction="mean", log_target=False):
    probability = np.exp(target) if log_target else target
    losses = probability * (np.log(probability) - input)
    return losses.sum() / len(input) if reduction == "batchmean" else reduced(losses, reduction)


def binary_cross_entropy_with_logits(
    logits, target, weight=None, pos_weight=None, reduction="mean"
):
    p = sigmoid(logits)
    positive = 1 if pos_weight is None else pos_weight
    losses = -(positive * target * np.log(p) + (1 - target) * np.log(1 - p))
    return reduced(losses if weight is None else losses * weight, reduction)
