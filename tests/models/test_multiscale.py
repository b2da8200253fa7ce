"""Several scales: enlarging, dilation against decimation, pyramids of rates and of images."""

import numpy as np
import pytest

from minidl import Tensor, gradcheck, no_grad
from minidl import functional as F
from minidl.models import AtrousPyramid, DeepLabV2, ImagePyramid, Reduced, UNet
from minidl.models.multiscale import AtrousBranch, scoring, zoom
from minidl.models.network import ImageNetwork


@pytest.mark.parametrize(("cells", "size"), [(3, 17), (3, 12), (3, 20), (1, 5), (4, 1)])
def test_zoom_puts_cell_i_at_pixel_8_i(cells, size):
    x = np.random.default_rng(0).normal(size=(2, cells, 2, 3))
    y = zoom(Tensor(x), 8, (size, 9)).numpy()
    assert y.shape == (2, size, 9, 3)
    held = np.concatenate([x, *[x[:, -1:]] * 3], axis=1)  # behind the last cell nothing changes
    for h in range(size):
        below, part = divmod(h, 8)
        column = held[:, below, 0] * (1 - part / 8) + held[:, below + 1, 0] * part / 8
        np.testing.assert_allclose(y[:, h, 0], column, rtol=1e-12)
    np.testing.assert_allclose(y[:, 0, 8], x[:, 0, 1], rtol=1e-12)


def test_gradient_of_zoom():
    x = np.random.default_rng(1).normal(size=(1, 3, 2, 2))
    assert gradcheck(lambda x: zoom(x, 4, (11, 4)), [Tensor(x, requires_grad=True)])


@pytest.mark.parametrize("rate", [1, 2, 3, 5])
def test_dilation_is_convolution_of_the_decimated_image_and_what_lies_between(rate):
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=(1, 31, 24, 3)), rng.normal(size=(3, 3, 3, 2))
    dilated = F.conv2d(x, weight, padding=rate, dilation=rate).numpy()
    for row in range(rate):
        for column in range(rate):
            small = x[:, row::rate, column::rate]
            np.testing.assert_allclose(
                dilated[:, row::rate, column::rate],
                F.conv2d(small, weight, padding=1).numpy(),
                rtol=1e-10,
                atol=1e-12,
            )


def test_scoring_starts_small():
    layer = scoring(200, 30, 3, rng=np.random.default_rng(3))
    assert layer.weight.numpy().std() == pytest.approx(0.01, rel=0.02)
    assert not layer.bias.numpy().any()
    assert layer.weight.dtype == np.float32


# ---- atrous spatial pyramid pooling ---------------------------------------------------------


@pytest.mark.parametrize("channels", [None, 5])
def test_scores_of_the_branches_are_summed(channels):
    rng = np.random.default_rng(4)
    head = AtrousPyramid(4, 3, (1, 2, 6), channels, dropout=0.0, rng=rng).to(np.float64)
    x = rng.normal(size=(2, 9, 7, 4))
    total = 0
    for rate, branch in zip((1, 2, 6), head.branches, strict=True):
        first = branch if channels is None else branch.fc6
        y = F.conv2d(x, first.weight, first.bias, padding=rate, dilation=rate)
        if channels is not None:
            for conv in (branch.fc7, branch.fc8):
                y = F.relu(y).numpy() @ conv.weight.numpy()[0, 0] + conv.bias.numpy()
                y = Tensor(y)
        total = total + y.numpy()
    np.testing.assert_allclose(head(x).numpy(), total, rtol=1e-10, atol=1e-14)


def test_parameters_of_heads():
    def count(head):
        return sum(parameter.size for parameter in head.parameters())

    assert count(AtrousPyramid(2048, 21)) == 1_548_372
    assert count(AtrousBranch(512, 21)) == 4_719_616 + 1_049_600 + 21_525
    assert count(AtrousPyramid(512, 21, (2, 4, 8, 12), 1024)) == 37_877_652 - 14_714_688


def test_a_pyramid_has_rates():
    with pytest.raises(ValueError, match="AtrousPyramid: rates must be an integer"):
        AtrousPyramid(4, 3, rates=())


# ---- image pyramid --------------------------------------------------------------------------


class _Echo(ImageNetwork):
    """Gives the image back as scores, and notes how large it was."""

    multiple = 4

    def __init__(self):
        super().__init__(2, 2)
        self.seen = []

    def forward(self, x):
        self.check_images(x)
        self.seen.append(x.shape[1:3])
        return x * len(self.seen)  # the network has changed between the scales


def test_images_are_looked_at_in_the_sizes_that_fit():
    network = _Echo()
    model = ImagePyramid(network, scales=(0.5, 0.75, 1, 1.5))
    assert model(Tensor(np.zeros((1, 20, 33, 2), np.float32))).shape == (1, 20, 33, 2)
    assert network.seen == [(12, 16), (16, 28), (20, 36), (32, 52)]
    assert (model.in_channels, model.num_classes, model.smallest) == (2, 2, 1)


@pytest.mark.parametrize(("fuse", "expected"), [("max", 3.0), ("mean", 2.0)])
def test_scores_are_fused(fuse, expected):
    model = ImagePyramid(_Echo(), fuse=fuse)
    ones = np.ones((1, 16, 16, 2), np.float32)
    np.testing.assert_allclose(model(Tensor(ones)).numpy(), expected, rtol=1e-6)
    model.network.seen.clear()
    each = [scores.numpy().mean() for scores in model.at_scales(Tensor(ones))]
    np.testing.assert_allclose(each, [1, 2, 3], rtol=1e-6)


def test_one_scale_is_the_network_itself():
    network = UNet(1, 3, depth=2, root=2, rng=np.random.default_rng(5)).eval()
    x = np.random.default_rng(6).normal(size=(1, 8, 10, 1)).astype(np.float32)
    with no_grad():
        fused = ImagePyramid(network, scales=[1.0])(x).numpy()
        np.testing.assert_array_equal(fused, network(x).numpy())


def test_scales_share_their_weights():
    network = DeepLabV2(3, 2, "resnet18", width=1)
    model = ImagePyramid(network)
    assert list(model.parameters()) == list(network.parameters())


def test_gradient_reaches_the_scale_that_won():
    model = ImagePyramid(_Echo(), scales=(1, 1))
    x = Tensor(np.array([[[[-1.0, 2.0]] * 4] * 4]), requires_grad=True)
    model(x).sum().backward()
    # Scores are x and 2 x: the first wins where x is negative.
    np.testing.assert_allclose(x.grad, np.broadcast_to([1.0, 2.0], x.shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": ()}, "ImagePyramid: scales must be positive numbers, at least one"),
        ({"scales": (1, 0)}, "ImagePyramid: scales must be positive numbers"),
        ({"fuse": "sum"}, "ImagePyramid: fuse must be one of 'max', 'mean'"),
    ],
)
def test_unfit_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImagePyramid(_Echo(), **settings)


def test_a_reduced_network_sees_averages():
    network = UNet(2, 3, depth=2, root=2, rng=np.random.default_rng(1))
    x = np.random.default_rng(0).standard_normal((1, 16, 24, 2)).astype(np.float32)
    averages = x.reshape(1, 4, 4, 6, 4, 2).mean(axis=(2, 4))
    coarse = network(averages).numpy()
    fine = Reduced(network, 4)(x).numpy()
    # Pixel 1 of a coarse pixel lies an eighth of it before its middle.
    before, here = coarse[:, :1, :-1], coarse[:, :1, 1:]
    np.testing.assert_allclose(fine[:, :1, 5::4], 0.125 * before + 0.875 * here, atol=1e-5)
    np.testing.assert_allclose(fine[:, 0, 0], coarse[:, 0, 0], atol=1e-5)
    np.testing.assert_allclose(fine[:, -1, -1], coarse[:, -1, -1], atol=1e-5)
    assert Reduced(network, 4).fitting_size(9) == 16


def test_a_network_that_cuts_off_pixels_is_not_reduced():
    with pytest.raises(ValueError, match="Reduced: the network's scores must be as large as the"):
        Reduced(UNet(1, 2, padding="valid"), 2)
