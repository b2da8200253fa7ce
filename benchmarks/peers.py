"""The networks and layers of the other side: PyTorch, ONNX Runtime, OpenVINO and JAX."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn


def _double_conv(before: int, after: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(after)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """The same network as `minidl.models.UNet` with padding='same'."""

    def __init__(
        self, in_channels: int, num_classes: int, depth: int, root: int, batch_norm: bool
    ) -> None:
        super().__init__()
        widths = [root * 2**level for level in range(depth)]
        steps = zip([in_channels, *widths], widths, strict=False)
        self.down = nn.ModuleList(_double_conv(*step, batch_norm) for step in steps)
        upward = widths[-2::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in upward)
        self.merge = nn.ModuleList(_double_conv(2 * w, w, batch_norm) for w in upward)
        self.head = nn.Conv2d(root, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, conv in enumerate(self.down):
            x = conv(torch.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


def from_channels_last(x: np.ndarray, channels_last: bool) -> torch.Tensor:
    """(N, ..., C) as a tensor of shape (N, C, ...), in either of PyTorch's layouts."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    if channels_last and tensor.ndim in (4, 5):
        kind = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
        return tensor.contiguous(memory_format=kind)
    return tensor


def training_step(model: nn.Module, x: np.ndarray, y: np.ndarray, channels_last: bool) -> Any:
    """A function that takes a step of Adam on images x, channels last, and classes y."""
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    images, target = from_channels_last(x, channels_last), torch.from_numpy(y)

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), target).backward()
        optimiser.step()

    return step


def onnx_bytes(model: nn.Module, x: torch.Tensor) -> bytes:
    """The network in ONNX's format."""
    file = io.BytesIO()
    torch.onnx.export(model.eval(), (x,), file, dynamo=False)
    return file.getvalue()


def onnxruntime_job(model: bytes, x: torch.Tensor, threads: int) -> Any:
    """A function that runs the network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def openvino_job(model: bytes, x: torch.Tensor, threads: int) -> Any:
    """A function that runs the network in OpenVINO, in float32."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    network = core.compile_model(core.read_model(model=io.BytesIO(model)), "CPU", settings)
    request = network.create_infer_request()
    feed = {0: x.numpy()}
    return lambda: request.infer(feed)


_jax_threads = 0


def jax_conv_job(
    arrays: list[np.ndarray], gradient: np.ndarray, backward: bool, threads: int,
    stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1,
) -> Callable[[], Any]:  # fmt: skip
    """A function that runs a convolution in JAX, compiled, with x, w and b laid out like ours."""
    global _jax_threads
    import jax
    from jax.extend.backend import clear_backends

    if threads != _jax_threads:  # XLA makes its threads with its first array
        _jax_threads, os.environ["NPROC"] = threads, str(threads)
        clear_backends()
    axes = "DHW"[-(gradient.ndim - 2) :]

    def convolve(x: Any, w: Any, b: Any) -> Any:
        return b + jax.lax.conv_general_dilated(
            x, w, (stride,) * len(axes), [(padding, padding)] * len(axes), None,
            (dilation,) * len(axes), (f"N{axes}C", f"{axes}IO", f"N{axes}C"), groups,
        )  # fmt: skip

    def both(gy: Any, *leaves: Any) -> Any:
        y, pullback = jax.vjp(convolve, *leaves)
        return y, pullback(gy)

    leaves = [jax.device_put(array) for array in (gradient, *arrays)]
    call = jax.jit(both if backward else lambda gy, *leaves: convolve(*leaves))
    return lambda: jax.block_until_ready(call(*leaves))
