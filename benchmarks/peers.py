"""The networks and layers of the other side, in PyTorch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import io
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
