"""The table of operations: a row is one setting of one function of `minidl.functional`.

What a row buys is in `test_functional.py`. A new operation needs a twin in `reference.py` and its
rows here; that test fails for a public name without a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference

from minidl import functional


@dataclass(frozen=True)
class Case:
    """One function with one setting.

    Attributes
    ----------
    name : of the function in `minidl.functional` and of its twin in `reference`
    setting : what is special about it, for the test's name
    inputs : from a generator to the float64 arrays that are differentiated
    settings : keyword arguments, equal for function and twin
    fixed : from a generator to keyword arguments that are arrays without a gradient
    linear_in : positions of the inputs in which the function is linear (or affine)
    as_list : the inputs are passed as one list
    names : keywords of the inputs, where they do not come first
    rtol32 : bound of the float32 error, relative to the largest element
    """

    name: str
    setting: str
    inputs: Callable[[np.random.Generator], Sequence[np.ndarray]]
    settings: dict[str, Any] = field(default_factory=dict)
    fixed: Callable[[np.random.Generator], dict[str, np.ndarray]] = lambda rng: {}
    linear_in: tuple[int, ...] = ()
    as_list: bool = False
    names: tuple[str, ...] = ()
    rtol32: float = 4e-6

    def __str__(self) -> str:
        return f"{self.name}-{self.setting}"

    def draw(self, dtype=np.float64, seed=0):
        """Inputs, and fixed arguments, of `dtype`."""
        rng = np.random.default_rng(seed)
        inputs = [x.astype(dtype) for x in self.inputs(rng)]
        fixed = {
            name: x.astype(dtype) if x.dtype.kind == "f" else x
            for name, x in self.fixed(rng).items()
        }
        return inputs, fixed

    def _call(self, function, inputs, fixed):
        if self.names:
            named = dict(zip(self.names, inputs, strict=True))
            return function(**named, **fixed, **self.settings)
        positional = [list(inputs)] if self.as_list else inputs
        return function(*positional, **fixed, **self.settings)

    def run(self, inputs, fixed):
        """Result of the function; of several, all."""
        return self._call(getattr(functional, self.name), inputs, fixed)

    def expect(self, inputs, fixed):
        """Result of the twin."""
        return self._call(getattr(reference, self.name), inputs, fixed)


def normal(*shapes):
    """Normally distributed arrays."""
    return lambda rng: [rng.standard_normal(shape) for shape in shapes]


def spread(*shapes):
    """Arrays without equals, zeros or neighbours nearer than 1 / size, for functions with kinks."""

    def draw(rng):
        return [
            (rng.permutation(np.prod(shape)).reshape(shape) + 0.25) * (4 / np.prod(shape)) - 2
            for shape in shapes
        ]

    return draw


ALL = (0, 1, 2)  # x, weight and bias of a convolution


def _convolutions():
    def row(name, setting, *shapes, **settings):
        return Case(name, setting, normal(*shapes), settings, linear_in=ALL[: len(shapes)])

    two, three = (2, 7, 6, 3), (1, 4, 5, 3, 2)
    yield row("conv1d", "plain", (2, 9, 3), (3, 3, 4))
    yield row("conv1d", "causal", (2, 9, 3), (3, 3, 4), (4,), padding=((4, 0),), dilation=2)
    yield row("conv1d", "strided groups", (1, 11, 4), (4, 2, 6), stride=3, padding=2, groups=2)
    yield row("conv2d", "plain", two, (3, 3, 3, 5))
    yield row("conv2d", "bias", two, (3, 3, 3, 5), (5,), padding=1)
    yield row("conv2d", "1x1", two, (1, 1, 3, 17), (17,))
    yield row("conv2d", "full", two, (2, 3, 3, 2), (2,), padding=(1, 2))
    yield row("conv2d", "same", two, (3, 2, 3, 4), (4,), padding="same")
    yield row("conv2d", "same strided", two, (3, 4, 3, 4), stride=2, padding="same")
    yield row("conv2d", "valid", two, (3, 3, 3, 4), padding="valid", stride=(2, 1))
    yield row("conv2d", "asymmetric", two, (3, 3, 3, 4), (4,), padding=((0, 3), (2, 1)))
    yield row("conv2d", "stride 2", two, (3, 3, 3, 4), stride=2, padding=1)
    yield row("conv2d", "stride beyond kernel", (1, 9, 10, 2), (2, 1, 2, 3), (3,), stride=(3, 4))
    yield row("conv2d", "dilated", (1, 9, 9, 3), (3, 3, 3, 4), padding=(4, 1), dilation=(4, 2))
    yield row("conv2d", "dilated strided", (1, 9, 8, 2), (3, 2, 2, 3), stride=(2, 3), dilation=2)
    yield row("conv2d", "groups", two, (3, 3, 1, 6), (6,), groups=3, padding=1)
    yield row("conv2d", "depthwise dilated", (1, 6, 6, 5), (3, 3, 1, 5), groups=5, dilation=2)
    yield row("conv2d", "one pixel", (1, 1, 1, 1), (1, 1, 1, 1), (1,))
    yield row("conv2d", "all zeros read", (1, 2, 2, 2), (3, 3, 2, 2), padding=5, stride=4)
    yield row("conv2d", "many channels", (1, 4, 5, 21), (3, 3, 21, 37), (37,), padding=1)
    yield row("conv3d", "plain", three, (2, 3, 2, 2, 3), (3,))
    yield row("conv3d", "general", three, (2, 2, 2, 1, 4), (4,), stride=(1, 2, 1),
              padding=((0, 1), (1, 1), (2, 0)), dilation=(1, 1, 2), groups=2)  # fmt: skip

    yield row("conv_transpose1d", "plain", (2, 5, 3), (3, 4, 3))
    yield row("conv_transpose1d", "upsampling", (2, 5, 2), (4, 3, 2), (3,), stride=2, padding=1)
    small = (2, 3, 4, 3)
    yield row("conv_transpose2d", "plain", small, (3, 3, 5, 3))
    yield row("conv_transpose2d", "2x2 stride 2", small, (2, 2, 4, 3), (4,), stride=2)
    yield row("conv_transpose2d", "padding", small, (3, 2, 4, 3), (4,), padding=1)
    yield row("conv_transpose2d", "asymmetric", small, (3, 3, 2, 3), stride=2,
              padding=((0, 1), (2, 1)))  # fmt: skip
    yield row("conv_transpose2d", "output padding", small, (3, 3, 2, 3), (2,), stride=(2, 3),
              padding=1, output_padding=(1, 2))  # fmt: skip
    yield row("conv_transpose2d", "stride beyond kernel", small, (2, 1, 2, 3), (2,), stride=3)
    yield row("conv_transpose2d", "dilated", small, (3, 2, 2, 3), stride=2, dilation=(2, 3))
    yield row("conv_transpose2d", "groups", (1, 3, 3, 4), (3, 3, 3, 4), (6,), stride=2, groups=2)
    yield row("conv_transpose2d", "many channels", (1, 3, 2, 19), (2, 2, 23, 19), (23,), stride=2)
    yield row("conv_transpose3d", "plain", (1, 2, 3, 2, 2), (2, 3, 2, 3, 2), (3,))
    yield row("conv_transpose3d", "general", (1, 2, 3, 2, 4), (2, 2, 2, 1, 4), stride=(1, 2, 3),
              padding=(0, 1, 0), output_padding=(0, 1, 2), groups=2)  # fmt: skip

    yield row("linear", "plain", (5, 4), (4, 7))
    yield row("linear", "bias", (5, 4), (4, 7), (7,))
    yield row("linear", "more axes", (2, 3, 4), (4, 35), (35,))
    yield row("linear", "one row", (4,), (4, 3), (3,))


def _pools():
    def row(name, setting, shape, *, fixed=None, **settings):
        linear = () if "max_pool" in name else (0,)
        fixed = fixed or (lambda rng: {})
        return Case(name, setting, spread(shape), settings, fixed, linear_in=linear)

    image, odd = (2, 6, 8, 3), (1, 7, 9, 5)
    for name in ("max_pool", "avg_pool"):
        yield row(f"{name}1d", "plain", (2, 9, 4), kernel_size=3)
        yield row(f"{name}1d", "general", (2, 9, 4), kernel_size=3, stride=2, padding=1,
                  ceil_mode=True)  # fmt: skip
        yield row(f"{name}2d", "plain", image, kernel_size=2)
        yield row(f"{name}2d", "floor", odd, kernel_size=2)
        yield row(f"{name}2d", "ceil", odd, kernel_size=2, ceil_mode=True)
        yield row(f"{name}2d", "overlapping", odd, kernel_size=3, stride=2, padding=1)
        yield row(f"{name}2d", "two numbers", odd, kernel_size=(3, 2), stride=(1, 3),
                  padding=(1, 0))  # fmt: skip
        yield row(f"{name}2d", "ceil and padding", (1, 8, 7, 2), kernel_size=(3, 4), stride=(3, 2),
                  padding=(1, 2), ceil_mode=True)  # fmt: skip
        yield row(f"{name}2d", "stride beyond kernel", odd, kernel_size=1, stride=(2, 3),
                  ceil_mode=True)  # fmt: skip
        yield row(f"{name}3d", "plain", (1, 4, 5, 6, 2), kernel_size=2)
        yield row(f"{name}3d", "general", (1, 4, 5, 6, 2), kernel_size=(2, 3, 2), stride=(2, 1, 3),
                  padding=(1, 1, 0), ceil_mode=True)  # fmt: skip
    for axes, shape in ((1, (2, 9, 4)), (2, odd), (3, (1, 5, 4, 6, 2))):
        yield row(f"max_pool{axes}d", "indices", shape, kernel_size=3, stride=2, padding=1,
                  return_indices=True)  # fmt: skip
        yield row(f"max_pool{axes}d", "dilated", shape, kernel_size=2, stride=1, dilation=3,
                  return_indices=True)  # fmt: skip
        yield row(f"avg_pool{axes}d", "without padding", shape, kernel_size=3, stride=2, padding=1,
                  ceil_mode=True, count_include_pad=False)  # fmt: skip
    for name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        yield row(name, "even", image, output_size=(3, 4))
        yield row(name, "overlapping", odd, output_size=4)
        yield row(name, "one", odd, output_size=1)
        yield row(name, "kept axis", odd, output_size=(None, 2))
        yield row(name, "more than there are", (1, 2, 3, 2), output_size=(5, 4))
    yield row("adaptive_max_pool2d", "indices", odd, output_size=(3, 4), return_indices=True)

    def pooled(size, out):
        """Positions as pooling 2 x 2 gives them, in images of `out` pixels."""

        def draw(rng):
            n, h, w, c = size
            at = np.indices(size)
            rows = np.minimum(2 * at[1] + rng.integers(2, size=size), out[0] - 1)
            columns = np.minimum(2 * at[2] + rng.integers(2, size=size), out[1] - 1)
            return {"indices": (rows * out[1] + columns) * c + at[3]}

        return draw

    small = (2, 3, 4, 3)
    yield row("max_unpool2d", "plain", small, fixed=pooled(small, (6, 8)), kernel_size=2)
    yield row("max_unpool2d", "odd size", small, fixed=pooled(small, (7, 9)), kernel_size=2,
              output_size=(7, 9))  # fmt: skip
    yield row("max_unpool2d", "shape", small, fixed=pooled(small, (7, 8)), kernel_size=2,
              output_size=(2, 7, 8, 3))  # fmt: skip
    yield row("max_unpool2d", "overlapping", (1, 3, 3, 2),
              fixed=lambda rng: {"indices": rng.integers(0, 7 * 7 * 2, (1, 3, 3, 2))},
              kernel_size=3, stride=2)  # fmt: skip
    yield row("max_unpool2d", "padding", (1, 3, 3, 2),
              fixed=lambda rng: {"indices": rng.permutation(50)[:18].reshape(1, 3, 3, 2)},
              kernel_size=3, stride=2, padding=1)  # fmt: skip


def _norms():
    def row(name, setting, *shapes, fixed=None, linear_in=(1, 2), **settings):
        def draw(rng):
            arrays = normal(*shapes)(rng)
            arrays[0] = 3 * arrays[0] + 1
            return arrays

        names = ("x", "weight", "bias")[: len(shapes)]
        fixed = fixed or (lambda rng: {})
        linear_in = tuple(i for i in linear_in if i < len(shapes))
        return Case(name, setting, draw, settings, fixed, linear_in, names=names, rtol32=1e-5)

    own = {"running_mean": None, "running_var": None}

    def running(rng):
        return {"running_mean": rng.standard_normal(5), "running_var": rng.random(5) + 0.5}

    c = (5,)
    yield row("batch_norm", "training", (4, 3, 3, 5), c, c, **own, training=True)
    yield row("batch_norm", "without running moments", (4, 3, 3, 5), c, c, **own)
    yield row("batch_norm", "without weight", (3, 4, 5), **own, training=True, eps=0.1)
    yield row("batch_norm", "rows", (7, 5), c, c, **own, training=True)
    yield row("batch_norm", "volumes", (2, 2, 3, 2, 21), (21,), (21,), **own, training=True)
    yield row("batch_norm", "evaluation", (4, 3, 3, 5), c, c, fixed=running, linear_in=(0, 1, 2))
    yield row("batch_norm", "evaluation, bare", (7, 5), fixed=running, linear_in=(0,), eps=0.1)
    yield row("group_norm", "plain", (2, 3, 4, 6), (6,), (6,), num_groups=3)
    yield row("group_norm", "one group", (2, 5, 4), num_groups=1, eps=0.1)
    yield row("group_norm", "each channel", (2, 3, 4, 5), c, c, num_groups=5)
    yield row("layer_norm", "channels", (2, 3, 5), c, c, normalized_shape=5)
    yield row("layer_norm", "two axes", (2, 3, 4, 5), (4, 5), (4, 5), normalized_shape=(4, 5))
    yield row("layer_norm", "bare", (3, 7), normalized_shape=[7], eps=0.1)
    yield Case("local_response_norm", "plain", normal((2, 3, 7)), {"size": 5})
    yield Case("local_response_norm", "even", normal((2, 2, 3, 6)),
               {"size": 4, "alpha": 2.0, "beta": 0.5, "k": 1.5})  # fmt: skip
    yield Case("local_response_norm", "wider than all", normal((3, 4)), {"size": 9, "alpha": 1.0})


def _shapes():
    def row(name, setting, *shapes, **settings):
        linear_in = () if settings.get("value") else tuple(range(len(shapes)))
        as_list = name != "pad"
        return Case(name, setting, normal(*shapes), settings, linear_in=linear_in, as_list=as_list)

    yield row("concatenate", "channels", (2, 3, 4), (2, 3, 1), (2, 3, 5))
    yield row("concatenate", "one", (2, 3, 4))
    yield row("concatenate", "first axis", (2, 3, 4), (1, 3, 4), axis=0)
    yield row("concatenate", "middle axis", (2, 3, 4), (2, 5, 4), axis=-2)
    yield row("stack", "plain", (2, 3), (2, 3), (2, 3))
    yield row("stack", "last axis", (2, 3), (2, 3), axis=-1)
    yield row("stack", "middle axis", (2, 3), (2, 3), axis=1)
    image = (2, 4, 5, 3)
    yield row("pad", "number", (3, 4), pad=2)
    yield row("pad", "pair", (3, 4), pad=(1, 2))
    yield row("pad", "pairs", image, pad=((0, 0), (1, 2), (3, 0), (0, 0)))
    yield row("pad", "value", image, pad=((0, 0), (1, 0), (0, 1), (0, 2)), value=1.5)
    yield row("pad", "reflect", image, pad=((0, 0), (3, 1), (2, 4), (0, 0)), mode="reflect")
    yield row("pad", "replicate", image, pad=((0, 0), (3, 1), (0, 6), (1, 1)), mode="replicate")
    for mode, align in (("linear", False), ("linear", True), ("nearest", False)):
        name = f"{mode}, corners" if align else mode
        options = {"mode": mode, "align_corners": align}

        def resized(setting, shape, mode=mode, name=name, options=options, **more):
            mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[len(shape)]
            mode = "nearest" if options["mode"] == "nearest" else mode
            return Case("interpolate", f"{name}, {setting}", normal(shape),
                        {**options, **more, "mode": mode}, linear_in=(0,))  # fmt: skip

        yield resized("doubled", image, scale_factor=2)
        yield resized("two sizes", image, size=(7, 3))
        yield resized("two factors", image, scale_factor=(1.5, 0.5))
        yield resized("one pixel", (1, 1, 3, 2), size=(4, 1))
        yield resized("same size", image, size=(4, 5))
        yield resized("sequence", (2, 5, 3), size=8)
        yield resized("volume", (1, 2, 3, 4, 2), size=(3, 4, 6))


def _activations():
    shape = (2, 3, 5, 4)
    for name in ("relu", "leaky_relu", "elu", "gelu", "sigmoid", "tanh", "softplus"):
        yield Case(name, "plain", spread(shape))
    yield Case("leaky_relu", "slope", spread(shape), {"negative_slope": 0.3})
    yield Case("elu", "alpha", spread(shape), {"alpha": 0.3})
    yield Case("gelu", "tanh", spread(shape), {"approximate": "tanh"})
    yield Case("softplus", "sharp", spread(shape), {"beta": 3.0, "threshold": 4.0})
    for name in ("softmax", "log_softmax"):
        yield Case(name, "plain", normal(shape))
        yield Case(name, "many", normal((3, 37)))
        yield Case(name, "first axis", normal(shape), {"axis": 0})
        yield Case(name, "middle axis", normal(shape), {"axis": -2})


def _losses():
    def labels(shape, classes, ignored=None, **more):
        """Every class and, if wanted, ignored pixels; and more arrays of a shape."""

        def draw(rng):
            target = rng.integers(0, classes, shape)
            if target.size > 2 * classes:
                target.reshape(-1)[:classes] = np.arange(classes)
            if ignored is not None:
                target.reshape(-1)[classes::4] = ignored
            return {"target": target} | {
                name: rng.random(size) + 0.5 for name, size in more.items()
            }

        return draw

    def row(name, setting, fixed, shape=(2, 3, 4, 5), **settings):
        return Case(name, setting, normal(shape), settings, fixed, rtol32=1e-5)

    pixels = (2, 3, 4)
    plain, ignoring = labels(pixels, 5), labels(pixels, 5, -100)
    regions = ("dice_loss", "tversky_loss", "generalised_dice_loss", "lovasz_softmax")
    for name in ("cross_entropy", "focal_loss", *regions):
        yield row(name, "plain", plain)
        for reduction in ("none", "sum"):
            yield row(name, reduction, ignoring, reduction=reduction)
        yield row(name, "ignored", ignoring)
        yield row(name, "ignored class", labels(pixels, 5, 2), ignore_index=2)
        yield row(name, "one axis", labels((9, 2), 2), (9, 2, 2))
    yield row("cross_entropy", "rows", labels((9,), 3), (9, 3))
    yield row("cross_entropy", "weight", labels(pixels, 5, -100, weight=5))
    yield row("cross_entropy", "pixel weight", labels(pixels, 5, -100, pixel_weight=pixels))
    yield row("cross_entropy", "all of it", labels(pixels, 5, -1, weight=5, pixel_weight=pixels),
              ignore_index=-1, label_smoothing=0.2)  # fmt: skip
    yield row("cross_entropy", "smoothed", plain, label_smoothing=1.0)
    yield row("cross_entropy", "many classes", labels((3, 4), 40, None), (3, 4, 70))

    def probabilities(rng):
        return {"target": rng.dirichlet(np.ones(5), pixels), "weight": rng.random(5) + 0.5}

    yield row("cross_entropy", "probabilities", probabilities, label_smoothing=0.1)
    yield row("cross_entropy", "probabilities, none", probabilities, reduction="none")
    yield row("focal_loss", "gamma 0", plain, gamma=0.0)
    yield row("focal_loss", "gamma 1", plain, gamma=1.0)
    yield row("focal_loss", "alpha", labels(pixels, 5, -100, alpha=5), gamma=1.5)
    yield row("focal_loss", "one alpha", labels((2, 9), 2), (2, 9, 2), alpha=0.25)
    yield row("focal_loss", "pixel weight", labels(pixels, 5, -100, pixel_weight=pixels))
    lacking = labels(pixels, 3, -100, weight=5, pixel_weight=pixels)  # of 5 classes
    for name in regions:
        for absent in ("count", "skip"):
            yield row(name, f"{absent} absent", lacking, absent=absent)
            yield row(name, f"{absent} absent, none", lacking, absent=absent, reduction="none",
                      batch=False)  # fmt: skip
        yield row(name, "weight", labels(pixels, 5, -100, weight=5))
        yield row(name, "pixel weight", labels(pixels, 5, -100, pixel_weight=pixels))
        yield row(name, "weights of a batch", lacking, batch=True, include_background=False)
        yield row(name, "image by image", ignoring, batch=False)
    yield row("generalised_dice_loss", "power 1", lacking, power=1.0)
    yield row("generalised_dice_loss", "power 0", lacking, power=0.0)
    for name in ("dice_loss", "tversky_loss"):
        yield row(name, "smooth", ignoring, smooth=0.1)
    for name in regions:
        yield row(name, "batch", ignoring, batch=True)
        yield row(name, "batch, none", ignoring, batch=True, reduction="none")
        yield row(name, "foreground", ignoring, include_background=False)
        yield row(name, "foreground, none", plain, include_background=False, reduction="none")
    yield row("tversky_loss", "prices", ignoring, alpha=0.3, beta=1.2)

    def distances(**more):
        """As for labels, which boundary_loss takes for what is ignored."""
        draw = labels(pixels, 5, -100, **more)
        return lambda rng: draw(rng) | {"distance": 3 * rng.standard_normal((*pixels, 5))}

    for reduction in ("mean", "sum", "none"):
        yield row("boundary_loss", reduction, distances(), reduction=reduction)
    yield row("boundary_loss", "weights", distances(weight=5, pixel_weight=pixels))
    yield row("boundary_loss", "map of one class",
              lambda rng: {"distance": rng.standard_normal((2, 9))}, (2, 9, 2))  # fmt: skip

    def both(positive, logarithm=False):
        """Two arrays without equal elements, the second in (0, 1) where `positive`."""

        def draw(rng):
            a, b = np.split(spread((2, 3, 4, 5))(rng)[0], 2)
            b = (b + 2.5) / 5 if positive else b
            return [a, np.log(b) if logarithm else b]

        return draw

    for name in ("mse_loss", "l1_loss", "kl_div", "binary_cross_entropy_with_logits"):
        draw = both(name in ("kl_div", "binary_cross_entropy_with_logits"))
        for reduction in ("mean", "sum", "none"):
            yield Case(name, reduction, draw, {"reduction": reduction}, rtol32=1e-5)
    yield Case("kl_div", "batchmean", both(True), {"reduction": "batchmean"}, rtol32=1e-5)
    yield Case("kl_div", "logarithms", both(True, True), {"log_target": True}, rtol32=1e-5)

    def factors(rng):
        return {"weight": rng.random((3, 1, 5)) + 0.5, "pos_weight": rng.random(5) + 0.5}

    yield Case("binary_cross_entropy_with_logits", "weights", both(True), fixed=factors,
               rtol32=1e-5)  # fmt: skip


CASES = [
    *_convolutions(), *_pools(), *_norms(), *_shapes(), *_activations(), *_losses(),
]  # fmt: skip

# Public names without a row, and why.
EXCEPTIONS: dict[str, str] = dict.fromkeys(
    ("dropout", "dropout1d", "dropout2d", "dropout3d"), "random: see functional/test_noise.py"
)
