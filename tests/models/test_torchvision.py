"""Networks against the same written down in PyTorch, with the same weights: torchvision's
classifiers, and the segmentation networks that the benchmarks compare.

Weights are handed over one after the other, as both make them, so that no name plays a part.
"""

import numpy as np
import pytest

from minidl.models import (
    VGG,
    AlexNet,
    DeepLab,
    DenseNet,
    FCDenseNet,
    FCN8s,
    GoogLeNet,
    ResNet,
    SegNet,
)  # fmt: skip

torch = pytest.importorskip("torch")
import torch_classifiers as reference  # noqa: E402
import torch_segmentation as segmentation  # noqa: E402

PAIRS = {
    "vgg11": lambda: (reference.VGG(11, 7, width=2), VGG(11, 3, 7, width=2)),
    "vgg16": lambda: (reference.VGG(16, 7, width=2), VGG(16, 3, 7, width=2)),
    "vgg19_bn": lambda: (reference.VGG(19, 7, True, 2), VGG(19, 3, 7, True, width=2)),
    "alexnet": lambda: (reference.AlexNet(7, 16), AlexNet(3, 7, True, 16)),
    "resnet18": lambda: (reference.ResNet(18, 7, 4), ResNet(18, 3, 7, width=4)),
    "resnet50": lambda: (reference.ResNet(50, 7, 4), ResNet(50, 3, 7, width=4)),
    "resnet50-16": lambda: (
        reference.ResNet(50, 7, 4, (False, False, True)),
        ResNet(50, 3, 7, 16, width=4),
    ),
    "resnet101-8": lambda: (
        reference.ResNet(101, 7, 2, (False, True, True)),
        ResNet(101, 3, 7, 8, width=2),
    ),
    "densenet121": lambda: (reference.DenseNet(121, 7, 4), DenseNet(121, 3, 7, 4)),
    "densenet161": lambda: (reference.DenseNet(161, 7, 2), DenseNet(161, 3, 7, 2)),
    "googlenet": lambda: (reference.GoogLeNet(7, True, 8), GoogLeNet(3, 7, True, True, 8)),
    "googlenet-bare": lambda: (reference.GoogLeNet(7, False, 8), GoogLeNet(3, 7, True, False, 8)),
    "fcn8s": lambda: (segmentation.FCN8s(3, 5, 2), FCN8s(3, 5, "learned", width=2)),
    "largefov": lambda: (segmentation.LargeFOV(3, 5, 2), DeepLab(3, 5, width=2)),
    "segnet": lambda: (segmentation.SegNet(3, 5, 2), SegNet(3, 5, width=2)),
    "fcdensenet": lambda: (
        segmentation.FCDenseNet(3, 5, 3, (2, 3, 2), 4),
        FCDenseNet(3, 5, 3, (2, 3, 2), 4),
    ),
}
OTHER_SIZES = {"largefov": (73, 97)}  # what its twin takes
# Side of what a linear layer behind a feature map sees.
SIDES = {"vgg": ("classifier.0", 7), "alexnet": ("classifier.1", 6), "googlenet": ("fc1", 4)}


def _ours(name, value, bins):
    """An array of PyTorch in our layout: channels last."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim != 2:
        return value
    layer, side = bins
    if layer in name:
        value = value.reshape(len(value), -1, side, side).transpose(0, 2, 3, 1)
    return value.reshape(len(value), -1).T


def _hand_over(pair, network, model):
    bins = next((bins for start, bins in SIDES.items() if pair.startswith(start)), ("none", 0))
    theirs = {name: value.numpy() for name, value in network.state_dict().items()}
    moments = [name for name, _ in network.named_buffers()]
    order = [name for name in theirs if name not in moments] + moments
    values = [_ours(name, theirs[name], bins) for name in order]
    ours = model.state_dict()
    assert [v.shape for v in ours.values()] == [v.shape for v in values]
    model.load_state_dict(dict(zip(ours, values, strict=True)))
    return bins


@pytest.mark.parametrize("pair", PAIRS)
def test_same_results_and_gradients_with_the_same_weights(pair):
    network, model = PAIRS[pair]()
    reference.randomised(network).double()
    model.to(np.float64)
    bins = _hand_over(pair, network, model)
    for part in [*network.modules(), *model.modules()]:
        if type(part).__name__ == "Dropout":
            part.p = 0.0
    network.requires_grad_(True)
    size = OTHER_SIZES.get(pair, (75, 98))
    x = np.random.default_rng(0).normal(size=(3, *size, 3))
    for training in (False, True):
        network.train(training)
        model.train(training)
        theirs, ours = network(torch.tensor(x.transpose(0, 3, 1, 2))), model(x)
        theirs, ours = (y if isinstance(y, tuple) else (y,) for y in (theirs, ours))
        for their, our in zip(theirs, ours, strict=True):
            expected = their.detach().movedim(1, -1).numpy()
            np.testing.assert_allclose(our.numpy(), expected, rtol=1e-7, atol=1e-9)
    sum(y.sum() for y in theirs).backward()
    sum(y.sum() for y in ours).backward()
    pairs = zip(network.named_parameters(), model.named_parameters(), strict=True)
    for (name, their), (_, our) in pairs:
        expected = _ours(name, their.grad.numpy(), bins)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(our.grad, expected, rtol=1e-5, atol=1e-6 * scale + 1e-9)
