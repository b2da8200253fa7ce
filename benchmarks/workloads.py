"""The workloads: what both sides do, on the same numbers.

Each function yields rows and, for each, a function that makes the jobs of all sides as
``{side: job}``. PyTorch is tried in its contiguous and its channels-last layout, and the faster
counts. Everything minidl does for a call is timed, allocation included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch_segmentation as twins
from harness import Job, Row
from peers import UNet as TorchUNet
from peers import from_channels_last, jax_conv_job, onnx_bytes, onnxruntime_job, openvino_job
from peers import training_step as their_step
from torch.nn import functional as T
from torch_classifiers import ResNet as TorchResNet

import minidl as md
from minidl import functional as F
from minidl import models
from minidl.kernels import conv as conv_kernels
from minidl.models import UNet

LAYOUTS = {"pytorch": False, "pytorch channels-last": True}
Jobs = dict[str, Job]
Work = Iterator[tuple[Row, Callable[[], Jobs]]]


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _backward(call: Any, leaves: list, gradient: Any) -> Job:
    """A forward and backward pass that leaves no gradients behind."""

    def job() -> None:
        for leaf in leaves:
            leaf.grad = None
        call().backward(gradient)

    return job


def _pair(ours: Any, theirs: Any, arrays: list[np.ndarray], backward: bool) -> Jobs:
    """Jobs from a function of minidl and one of PyTorch, and their arguments.

    `arrays` are ours: an input, channels last, then parameters in our layout, from which `theirs`
    makes its own: ``theirs(channels_last)`` returns a function and its leaves.
    """
    leaves = [md.Tensor(array, requires_grad=backward) for array in arrays]
    with md.no_grad():
        gradient = np.ones(ours(*leaves).shape, np.float32)
    if backward:
        jobs: Jobs = {"minidl": _backward(lambda: ours(*leaves), leaves, gradient)}
    else:
        jobs = {"minidl": md.no_grad()(lambda: ours(*leaves))}
    for side, channels_last in LAYOUTS.items():
        call, parts = theirs(channels_last)
        if backward:
            parts = [part.requires_grad_() for part in parts]
            back = torch.ones_like(call(*parts))
            jobs[side] = _backward(lambda c=call, p=parts: c(*p), parts, back)
        else:
            jobs[side] = torch.no_grad()(lambda c=call, p=parts: c(*p))
    return jobs


def _conv_row(
    name: str, floor: float, threads: int, shape: tuple[int, ...], features: int,
    kernel: int | tuple[int, ...] = 3, **settings: Any,
) -> Any:  # fmt: skip
    """A convolution of x of `shape`, channels last."""
    row = Row(name, floor, threads)
    return row, partial(_conv_jobs, row, shape, features, kernel, **settings)


def _conv_jobs(
    row: Row, shape: tuple[int, ...], features: int, kernel: int | tuple[int, ...],
    backward: bool = False, transposed: bool = False, **settings: Any,
) -> Jobs:  # fmt: skip
    axes = len(shape) - 2
    size = (kernel,) * axes if isinstance(kernel, int) else kernel
    groups, channels = settings.get("groups", 1), shape[-1]
    x = _normal(*shape)
    inner = (features // groups, channels) if transposed else (channels // groups, features)
    w, b = _normal(*size, *inner) * 0.05, _normal(features)
    stem = "conv_transpose" if transposed else "conv"
    ours, theirs = getattr(F, f"{stem}{axes}d"), getattr(T, f"{stem}{axes}d")
    padding = settings.pop("padding", 0)
    causal = isinstance(padding, tuple)

    def other(channels_last: bool) -> Any:
        weight = from_channels_last(np.moveaxis(w, -1, 0), channels_last)
        # (F, KH, KW, C) with the channels moved in front of the kernel's axes.
        leaves = [from_channels_last(x, channels_last), weight, torch.from_numpy(b)]
        if causal:
            return (lambda u, v, c: theirs(T.pad(u, padding[0]), v, c, **settings)), leaves
        return (lambda u, v, c: theirs(u, v, c, padding=padding, **settings)), leaves

    with md.no_grad():
        out = ours(x, w, b, padding=padding, **settings).shape
    pixels = np.prod(shape[1:-1]) if transposed else np.prod(out[1:-1])
    row.operations = 2.0 * len(x) * pixels * w.size * (3 if backward else 1)
    row.traffic = 0.0 if backward else 4.0 * (x.size + w.size + np.prod(out))
    missing = (1,) * (3 - axes)
    stride, dilation = (missing + (settings.get(k, 1),) * axes for k in ("stride", "dilation"))
    row.note = conv_kernels.algorithm_for(
        x.dtype, (*missing, *size, *inner), stride, groups, dilation,
        None if transposed else (len(x), *missing, *out[1:-1]),
    )  # fmt: skip
    call = lambda u, v, c: ours(u, v, c, padding=padding, **settings)  # noqa: E731
    jobs = _pair(call, other, [x, w, b], backward)
    if not (transposed or causal):
        gradient = np.ones(out, np.float32)
        with suppress(ImportError):
            jobs["jax"] = jax_conv_job(
                [x, w, b], gradient, backward, row.threads, padding=padding, **settings
            )
    return jobs


def square_convolutions(threads: int) -> Work:
    """3x3 layers of segmentation networks, and what is added to them in training."""
    for channels, side in ((64, 128), (128, 64), (256, 32), (512, 16)):
        for backward in (False, True):
            what = "fwd+bwd" if backward else "forward"
            yield _conv_row(
                f"conv 3x3 {channels}→{channels}, 4x{side}², {what}", 1.8, threads,
                (4, side, side, channels), channels, padding=1, backward=backward,
            )  # fmt: skip
    for backward in (False, True):
        what = "fwd+bwd" if backward else "forward"
        yield _conv_row(
            f"conv 3x3 64→64, 1x256², {what}", 1.8, threads, (1, 256, 256, 64), 64,
            padding=1, backward=backward,
        )  # fmt: skip
    for channels in (16, 32):
        yield _conv_row(
            f"conv 3x3 {channels}→{channels}, 8x128², fwd+bwd", 1.2, threads,
            (8, 128, 128, channels), channels, padding=1, backward=True,
        )  # fmt: skip


def other_convolutions(threads: int) -> Work:
    """First layers, odd channel counts, strides, dilation, groups, one and three dimensions."""
    for channels, features in ((1, 16), (1, 64), (3, 64)):
        yield _conv_row(
            f"first layer {channels}→{features}, 4x224²", 1.2, threads,
            (4, 224, 224, channels), features, padding=1,
        )  # fmt: skip
    for channels, features in ((24, 40), (70, 50), (128, 21)):
        yield _conv_row(
            f"conv 3x3 {channels}→{features}, 4x64²", 1.2, threads,
            (4, 64, 64, channels), features, padding=1,
        )  # fmt: skip
    for dilation in (2, 4, 12):
        yield _conv_row(
            f"conv 3x3 dilation {dilation}, 256→256, 4x32²", 1.3, threads,
            (4, 32, 32, 256), 256, padding=dilation, dilation=dilation,
        )  # fmt: skip
    yield _conv_row("conv 1x1 256→256, 4x64²", 1.0, threads, (4, 64, 64, 256), 256, 1)
    for size, stride, channels, features, side in (
        (2, 2, 128, 64, 64), (4, 2, 21, 21, 64), (16, 8, 21, 21, 32),
    ):  # fmt: skip
        yield _conv_row(
            f"transposed {size}x{size} stride {stride}, {channels}→{features}, 4x{side}²", 1.0,
            threads, (4, side, side, channels), features, size, transposed=True, stride=stride,
            padding=(size - stride) // 2,
        )  # fmt: skip
    yield _conv_row(
        "conv 3x3 stride 2, 64→128, 4x128²", 1.0, threads, (4, 128, 128, 64), 128,
        padding=1, stride=2,
    )  # fmt: skip
    yield _conv_row(
        "conv 7x7 stride 2, 3→64, 4x224²", 1.0, threads, (4, 224, 224, 3), 64, 7,
        padding=3, stride=2,
    )  # fmt: skip
    yield _conv_row("conv 7x7 512→4096, 1x13²", 1.0, threads, (1, 13, 13, 512), 4096, 7)
    yield _conv_row(
        "conv1d causal dilation 8, 64→64, 4x16000", 1.0, threads, (4, 16000, 64), 64, 2,
        padding=((8, 0),), dilation=8,
    )  # fmt: skip
    yield _conv_row("conv3d 3x3x3 16→16, 1x64³", 1.0, threads, (1, 64, 64, 64, 16), 16, padding=1)
    for groups in (128, 4):
        yield _conv_row(
            f"conv 3x3 128→128, groups {groups}, 4x64²", 0.8, threads, (4, 64, 64, 128), 128,
            padding=1, groups=groups,
        )  # fmt: skip


def _layer_row(row: Row, ours: Any, theirs: Any, shape: tuple[int, ...], *rest: Any) -> Any:
    """A layer, forward and backward, of x of `shape` and what else it takes."""

    def make() -> Jobs:
        x = _normal(*shape)
        with md.no_grad():
            y = ours(*map(md.Tensor, (x, *rest)))
        row.traffic = 2 * 4.0 * (x.size + y.size)  # x, y, and the gradients of both

        def other(channels_last: bool) -> Any:
            return theirs, [from_channels_last(x, channels_last), *map(torch.from_numpy, rest)]

        return _pair(ours, other, [x, *rest], True)

    return row, make


def layers(threads: int) -> Work:
    """What stands between convolutions, forward and backward."""
    one, zero = np.ones(64, np.float32), np.zeros(64, np.float32)
    settings: dict[str, Any] = {"training": True, "activation": "relu"}
    yield _layer_row(
        Row("batch-norm + ReLU (one call), training, 4x128²x64", 1.5, threads),
        lambda u, w, b: F.batch_norm(u, None, None, w, b, **settings),
        lambda u, w, b: T.relu(T.batch_norm(u, None, None, w, b, training=True)),
        (4, 128, 128, 64), one, zero,
    )  # fmt: skip

    def pool_and_unpool(u: Any) -> Any:
        y, indices = F.max_pool2d(u, 2, return_indices=True)
        return F.max_unpool2d(y, indices, 2)

    def their_pool_and_unpool(u: Any) -> Any:
        y, indices = T.max_pool2d(u, 2, return_indices=True)
        return T.max_unpool2d(y, indices, 2)

    row = Row("max-pool with indices and unpool, 4x128²x64", 1.5, threads)
    yield _layer_row(row, pool_and_unpool, their_pool_and_unpool, (4, 128, 128, 64))
    yield _layer_row(
        Row("bilinear x2, 4x64²x64", 1.5, threads),
        lambda u: F.interpolate(u, scale_factor=2, mode="bilinear"),
        lambda u: T.interpolate(u, scale_factor=2, mode="bilinear"),
        (4, 64, 64, 64),
    )  # fmt: skip
    target = np.random.default_rng(0).integers(0, 21, (4, 256, 256))
    wanted = torch.from_numpy(target)
    yield _layer_row(
        Row("softmax cross-entropy, 4x256²x21", 1.5, threads),
        lambda u: F.cross_entropy(u, target),
        lambda u: T.cross_entropy(u, wanted),
        (4, 256, 256, 21),
    )  # fmt: skip


def optimisers(threads: int) -> Work:
    """One step on the 31 million of the U-Net; PyTorch's both as they are made and fused."""
    for name, settings, touched in (
        ("Adam", {"lr": 1e-3}, 7),  # parameter, gradient, two states; three of them written
        ("SGD with momentum", {"lr": 1e-3, "momentum": 0.9}, 5),
    ):
        row = Row(f"{name} step, 31 M parameters", 1.0, threads)
        yield row, partial(_optimiser_jobs, row, name.split()[0], settings, touched)


def _optimiser_jobs(row: Row, name: str, settings: dict[str, Any], touched: int) -> Jobs:
    mine = list(UNet(1, 2, depth=5, root=64).parameters())
    for parameter in mine:
        parameter.grad = _normal(*parameter.shape)
    row.traffic = 4.0 * touched * sum(parameter.size for parameter in mine)
    jobs: Jobs = {"minidl": getattr(md.optim, name)(mine, **settings).step}
    for side, fused in {"pytorch": False, "pytorch fused": True}.items():
        theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in mine]
        for other, parameter in zip(theirs, mine, strict=True):
            other.grad = torch.from_numpy(parameter.grad.copy())
        more = {"fused": True} if fused else {}
        jobs[side] = getattr(torch.optim, name)(theirs, **settings, **more).step
    return jobs


class Network(NamedTuple):
    """A network on both sides, and the ratios asked for."""

    name: str
    shape: tuple[int, int, int, int]  # images (N, H, W, C)
    classes: int
    ours: Callable[[int, int], md.nn.Module]  # of channels and classes
    theirs: Callable[[int, int], torch.nn.Module]
    training: float
    inference: float | None  # None: not measured


def _unet(
    name: str, shape: tuple[int, int, int, int], settings: dict[str, Any], *floors: Any
) -> Network:
    ours, theirs = partial(UNet, **settings), partial(TorchUNet, **settings)
    return Network(f"U-Net {name}", shape, 2, ours, theirs, *floors)


def _settings(depth: int, root: int, batch_norm: bool = False) -> dict[str, Any]:
    return {"depth": depth, "root": root, "batch_norm": batch_norm}


UNETS = (
    _unet("root 64, depth 5, 1x256²x1", (1, 256, 256, 1), _settings(5, 64), 1.7, 1.6),
    _unet("root 16, depth 3, 4x256²x1", (4, 256, 256, 1), _settings(3, 16), 1.4, 1.3),
    _unet("root 8, depth 3, 16x224²x1", (16, 224, 224, 1), _settings(3, 8), 1.3, None),
    _unet(
        "root 32, depth 4, batch-norm, 4x192²x3", (4, 192, 192, 3), _settings(4, 32, True), 1.5,
        None,
    ),
)  # fmt: skip
SEGMENTATION = (
    Network("FCN-8s, 1x321²x3", (1, 321, 321, 3), 21, models.FCN8s, twins.FCN8s, 1.3, 1.3),
    Network(
        "DeepLab-LargeFOV, 1x321²x3", (1, 321, 321, 3), 21, models.DeepLab, twins.LargeFOV, 1.3, 1.3
    ),
    Network("SegNet, 1x360x480x3", (1, 360, 480, 3), 11, models.SegNet, twins.SegNet, 1.3, 1.3),
    Network(
        "FC-DenseNet103, 1x224²x3", (1, 224, 224, 3), 11, models.fc_densenet103, twins.FCDenseNet,
        1.0, 1.0,
    ),
    Network(
        "ResNet-50, 4x224²x3", (4, 224, 224, 3), 1000, partial(models.ResNet, 50),
        lambda _, classes: TorchResNet(50, classes), 1.0, 1.0,
    ),
)  # fmt: skip


def networks(threads: int) -> Work:
    """Whole U-Nets, inferences also against ONNX Runtime and OpenVINO."""
    return _networks(UNETS, threads, others=True)


def segmentation(threads: int) -> Work:
    """The other networks, at the sizes of their papers, against PyTorch."""
    return _networks(SEGMENTATION, threads, others=False)


def _networks(table: Iterable[Network], threads: int, others: bool) -> Work:
    """A training step with Adam, and an inference."""
    for network in table:
        row = Row(f"{network.name}: training step", network.training, threads)
        yield row, partial(_training_jobs, network)
        if network.inference is not None:
            row = Row(f"{network.name}: inference", network.inference, threads)
            yield row, partial(_inference_jobs, network, threads, others)


def _training_jobs(network: Network) -> Jobs:
    x, classes = _normal(*network.shape), network.classes
    model = network.ours(x.shape[-1], classes)
    answer = model.eval()(md.Tensor(x[:1])).shape[1:-1]  # a class for each pixel, or image
    y = np.random.default_rng(0).integers(0, classes, (len(x), *answer))
    optimiser = md.optim.Adam(model.train().parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(md.Tensor(x)), y).backward()
        optimiser.step()

    jobs: Jobs = {"minidl": step}
    for label, channels_last in LAYOUTS.items():
        theirs = network.theirs(x.shape[-1], classes)
        jobs[label] = their_step(theirs, x, y, channels_last)
    return jobs


def _inference_jobs(network: Network, threads: int, others: bool) -> Jobs:
    x = _normal(*network.shape)
    arguments = x.shape[-1], network.classes
    jobs = {"minidl": _inference(network.ours(*arguments), x)}
    theirs = network.theirs(*arguments).eval()
    for label, channels_last in LAYOUTS.items():
        # A copy: a module is changed in place.
        kind = torch.channels_last if channels_last else torch.contiguous_format
        copy = deepcopy(theirs).to(memory_format=kind)
        batch = from_channels_last(x, channels_last)
        jobs[label] = torch.no_grad()(lambda m=copy, i=batch: m(i))
    batch = from_channels_last(x, False)
    for label, make in (("onnxruntime", onnxruntime_job), ("openvino", openvino_job)):
        with suppress(ImportError):
            if others:
                jobs[label] = make(onnx_bytes(theirs, batch), batch, threads)
    return jobs


def _inference(model: md.nn.Module, x: np.ndarray) -> Job:
    model.eval()
    return md.no_grad()(lambda: model(md.Tensor(x)))


def sizes(threads: int) -> Work:
    """Sides that are powers of two beside others: caches have few places for rows that far apart.

    The rival is minidl itself, with its time for each pixel. A U-Net of three levels takes no side
    of 250 pixels, but one of 252.
    """
    for what, pairs, make in (
        ("conv 3x3 64→64", ((256, 250), (512, 500), (1024, 1000)), _our_conv),
        (
            "U-Net root 16, depth 3: inference",
            ((256, 252), (512, 500), (1024, 1000)),
            lambda side: _inference(UNet(1, 2, **_settings(3, 16)), _normal(1, side, side, 1)),
        ),
    ):
        for side, odd in pairs:
            rival = f"minidl at {odd}²"
            row = Row(
                f"{what}, 1x{side}² for each pixel", 0.95, threads,
                scale={rival: side**2 / odd**2},
            )  # fmt: skip
            yield row, lambda make=make, s=side, o=odd, r=rival: {"minidl": make(s), r: make(o)}


def _our_conv(side: int) -> Job:
    x, w, b = _normal(1, side, side, 64), _normal(3, 3, 64, 64) * 0.05, _normal(64)
    return md.no_grad()(lambda: F.conv2d(x, w, b, padding=1))


GROUPS = {
    "square": square_convolutions,
    "other": other_convolutions,
    "layers": layers,
    "optimisers": optimisers,
    "networks": networks,
    "segmentation": segmentation,
    "sizes": sizes,
}
