"""Fifty training steps beside PyTorch, from the same weights and on the same batches.

In float64 the losses are the same. In float32 they can be only as long as nothing lies within
rounding of a kink: a number that one side rectifies to zero and the other does not changes a
gradient by more than any rounding, and training makes the difference grow, the faster the larger
its steps are. With Adam at 1e-3, PyTorch in float32 leaves PyTorch in float64 by as much as 4e-3
within these fifty steps, and we by 8e-3, because Winograd's rounding is larger. So float32 is
compared at smaller rates, where steps do not blow up what a kink did.
"""

import numpy as np
import pytest

import minidl as md
from minidl import functional as F
from minidl.models import UNet

STEPS, DEPTH = 50, 3


def _batches():
    """Noisy images (N, H, W, 1) and the mask of a disc in each, again and again different."""
    rng = np.random.default_rng(1)
    row, column = np.mgrid[:48, :48]
    for _ in range(STEPS):
        (top, left), radius = rng.uniform(12, 36, (2, 2, 1, 1)), rng.uniform(6, 12, (2, 1, 1))
        inside = (row - top) ** 2 + (column - left) ** 2 < radius**2
        noise = rng.standard_normal((2, 48, 48))
        yield (inside + 0.5 * noise).astype(np.float32)[..., None], inside.astype(np.int64)


def _our_losses(model, optimizer, dtype):
    for images, labels in _batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(md.Tensor(images.astype(dtype))), labels)
        loss.backward()
        optimizer.step()
        yield loss.item()


def _their_parameters(torch, model):
    """Copies by name; kernels, with us channels last, go from (KH, KW, C, F) to (F, C, KH, KW).

    In an up-convolution F are its inputs in both: (KH, KW, out, in) to (in, out, KH, KW).
    """
    return {
        name: torch.tensor(np.transpose(p.data, (3, 2, 0, 1)) if p.ndim == 4 else p.data)
        for name, p in model.named_parameters()
    }


def _their_scores(torch, p, x):
    """The U-Net of figure 1 in PyTorch's functions, from parameters by their names."""
    T = torch.nn.functional

    def conv(x, name, norm):
        x = T.conv2d(x, p[name + ".weight"], p.get(name + ".bias"), padding=1)
        if norm + ".weight" in p:
            x = T.batch_norm(x, None, None, p[norm + ".weight"], p[norm + ".bias"], training=True)
        return T.relu(x)

    def double_conv(x, level):
        for i in (1, 2):
            x = conv(x, f"{level}.conv{i}", f"{level}.norm{i}")
        return x

    skips = []
    for level in range(DEPTH):
        x = double_conv(T.max_pool2d(x, 2) if level else x, f"down.{level}")
        skips.append(x)
    for level in range(DEPTH - 1):
        up = T.conv_transpose2d(x, p[f"up.{level}.weight"], p[f"up.{level}.bias"], stride=2)
        x = double_conv(torch.cat([skips[-2 - level], up], 1), f"merge.{level}")
    return T.conv2d(x, p["scores.weight"], p["scores.bias"])


def _their_losses(torch, parameters, optimizer, dtype):
    for images, labels in _batches():
        optimizer.zero_grad()
        x = torch.tensor(images.astype(dtype).transpose(0, 3, 1, 2))
        scores = _their_scores(torch, parameters, x)
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels))
        loss.backward()
        optimizer.step()
        yield loss.item()


def _both(make_optimizer, root, batch_norm, dtype):
    """Our losses and PyTorch's."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    model = UNet(1, 2, depth=DEPTH, root=root, batch_norm=batch_norm, rng=rng)
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(dtype)
    parameters = _their_parameters(torch, model)
    leaves = [parameter.requires_grad_() for parameter in parameters.values()]
    theirs = list(_their_losses(torch, parameters, make_optimizer(torch.optim, leaves), dtype))
    ours = list(_our_losses(model, make_optimizer(md.optim, model.parameters()), dtype))
    assert np.mean(ours[-5:]) < 0.9 * np.mean(ours[:5])  # they learn
    return ours, theirs


each_network = pytest.mark.parametrize(
    "root, batch_norm", [(8, False), (8, True), (16, False), (16, True)]
)
# Measured on these four networks: both within 2e-4.
GENTLE = {
    "SGD": lambda optim, parameters: optim.SGD(parameters, lr=0.005),
    "Adam": lambda optim, parameters: optim.Adam(parameters, lr=1e-4),
}
USUAL = {
    "SGD": lambda optim, parameters: optim.SGD(parameters, lr=0.05, momentum=0.9),
    "Adam": lambda optim, parameters: optim.Adam(parameters, lr=1e-3),
}


@pytest.mark.slow
@each_network
@pytest.mark.parametrize("name", GENTLE)
def test_losses_in_float32(name, root, batch_norm):
    ours, theirs = _both(GENTLE[name], root, batch_norm, np.float32)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.slow
@each_network
@pytest.mark.parametrize("name", USUAL)
def test_losses_in_float64(name, root, batch_norm):
    ours, theirs = _both(USUAL[name], root, batch_norm, np.float64)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
