"""Layers: that they take their function's arguments, pass all of them on, and own the state."""

import inspect
import re

import numpy as np
import pytest

from minidl import Tensor, kernels, nn, no_grad
from minidl import functional as F


def _function_of(layer):
    """The function that the documentation of a layer refers to."""
    named = re.search(r"`minidl\.functional\.(\w+)`", layer.__doc__ or "")
    return getattr(F, named[1]) if named else None


LAYERS = [
    layer
    for name in nn.__all__
    if inspect.isclass(layer := getattr(nn, name)) and _function_of(layer)
]
# What tensors a layer owns or is called with, and what it needs to make its own.
TENSORS = {
    "x", "weight", "bias", "logits", "input", "target", "indices", "output_size", "pixel_weight",
    "running_mean", "running_var", "training", "beside", "plus", "distance", "scale",
}  # fmt: skip
OWN = {
    "in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels",
    "kernel_size", "bias", "rng", "dtype", "affine", "track_running_stats", "elementwise_affine",
}  # fmt: skip


def _defaults(function, without):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in without | {"self"}}


def test_every_layer_says_what_it_computes():
    others = {
        "Module", "ModuleList", "Sequential", "Parameter", "Identity", "Flatten", "ZeroPad2d",
        "ReflectionPad2d", "ReplicationPad2d", "CombinedLoss", "init",
    }  # fmt: skip
    assert {layer.__name__ for layer in LAYERS} == set(nn.__all__) - others


@pytest.mark.parametrize("layer", LAYERS)
def test_arguments_are_those_of_the_function(layer):
    function = _function_of(layer)
    pools = "pool" in layer.__name__.lower()
    own = OWN - {"kernel_size"} if pools else OWN
    tensors = TENSORS - {"output_size"} if "Adaptive" in layer.__name__ else TENSORS
    if layer.__name__.endswith("Loss"):  # their weights are settings
        own, tensors = set(), tensors - {"weight"}
    assert _defaults(layer.__init__, own) == _defaults(function, tensors)


def _image(channels=4, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(2, 8, 6, channels)).astype(dtype)


def _sequence(channels=4):
    return _image(channels)[:, :, 0].copy()


def _volume(channels=4):
    return np.random.default_rng(0).normal(size=(2, 4, 5, 6, channels)).astype(np.float32)


# A layer with every setting away from its default, an input, and the call it must make.
CALLS = [
    (nn.Linear(4, 3), _image(), lambda m, x: F.linear(x, m.weight, m.bias)),
    (
        nn.Conv1d(4, 6, 3, 2, ((1, 2),), 2, 2),
        _sequence(),
        lambda m, x: F.conv1d(x, m.weight, m.bias, 2, ((1, 2),), 2, 2),
    ),
    (
        nn.Conv2d(4, 6, (3, 2), 2, ((1, 2), (0, 1)), 2, 2),
        _image(),
        lambda m, x: F.conv2d(x, m.weight, m.bias, 2, ((1, 2), (0, 1)), 2, 2),
    ),
    (
        nn.Conv2d(4, 6, 3, padding="same", bias=False),
        _image(),
        lambda m, x: F.conv2d(x, m.weight, padding="same"),
    ),
    (
        nn.Conv3d(4, 6, 2, (1, 2, 1), 1, 2, 2),
        _volume(),
        lambda m, x: F.conv3d(x, m.weight, m.bias, (1, 2, 1), 1, 2, 2),
    ),
    (
        nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, dilation=2),
        _sequence(),
        lambda m, x: F.conv_transpose1d(x, m.weight, m.bias, 2, 1, 1, 2, 2),
    ),
    (
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, dilation=2),
        _image(),
        lambda m, x: F.conv_transpose2d(x, m.weight, m.bias, 2, 1, 1, 2, 2),
    ),
    (
        nn.ConvTranspose3d(4, 6, 3, 2, 1, 1, 2, bias=False, dilation=2),
        _volume(),
        lambda m, x: F.conv_transpose3d(x, m.weight, None, 2, 1, 1, 2, 2),
    ),
    (
        nn.MaxPool1d(3, 2, 1, 2, True),
        _sequence(),
        lambda m, x: F.max_pool1d(x, 3, 2, 1, 2, True),
    ),
    (
        nn.MaxPool2d(3, 2, 1, 2, True),
        _image(),
        lambda m, x: F.max_pool2d(x, 3, 2, 1, 2, True),
    ),
    (
        nn.MaxPool3d(2, 1, 1, 2, True),
        _volume(),
        lambda m, x: F.max_pool3d(x, 2, 1, 1, 2, True),
    ),
    (
        nn.AvgPool1d(3, 2, 1, True, False),
        _sequence(),
        lambda m, x: F.avg_pool1d(x, 3, 2, 1, True, False),
    ),
    (
        nn.AvgPool2d(3, 2, 1, True, False),
        _image(),
        lambda m, x: F.avg_pool2d(x, 3, 2, 1, True, False),
    ),
    (
        nn.AvgPool3d(3, 2, 1, True, False),
        _volume(),
        lambda m, x: F.avg_pool3d(x, 3, 2, 1, True, False),
    ),
    (nn.AdaptiveAvgPool2d((3, 2)), _image(), lambda m, x: F.adaptive_avg_pool2d(x, (3, 2))),
    (nn.AdaptiveMaxPool2d((3, 2)), _image(), lambda m, x: F.adaptive_max_pool2d(x, (3, 2))),
    (nn.Upsample((5, 7)), _image(), lambda m, x: F.interpolate(x, (5, 7))),
    (
        nn.Upsample(None, 2, "bilinear", True),
        _image(),
        lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    ),
    (nn.ReLU(), _image(), lambda m, x: F.relu(x)),
    (nn.LeakyReLU(0.3), _image(), lambda m, x: F.leaky_relu(x, 0.3)),
    (nn.ELU(0.5), _image(), lambda m, x: F.elu(x, 0.5)),
    (nn.GELU("tanh"), _image(), lambda m, x: F.gelu(x, "tanh")),
    (nn.Sigmoid(), _image(), lambda m, x: F.sigmoid(x)),
    (nn.Tanh(), _image(), lambda m, x: F.tanh(x)),
    (nn.Softplus(2.0, 1.0), _image(), lambda m, x: F.softplus(x, 2.0, 1.0)),
    (nn.Softmax(1), _image(), lambda m, x: F.softmax(x, 1)),
    (nn.LogSoftmax(1), _image(), lambda m, x: F.log_softmax(x, 1)),
    (
        nn.LocalResponseNorm(3, 0.1, 0.5, 2.0),
        _image(),
        lambda m, x: F.local_response_norm(x, 3, 0.1, 0.5, 2.0),
    ),
    (
        nn.GroupNorm(2, 4, eps=0.1),
        _image(),
        lambda m, x: F.group_norm(x, 2, m.weight, m.bias, 0.1),
    ),
    (
        nn.LayerNorm((6, 4), eps=0.1),
        _image(),
        lambda m, x: F.layer_norm(x, (6, 4), m.weight, m.bias, 0.1),
    ),
    (
        nn.ZeroPad2d((1, 2, 3, 0)),
        _image(),
        lambda m, x: F.pad(x, ((0, 0), (3, 0), (1, 2), (0, 0))),
    ),
    (
        nn.ReflectionPad2d(2),
        _image(),
        lambda m, x: F.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect"),
    ),
    (
        nn.ReplicationPad2d((1, 0, 0, 2)),
        _image(),
        lambda m, x: F.pad(x, ((0, 0), (0, 2), (1, 0), (0, 0)), "replicate"),
    ),
]


@pytest.mark.parametrize(("layer", "x", "call"), CALLS, ids=lambda v: type(v).__name__)
def test_layer_calls_its_function_with_its_arguments(layer, x, call):
    for parameter in layer.parameters():  # no ones and zeros that would hide a mistake
        parameter.data = np.random.default_rng(1).normal(size=parameter.shape).astype(np.float32)
    np.testing.assert_array_equal(layer(x).numpy(), call(layer, Tensor(x)).numpy())


LABELS = np.random.default_rng(1).integers(0, 4, (2, 8, 6))
SHARES = np.random.default_rng(1).dirichlet(np.ones(4), (2, 8, 6)).astype(np.float32)
WEIGHT = np.array([1.0, 2.0, 0.5, 3.0])
LOSSES = [
    (
        nn.CrossEntropyLoss(WEIGHT, 2, "sum", 0.1),
        lambda x: F.cross_entropy(x, LABELS, WEIGHT, 2, "sum", 0.1),
        LABELS,
    ),
    (
        nn.FocalLoss(1.0, WEIGHT, 2, "sum"),
        lambda x: F.focal_loss(x, LABELS, 1.0, WEIGHT, 2, "sum"),
        LABELS,
    ),
    (
        nn.DiceLoss(2.0, False, True, 2, "sum", WEIGHT, "skip"),
        lambda x: F.dice_loss(x, LABELS, 2.0, False, True, 2, "sum", WEIGHT, absent="skip"),
        LABELS,
    ),
    (
        nn.TverskyLoss(0.2, 0.7, 2.0, False, True, 2, "sum", WEIGHT, "skip"),
        lambda x: F.tversky_loss(
            x, LABELS, 0.2, 0.7, 2.0, False, True, 2, "sum", WEIGHT, absent="skip"
        ),
        LABELS,
    ),
    (
        nn.GeneralisedDiceLoss(1.0, False, True, 2, "sum", WEIGHT, "skip"),
        lambda x: F.generalised_dice_loss(
            x, LABELS, 1.0, False, True, 2, "sum", WEIGHT, absent="skip"
        ),
        LABELS,
    ),
    (
        nn.LovaszSoftmaxLoss(False, False, 2, "sum", WEIGHT, "count"),
        lambda x: F.lovasz_softmax(x, LABELS, False, False, 2, "sum", WEIGHT, absent="count"),
        LABELS,
    ),
    (
        nn.BoundaryLoss(WEIGHT, 2, "sum"),
        lambda x: F.boundary_loss(x, SHARES, None, WEIGHT, 2, "sum"),
        SHARES,
    ),
    (
        nn.BCEWithLogitsLoss(WEIGHT, WEIGHT + 1, "sum"),
        lambda x: F.binary_cross_entropy_with_logits(x, SHARES, WEIGHT, WEIGHT + 1, "sum"),
        SHARES,
    ),
    (nn.MSELoss("sum"), lambda x: F.mse_loss(x, SHARES, "sum"), SHARES),
    (nn.L1Loss("sum"), lambda x: F.l1_loss(x, SHARES, "sum"), SHARES),
    (nn.KLDivLoss("sum", True), lambda x: F.kl_div(x, SHARES, "sum", True), SHARES),
]


@pytest.mark.parametrize(("layer", "call", "target"), LOSSES, ids=lambda v: type(v).__name__)
def test_loss_calls_its_function_with_its_arguments(layer, call, target):
    assert layer(_image(), target).item() == call(_image()).item()


def test_cross_entropy_takes_a_weight_for_each_pixel():
    weights = np.random.default_rng(2).uniform(size=LABELS.shape)
    expected = F.cross_entropy(_image(), LABELS, pixel_weight=weights).item()
    assert nn.CrossEntropyLoss()(_image(), LABELS, weights).item() == expected


@pytest.mark.parametrize(
    "name", ["FocalLoss", "DiceLoss", "TverskyLoss", "GeneralisedDiceLoss", "LovaszSoftmaxLoss"]
)
def test_losses_over_labels_take_a_weight_for_each_pixel(name):
    weights = np.random.default_rng(2).uniform(size=LABELS.shape)
    loss = getattr(nn, name)()
    assert loss(_image(), LABELS, weights).item() != loss(_image(), LABELS).item()
    assert loss(_image(), LABELS, np.ones(LABELS.shape)).item() == pytest.approx(
        loss(_image(), LABELS).item()
    )


def test_boundary_loss_takes_labels_and_weights():
    weights = np.random.default_rng(2).uniform(size=LABELS.shape)
    expected = F.boundary_loss(_image(), SHARES, LABELS, None, 2, pixel_weight=weights).item()
    loss = nn.BoundaryLoss(ignore_index=2)
    assert loss(_image(), SHARES, LABELS, weights).item() == expected


class TestCombinedLoss:
    def test_is_the_weighted_sum(self):
        losses = nn.CrossEntropyLoss(), nn.DiceLoss(), nn.BoundaryLoss(), nn.MSELoss()
        combined = nn.CombinedLoss(*losses[:3], shares=(1, 0.5, 0.01))
        x, weights = _image(), np.random.default_rng(2).uniform(size=LABELS.shape)
        given = {"pixel_weight": weights, "distance": SHARES}
        expected = (
            F.cross_entropy(x, LABELS, pixel_weight=weights).item()
            + 0.5 * F.dice_loss(x, LABELS, pixel_weight=weights).item()
            + 0.01 * F.boundary_loss(x, SHARES, LABELS, pixel_weight=weights).item()
        )
        assert combined(x, LABELS, **given).item() == pytest.approx(expected, rel=1e-5)
        combined.shares[1:] = 0, 0
        alone = F.cross_entropy(x, LABELS, pixel_weight=weights).item()
        assert combined(x, LABELS, **given).item() == alone

    def test_gradients_add_up(self):
        parts = []
        for loss in (nn.FocalLoss(), nn.DiceLoss(), nn.CombinedLoss(nn.FocalLoss(), nn.DiceLoss())):
            x = Tensor(_image(), requires_grad=True)
            loss(x, LABELS).backward()
            parts.append(x.grad)
        np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=1e-5, atol=1e-8)

    def test_errors(self):
        with pytest.raises(ValueError, match="give it at least one loss"):
            nn.CombinedLoss()
        with pytest.raises(ValueError, match="shares must be 2 numbers"):
            nn.CombinedLoss(nn.FocalLoss(), nn.DiceLoss(), shares=[1])
        with pytest.raises(TypeError, match="none of its losses takes an argument 'distance'"):
            nn.CombinedLoss(nn.FocalLoss())(_image(), LABELS, distance=SHARES)


def test_pooling_and_unpooling():
    pooled, indices = nn.MaxPool2d(2, return_indices=True)(_image())
    expected = F.max_unpool2d(pooled, indices, 2).numpy()
    np.testing.assert_array_equal(nn.MaxUnpool2d(2)(pooled, indices).numpy(), expected)
    larger = nn.MaxUnpool2d(2, 2, 0)(pooled, indices, output_size=(8, 6))
    np.testing.assert_array_equal(larger.numpy(), expected)


class TestDropout:
    @pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout2d])
    def test_only_in_training(self, layer):
        module = layer(0.5, np.random.default_rng(0))
        x = np.ones((4, 8, 8, 16), np.float32)
        dropped = (module(x).numpy() == 0).mean()
        assert 0.2 < dropped < 0.8
        np.testing.assert_array_equal(module.eval()(x).numpy(), x)

    def test_drops_whole_channels(self):
        y = nn.Dropout2d(0.5, np.random.default_rng(0))(np.ones((4, 8, 8, 16), np.float32)).numpy()
        assert set(y.mean(axis=(1, 2)).ravel()) == {0.0, 2.0}

    def test_probability_out_of_range(self):
        with pytest.raises(ValueError, match="Dropout: p must be between 0 and 1, but is 2"):
            nn.Dropout(2)


class TestBatchNorm:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("channels, settings", [(4, {"groups": 2}), (20, {"padding": 1})])
    def test_becomes_part_of_the_convolution_before(self, channels, settings, bias, monkeypatch):
        conv = nn.Conv2d(channels, 24, 3, bias=bias, **settings)
        norm = nn.BatchNorm2d(24, activation="relu")
        rng, both = np.random.default_rng(1), nn.Sequential(conv, norm)
        for parameter in (norm.weight, norm.bias, *([conv.bias] if bias else [])):
            parameter.data = rng.normal(size=24).astype(np.float32)
        x = _image(channels)
        np.testing.assert_array_equal(both(x).numpy(), norm(conv(x)).numpy())
        both.eval()
        expected = norm(conv(x)).numpy()
        np.testing.assert_array_equal(both(x).numpy(), expected)  # gradients may be wanted
        monkeypatch.setattr(kernels.batchnorm, "normalise", None)
        with no_grad():
            np.testing.assert_allclose(both(x).numpy(), expected, atol=2e-6 * expected.max())

    def test_training_moves_the_running_moments(self):
        layer, x = nn.BatchNorm2d(4, momentum=0.25), _image() * 3 + 1
        layer(x)
        values = x.reshape(-1, 4).astype(np.float64)
        np.testing.assert_allclose(layer.running_mean, values.mean(0) / 4, rtol=1e-5)
        unbiased = values.var(0, ddof=1)
        np.testing.assert_allclose(layer.running_var, 0.75 + unbiased / 4, rtol=1e-5)
        assert layer.num_batches_tracked == 1

    def test_predicting_uses_and_keeps_them(self):
        layer = nn.BatchNorm2d(4, eps=0.1).eval()
        layer.running_mean[:], layer.running_var[:] = 2, 4
        state = layer.state_dict()
        np.testing.assert_allclose(
            layer(_image()).numpy(), (_image() - 2) / np.sqrt(4.1), rtol=1e-5, atol=1e-6
        )
        for name, value in layer.state_dict().items():
            np.testing.assert_array_equal(value, state[name])

    @pytest.mark.parametrize("training", [True, False])
    def test_activation_is_a_relu_behind_it(self, training):
        fused, plain = nn.BatchNorm2d(4, activation="relu"), nn.BatchNorm2d(4)
        for layer in (fused, plain):
            layer(_image() + 1)
            layer.train(training)
        np.testing.assert_array_equal(fused(_image()).numpy(), plain(_image()).relu().numpy())
        np.testing.assert_array_equal(fused.running_var, plain.running_var)

    def test_without_momentum_they_are_means_over_batches(self):
        layer = nn.BatchNorm1d(4, momentum=None)
        batches = np.random.default_rng(0).normal(size=(3, 10, 4)).astype(np.float32)
        for batch in batches:
            layer(batch)
        np.testing.assert_allclose(
            layer.running_mean, batches.mean(axis=(0, 1)), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            layer.running_var, batches.var(axis=1, ddof=1).mean(axis=0), rtol=1e-4
        )

    def test_without_running_moments_predicting_uses_the_batch(self):
        layer = nn.BatchNorm2d(4, track_running_stats=False, affine=False).eval()
        assert layer.state_dict() == {}
        y = layer(_image()).numpy()
        np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-6)
        np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, rtol=1e-4)

    @pytest.mark.parametrize(
        ("layer", "x"),
        [(nn.BatchNorm1d, _sequence()), (nn.BatchNorm2d, _image()), (nn.BatchNorm3d, _volume())],
    )
    @pytest.mark.parametrize("momentum", [0.1, None])
    def test_is_that_of_pytorch(self, layer, x, momentum):
        torch = pytest.importorskip("torch")
        ours, theirs = (
            layer(4, momentum=momentum),
            getattr(torch.nn, layer.__name__)(4, momentum=momentum),
        )
        for scale in (1, 3):
            y = ours(scale * x)
            expected = theirs(torch.tensor(scale * x).movedim(-1, 1)).movedim(1, -1)
            np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
        for name, value in theirs.state_dict().items():
            np.testing.assert_allclose(ours.state_dict()[name], value.numpy(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("layer", "x", "message"),
        [
            (
                nn.BatchNorm1d(4),
                _image(),
                r"BatchNorm1d: x must have shape \(N, C\) or \(N, L, C\)",
            ),
            (nn.BatchNorm2d(4), _sequence(), r"BatchNorm2d: x must have shape \(N, H, W, C\), but"),
            (nn.BatchNorm2d(3), _image(), "batch_norm: "),
        ],
    )
    def test_errors(self, layer, x, message):
        with pytest.raises(ValueError, match=message):
            layer(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(0, 3, 3), "Conv2d: in_channels must be an integer >= 1, but is 0"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: in_channels=3 must be divisible by gro"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), "Conv2d: out_channels=3 must be divisible by"),
        (lambda: nn.Conv3d(4, 3, (3, 3)), "Conv3d: kernel_size must be an integer or 3 integers"),
        (lambda: nn.ConvTranspose1d(4, 3, 0), "ConvTranspose1d: kernel_size must be an integer"),
        (lambda: nn.Linear(4, 2.5), "Linear: out_features must be an integer >= 1, but is 2.5"),
        (lambda: nn.BatchNorm2d(0), "BatchNorm2d: num_features must be an integer >= 1"),
        (
            lambda: nn.BatchNorm1d(3, activation="tanh"),
            "BatchNorm1d: activation must be one of None, 'relu', but is 'tanh'",
        ),
        (lambda: nn.GroupNorm(3, 4), "GroupNorm: num_channels=4 must be divisible by num_groups=3"),
        (lambda: nn.GroupNorm(2, 6)(_image()), "GroupNorm: x must have 6 channels in its last"),
        (lambda: nn.ZeroPad2d((1, 2)), "ZeroPad2d: padding must be one number or"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_can_be_made_in_double_precision():
    layer = nn.Conv2d(4, 3, 3, dtype=np.float64)
    assert layer(_image(dtype=np.float64)).dtype == np.float64
