"""The weight gradient of pointwise convolution (kernels of one pixel) with many weights.

There every output pixel sees one input pixel, so that the gradient is a product of two matrices,
``xᵀ @ gy``, over as many steps as there are pixels. Tasks are blocks of it that stay in the
second-level cache. What a task needs of x is copied together for it, and of gy where pixels have so
many features, thousands of bytes apart, that they would push each other out of the cache.
"""

import numpy as np

from minidl.kernels import gemm, memory, parallel, simd
from minidl.kernels.jit import kernel
from minidl.kernels.slab import MIN_TASKS, copy_channels

PIXEL_BLOCK = 128  # steps of the product between two visits to the sums
CHANNEL_BLOCK = 128  # rows and
FEATURE_BLOCK = 192  # columns of the sums of a task
NEAR = 512  # features, up to which gy is read as it stands
TASKS = 2 * MIN_TASKS  # even enough for two threads, and for four


@kernel
def multiply_pixels(
    start, stop, x, gy, pixels, channels, features, tall, panels_wide, splits, partial
):
    """Tasks are (split of the pixels, block of channels, block of features): a part of ``xᵀ @ gy``.

    x, gy : flat (pixels, channels) and (pixels, features)
    tall : channels of a block
    panels_wide : panels of features of a block
    partial : flat (splits, channels, features), overwritten
    """
    lanes = simd.lanes(gy)
    panels = gemm.panels_of((features + lanes - 1) // lanes)
    across = (panels + panels_wide - 1) // panels_wide
    down = (channels + tall - 1) // tall
    widest = gemm.TILE_VECTORS * lanes
    rows = (tall + gemm.TILE_ROWS - 1) // gemm.TILE_ROWS * gemm.TILE_ROWS
    left = simd.room(PIXEL_BLOCK * tall + gemm.TILE_ROWS, x)
    right = simd.room(PIXEL_BLOCK * panels_wide * widest, x)
    sums = simd.room(rows * panels_wide * widest, x)
    zeros = np.zeros(widest, x.dtype)
    copied = features > NEAR or features % lanes > 0
    for task in range(start, stop):
        split, block = task // (across * down), task % (across * down)
        channel = block // across * tall
        high = min(tall, channels - channel)
        first_panel = block % across * panels_wide
        last_panel = min(first_panel + panels_wide, panels)
        first, last = split * pixels // splits, (split + 1) * pixels // splits
        for p in range(first, last, PIXEL_BLOCK):
            count = min(PIXEL_BLOCK, last - p)
            for i in range(count):
                copy_channels(x, (p + i) * channels + channel, left, i * tall, high)
                for panel in range(first_panel, last_panel if copied else first_panel):
                    feature, width = gemm.panel_place(panel, features, lanes)
                    at = (panel - first_panel) * PIXEL_BLOCK * widest + i * width
                    filled = min(width, features - feature)
                    copy_channels(gy, (p + i) * features + feature, right, at, filled)
            for panel in range(first_panel, last_panel):
                feature, width = gemm.panel_place(panel, features, lanes)
                at, step = p * features + feature, features
                if copied:
                    at, step = (panel - first_panel) * PIXEL_BLOCK * widest, width
                to = (panel - first_panel) * rows * widest
                fresh = p == first
                gemm.multiply_block(
                    left, gemm.ZERO, gemm.ONE, tall, gemm.ONE_RUN,
                    right if copied else gy, at, step, gemm.ONE_RUN, gemm.ONE, count, width,
                    zeros if fresh else sums, gemm.ZERO if fresh else to, 0 if fresh else width,
                    sums, to, width, width, high, gemm.NO,
                )  # fmt: skip
        for panel in range(first_panel, last_panel):
            feature, width = gemm.panel_place(panel, features, lanes)
            at = (panel - first_panel) * rows * widest
            to = (split * channels + channel) * features + feature
            for c in range(high):
                filled = min(width, features - feature)
                copy_channels(sums, at + c * width, partial, to + c * features, filled)


def weight_grad(x, gy):
    """``xᵀ @ gy``, summed over all pixels.

    Parameters
    ----------
    x : (..., C) array
    gy : (..., F) array of as many pixels

    Returns
    -------
    (C, F) array
    """
    channels, features = x.shape[-1], gy.shape[-1]
    pixels = gy.size // features
    if not pixels:
        return np.zeros((channels, features), x.dtype)
    panels = gemm.panels_of(gemm.vectors_for(features, x.dtype))
    wide = max(1, FEATURE_BLOCK // (gemm.TILE_VECTORS * simd.lanes_of(x.dtype)))
    wide = -(-panels // -(-panels // wide))
    across = -(-panels // wide)
    tall = -(-channels // -(-channels // CHANNEL_BLOCK))
    tall = gemm.whole_tiles(tall)
    blocks = across * -(-channels // tall)
    splits = max(1, min(TASKS // blocks, pixels // PIXEL_BLOCK))
    partial = memory.empty((splits, channels, features), x.dtype)
    parallel.run(
        multiply_pixels, splits * blocks, pixels * partial[0].size / 50, x.reshape(-1),
        gy.reshape(-1), pixels, channels, features, tall, wide, splits, partial.reshape(-1),
    )  # fmt: skip
    return partial[0] if splits == 1 else partial.sum(axis=0)
