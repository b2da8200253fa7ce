"""U-Net against the numbers of its paper."""

import numpy as np
import pytest

from minidl import Tensor, nn, no_grad, optim
from minidl import functional as F
from minidl.models import UNet, UNetSlides
from minidl.models.unet import crop


def _count(model):
    return sum(parameter.size for parameter in model.parameters())


def _paper(in_channels=1, num_classes=2, depth=5, root=64):
    return UNet(in_channels, num_classes, depth, root, padding="valid", batch_norm=False)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ((1, 2), 31_030_658),
        ((3, 2), 31_031_810),
        ((1, 1), 31_030_593),
        ((3, 21), 31_033_045),
        ((3, 2, 3, 8), 29_474),
        ((1, 2, 3, 8), 29_330),
        ((3, 2, 3, 16), 117_058),
        ((1, 2, 3, 32), 465_986),
        ((1, 2, 3, 64), 1_861_762),
        ((1, 2, 4, 64), 7_696_258),
    ],
)
def test_parameter_counts(arguments, count):
    assert _count(_paper(*arguments)) == count


def test_parameters_of_each_layer():
    sizes = {
        name: sum(p.size for p in module.parameters()) for name, module in _paper().named_modules()
    }
    levels = [
        (640, 36_928), (73_856, 147_584), (295_168, 590_080), (1_180_160, 2_359_808),
        (4_719_616, 9_438_208),
    ]  # fmt: skip
    for level, (first, second) in enumerate(levels):
        assert sizes[f"down.{level}.conv1"] == first
        assert sizes[f"down.{level}.conv2"] == second
    ups = [
        (2_097_664, 4_719_104, 2_359_808), (524_544, 1_179_904, 590_080),
        (131_200, 295_040, 147_584), (32_832, 73_792, 36_928),
    ]  # fmt: skip
    for level, (up, first, second) in enumerate(ups):
        assert sizes[f"up.{level}"] == up
        assert sizes[f"merge.{level}.conv1"] == first
        assert sizes[f"merge.{level}.conv2"] == second
    assert sizes["scores"] == 130


@pytest.mark.slow
def test_the_network_of_the_paper_maps_572_to_388():
    with no_grad():
        assert _paper()(np.zeros((1, 572, 572, 1), np.float32)).shape == (1, 388, 388, 2)


@pytest.mark.parametrize(
    ("depth", "sizes"),
    [
        (1, {5: 1, 6: 2}),
        (2, {18: 2, 20: 4}),
        (3, {44: 4, 48: 8}),
        (4, {92: 4, 100: 12}),
        (5, {188: 4, 204: 20, 220: 36}),
    ],
)
def test_valid_sizes(depth, sizes):
    model = UNet(1, 2, depth, root=1, padding="valid", batch_norm=False)
    assert model.shrink == {1: 4, 2: 16, 3: 40, 4: 88, 5: 184}[depth]
    smallest, *_ = sizes
    assert model.fitting_size(0) == smallest
    with no_grad():
        for size, result in sizes.items():
            assert model(np.zeros((1, size, smallest, 1), np.float32)).shape[1] == result
            assert model.fitting_size(size) == size
            assert result == size - model.shrink
    for size in range(1, 250):
        if model.fitting_size(size) != size:
            with pytest.raises(ValueError, match="UNet: height and width .*padding='valid', depth"):
                model(np.zeros((1, size, smallest, 1), np.float32))


def test_same_keeps_the_size():
    model = UNet(3, 4, depth=3, root=2)
    assert (model.shrink, model.multiple, model.stride) == (0, 4, 4)
    assert model(np.zeros((2, 12, 20, 3), np.float32)).shape == (2, 12, 20, 4)


def test_crop_takes_the_centre_of_the_skip():
    skip = Tensor(np.arange(8 * 7.0).reshape(1, 8, 7, 1))
    up = Tensor(np.full((1, 4, 3, 1), -1.0))
    kept = crop(skip, up).numpy()[0, :, :, 0]
    np.testing.assert_array_equal(kept, np.arange(56.0).reshape(8, 7)[2:6, 2:5])


def test_crops_of_the_paper():
    # The margins that are cut off on each side when 572 pixels come in.
    sizes = {568: 392, 280: 200, 136: 104, 64: 56}
    assert [(before - after) // 2 for before, after in sizes.items()] == [88, 40, 16, 4]
    rows = {size: np.zeros((1, size, 1, 1), np.float32) for pair in sizes.items() for size in pair}
    for (before, after), margin in zip(sizes.items(), (88, 40, 16, 4), strict=True):
        skip = rows[before] + np.arange(before, dtype=np.float32)[:, None, None]
        kept = crop(Tensor(skip), Tensor(rows[after])).numpy()[0, :, 0, 0]
        assert (kept[0], kept[-1]) == (margin, before - 1 - margin)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_gradient_reaches_every_parameter_and_the_loss_falls(padding, batch_norm):
    rng = np.random.default_rng(0)
    model = UNet(1, 3, depth=3, root=4, padding=padding, batch_norm=batch_norm, rng=rng)
    x = rng.normal(size=(2, 44, 48, 1)).astype(np.float32)
    scores = model(x)
    labels = rng.integers(0, 3, scores.shape[:-1])
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        assert all(p.grad is not None and np.any(p.grad) for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert scores.dtype == np.float32
    assert losses[-1] < losses[0] - 0.01


def test_scores_are_linear():
    model = UNet(1, 2, depth=1, root=4)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    model.scores.bias.data[:] = 0
    before = model.eval()(x).numpy()
    model.scores.weight.data[...] *= -2
    np.testing.assert_allclose(model(x).numpy(), -2 * before, rtol=1e-5, atol=1e-6)
    assert (before < 0).any() or (before > 0).any()


def test_dropout_acts_at_the_bottom_and_in_training_only():
    model = UNet(1, 2, depth=2, root=4, dropout=1.0)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    model(x).sum().backward()
    assert not np.any(model.down[1].conv1.weight.grad)
    assert np.any(model.down[0].conv1.weight.grad)
    model.eval().zero_grad()
    model(x).sum().backward()
    assert np.any(model.down[1].conv1.weight.grad)


def test_convolutions_have_a_bias_only_without_batch_normalisation():
    assert UNet(1, 2, 2, 4).down[0].conv1.bias is None
    assert UNet(1, 2, 2, 4).up[0].bias is not None
    assert UNet(1, 2, 2, 4, batch_norm=False).down[0].conv1.bias is not None


def test_same_seed_same_network():
    first, second = (UNet(1, 2, 2, 4, rng=np.random.default_rng(7)) for _ in range(2))
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value, second.state_dict()[name])


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        (
            {},
            (1, 350, 500, 1),
            r"height and width must be multiples of 16, but the image is 350 x 500\. Pad it to "
            r"\(352, 512\), or use predict\(\)",
        ),
        (
            {"padding": "valid"},
            (1, 350, 500, 1),
            r"at least 188, and 12 more than a multiple of 16.*350 x 500.*\(364, 508\)",
        ),
        ({}, (350, 512, 1), r"x must be images \(N, H, W, 1\), but has shape \(350, 512, 1\)"),
        ({}, (1, 1, 512, 512), r"but has shape \(1, 1, 512, 512\)\. Channels come last"),
    ],
)
def test_unfit_images_are_refused(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        UNet(1, 2, root=1, **arguments)(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "UNet: depth must be an integer >= 1, but is 0"),
        ({"padding": "full"}, "UNet: padding must be one of 'same', 'valid', but is 'full'"),
        ({"dropout": 2}, "Dropout: p must be between 0 and 1"),
    ],
)
def test_unfit_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(1, 2, **arguments)


# ---- the slides' ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "count", "regularised"),
    [
        ((3, 2, 3, 8), 29_474, 26_872),
        ((1, 2, 3, 8), 29_330, 26_728),
        ((3, 2, 3, 16), 117_058, 106_736),
        ((1, 2, 3, 16), 116_770, 106_448),
        ((1, 2, 3, 32), 465_986, 424_864),
        ((1, 2, 3, 64), 1_861_762, 1_697_600),
        ((1, 2, 4, 64), 7_696_258, 7_007_552),
        ((1, 2, 5, 64), 31_030_658, 28_244_288),
    ],
)
def test_parameters_of_the_slides(arguments, count, regularised):
    model = UNetSlides(*arguments)
    assert _count(model) == count
    assert sum(p.size for p in model.variables()) == regularised


def test_layers_of_the_slides():
    """420 x 580 pixels, three levels, root 8: the table from top to bottom."""
    model, sizes = UNetSlides(3, 2), []
    weighted = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    counts = {name: sum(p.size for p in module.parameters()) for name, module in weighted}
    for name, module in weighted:
        module.forward = _noting(sizes, name, module.forward)
    with no_grad():
        model.eval()(np.zeros((1, 420, 580, 3), np.float32))
    assert [(name, *size, counts[name]) for name, size in sizes] == [
        ("down.0.conv1", 418, 578, 224),
        ("down.0.conv2", 416, 576, 584),
        ("down.1.conv1", 206, 286, 1_168),
        ("down.1.conv2", 204, 284, 2_320),
        ("down.2.conv1", 100, 140, 4_640),
        ("down.2.conv2", 98, 138, 9_248),
        ("up.0", 196, 276, 2_064),
        ("merge.0.conv1", 194, 274, 4_624),
        ("merge.0.conv2", 192, 272, 2_320),
        ("up.1", 384, 544, 520),
        ("merge.1.conv1", 382, 542, 1_160),
        ("merge.1.conv2", 380, 540, 584),
        ("scores", 380, 540, 18),
    ]


def _noting(sizes, name, forward):
    def noted(*arguments, **named):
        result = forward(*arguments, **named)
        sizes.append((name, result.shape[1:3]))
        return result

    return noted


@pytest.mark.parametrize(
    ("layers", "filter_size", "pool_size", "shrink", "sizes"),
    [
        (3, 3, 2, 40, {44: 4, 48: 8}),
        (5, 3, 2, 184, {188: 4, 204: 20}),
        (1, 3, 2, 4, {5: 1, 6: 2}),
        (2, 5, 2, 32, {34: 2, 36: 4}),
        (2, 3, 3, 20, {22: 2, 25: 5}),
        (3, 2, 3, 34, {35: 1, 44: 10}),
        (2, 1, 2, 0, {2: 2, 4: 4}),
    ],
)
def test_sizes_of_the_slides(layers, filter_size, pool_size, shrink, sizes):
    model = UNetSlides(1, 2, layers, 1, filter_size, pool_size).eval()
    assert model.shrink == shrink
    smallest, *_ = sizes
    assert model.fitting_size(0) == smallest
    with no_grad():
        for size, result in sizes.items():
            assert model(np.zeros((1, size, smallest, 1), np.float32)).shape[1] == result
        refused = [n for n in range(1, smallest + 9) if model.fitting_size(n) != n]
        for size in refused:
            with pytest.raises(ValueError, match="UNetSlides: height and width must be at least"):
                model(np.zeros((1, size, smallest, 1), np.float32))


def test_sizes_that_tf_unet_shifts_by_a_pixel_are_refused():
    with pytest.raises(
        ValueError,
        match=r"at least 44, and 0 more than a multiple of 4 \(layers 3, filter_size 3, "
        r"pool_size 2\), but the image is 210 x 290\. Pad it to \(212, 292\)",
    ):
        UNetSlides(1, 2)(np.zeros((1, 210, 290, 1), np.float32))


def test_first_weights_of_the_slides():
    model = UNetSlides(3, 2, 3, 64, rng=np.random.default_rng(0))
    # The channels that result on the way down, and twice those on the way up.
    wide = {"down.0": 64, "down.1": 128, "down.2": 256, "up.0": 256, "merge.0": 256, "up.1": 128}
    wide |= {"merge.1": 128, "scores": 128}
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert np.all(p.data == np.float32(0.1))
            continue
        (features,) = (value for prefix, value in wide.items() if name.startswith(prefix))
        deviation = np.sqrt(2 / (9 * features))
        assert abs(p.data).max() <= 2 * deviation
        assert p.data.std() == pytest.approx(
            0.8796 * deviation, rel=0.12 if p.size < 2000 else 0.02
        )


def test_dropout_of_the_slides_is_in_front_of_bias_and_relu():
    conv = UNetSlides(1, 2, dropout=1.0, rng=np.random.default_rng(0)).down[0].conv1
    conv.bias.data = np.linspace(-1, 1, 8, dtype=np.float32)
    x = np.ones((1, 5, 5, 1), np.float32)
    everything_dropped = np.maximum(np.linspace(-1, 1, 8), 0)
    np.testing.assert_allclose(
        conv(x).numpy(), np.broadcast_to(everything_dropped, (1, 3, 3, 8)), rtol=1e-6
    )
    plain = F.conv2d(x, conv.weight, conv.bias).relu().numpy()
    np.testing.assert_allclose(conv.eval()(x).numpy(), plain, rtol=1e-5, atol=1e-6)


def test_the_relu_on_the_scores_stops_learning():
    model = UNetSlides(1, 2, dropout=0.0, output_relu=True, rng=np.random.default_rng(0))
    linear = UNetSlides(1, 2, dropout=0.0)
    for network in (model, linear):
        network.scores.bias.data[...] = -100
    x = np.random.default_rng(0).normal(size=(1, 44, 44, 1)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 2, (1, 4, 4))
    loss = F.cross_entropy(model(x), labels)
    loss.backward()
    assert loss.item() == pytest.approx(0.6931472)
    assert not any(np.any(p.grad) for p in model.parameters())
    F.cross_entropy(linear(x), labels).backward()
    assert all(np.any(p.grad) for p in linear.parameters())


def test_the_slides_network_is_the_papers_but_for_settings():
    """The same weights in both, where no ReLU behind the up-convolutions cuts anything."""
    slides = UNetSlides(3, 2, 3, 4, rng=np.random.default_rng(0)).eval()
    paper = _paper(3, 2, 3, 4).eval()
    state = {name: abs(value) for name, value in slides.state_dict().items()}
    slides.load_state_dict(state)
    paper.load_state_dict(state)
    x = np.random.default_rng(0).random((1, 48, 44, 3)).astype(np.float32)
    with no_grad():
        np.testing.assert_allclose(slides(x).numpy(), paper(x).numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 0}, "UNetSlides: layers must be an integer >= 1, but is 0"),
        ({"pool_size": 1}, "UNetSlides: pool_size must be an integer >= 2, but is 1"),
        ({"filter_size": 0}, "UNetSlides: filter_size must be an integer >= 1"),
        ({"features_root": 0}, "UNetSlides: features_root must be an integer >= 1"),
        ({"dropout": -1}, "Dropout: p must be between 0 and 1"),
    ],
)
def test_unfit_arguments_of_the_slides_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNetSlides(1, 2, **arguments)
