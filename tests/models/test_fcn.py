"""Fully convolutional networks against the numbers of the paper and of the slides."""

import numpy as np
import pytest

from minidl import Tensor, no_grad
from minidl import functional as F
from minidl.models import VGG, FCN8s, FCN16s, FCN32s, FCNSlides, fcn8s, fcn16s, fcn32s
from minidl.models.fcn import SameUp, Upscore

# Behind each pool, fc7; then of FCN-32s, 16s and 8s the last but one and the last, enlarged.
SIZES = {
    224: ((211, 106, 53, 27, 14), 8, 288, 18, 304, 38, 312),
    256: ((227, 114, 57, 29, 15), 9, 320, 20, 336, 42, 344),
    375: ((287, 144, 72, 36, 18), 12, 416, 26, 432, 54, 440),
    420: ((309, 155, 78, 39, 20), 14, 480, 30, 496, 62, 504),
    500: ((349, 175, 88, 44, 22), 16, 544, 34, 560, 70, 568),
    512: ((355, 178, 89, 45, 23), 17, 576, 36, 592, 74, 600),
    580: ((389, 195, 98, 49, 25), 19, 640, 40, 656, 82, 664),
}
KINDS = FCN32s, FCN16s, FCN8s
each_kind = pytest.mark.parametrize("kind", KINDS)


def _counts(model):
    """Learned parameters, and all."""
    sizes = [(p.size, p.requires_grad) for p in model.parameters()]
    return sum(size for size, learned in sizes if learned), sum(size for size, _ in sizes)


def _images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _with_scores(model, seed=0):
    """The model with other scores than zero."""
    rng = np.random.default_rng(seed)
    for name, p in model.named_parameters():
        if name.startswith("score"):
            p.data = rng.normal(size=p.shape).astype(np.float32)
    return model


# ---- sizes and counts -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_sizes_of_the_table(size):
    pools, fc7, *enlarged = SIZES[size]
    model = FCN8s(1, 2, width=1).eval()
    with no_grad():
        x = np.zeros((1, size, 1, 1), np.float32)
        maps = []
        for stage in model.stages:
            x = model.pool(stage(x))
            maps.append(x.shape[1])
        assert tuple(maps) == pools
        assert model.fc6(x).shape[1] == fc7
        coarse, pool3, pool4 = model.coarse_scores(np.zeros((1, size, 1, 1), np.float32))
        assert (coarse.shape[1], pool3.shape[1], pool4.shape[1]) == (fc7, pools[2], pools[3])
        up = model.upscore2(coarse)
        up4 = model.upscore_pool4(up)
        sixteen, thirty_two = (Upscore(2, stride, learned=False) for stride in (16, 32))
        found = [thirty_two(coarse), up, sixteen(up), up4, model.upscore8(up4)]
    assert [y.shape[1] for y in found] == enlarged


@pytest.mark.parametrize(
    ("kind", "classes", "fixed", "total"),
    [
        (FCN32s, 21, 134_346_581, 136_152_917),
        (FCN16s, 21, 134_357_354, 134_815_994),
        (FCN8s, 21, 134_362_751, 134_489_759),
        (FCN32s, 2, 134_268_738, 134_285_122),
        (FCN16s, 2, 134_269_764, 134_273_924),
        (FCN8s, 2, 134_270_278, 134_271_430),
    ],
)
def test_counts_follow_from_those_of_narrow_networks(kind, classes, fixed, total):
    """The full ones, as the sum of what grows with the width, without making them."""
    narrow, wide = (_counts(kind(3, classes, upsampling="fixed", width=w)) for w in (1, 2))
    # Of each width w the counts are a w**2 + b w + c, with c that of the up-convolutions and of
    # the biases of the scores; a is what VGG-16 and fc6, fc7 have: weights without the first.
    upsampling = total - fixed
    assert (narrow[1] - narrow[0], wide[1] - wide[0]) == (upsampling, upsampling)
    scores = {FCN32s: 1, FCN16s: 2, FCN8s: 3}[kind]
    c = scores * classes
    a = (wide[0] - 2 * narrow[0] + c) // 2
    b = narrow[0] - a - c
    assert a * 64**2 + b * 64 + c == fixed


@pytest.mark.parametrize(
    ("upsampling", "learned"),
    [("paper", [True, True, False]), ("fixed", [False] * 3), ("learned", [True] * 3)],
)
def test_which_up_convolutions_are_learned(upsampling, learned):
    model = FCN8s(1, 2, upsampling, width=1)
    layers = model.upscore2, model.upscore_pool4, model.upscore8
    assert [layer.weight.requires_grad for layer in layers] == learned
    x = _images(1, 9, 9, 1)
    _with_scores(model)(x).sum().backward()
    assert [layer.weight.grad is not None for layer in layers] == learned


def test_the_last_up_convolution_of_each_is_fixed_in_the_paper():
    for model, last in ((FCN32s(1, 2, width=1), "upscore"), (FCN16s(1, 2, width=1), "upscore16")):
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        assert frozen == [f"{last}.weight"]


@each_kind
@pytest.mark.parametrize("size", [(1, 1), (2, 33), (31, 64), (97, 5)])
def test_any_size(kind, size):
    with no_grad():
        assert kind(3, 4, width=1)(_images(2, *size, 3)).shape == (2, *size, 4)


# ---- what the networks compute --------------------------------------------------------------


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_upscore_interpolates_between_zeros_around_the_image(stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 4, 2))
    layer = Upscore(2, stride, learned=False).to(np.float64)
    half = stride // 2
    y = layer(Tensor(x), half, (5 * stride, 4 * stride)).numpy()

    def enlarge(values, size):
        at = (np.arange(size * stride) + 0.5) / stride - 0.5
        return np.interp(at, np.arange(-1, size + 1), np.concatenate([[0], values, [0]]))

    for channel in range(2):
        rows = np.stack([enlarge(x[0, :, i, channel], 5) for i in range(4)], axis=1)
        expected = np.stack([enlarge(row, 4) for row in rows])
        np.testing.assert_allclose(y[0, :, :, channel], expected, atol=1e-12)
    # In the middle of the first pixel, a quarter of the way to zero: 0.75, in a corner squared.
    if stride == 2:
        ones = layer(Tensor(np.ones((1, 3, 3, 2))), 1, (6, 6)).numpy()[0, :, :, 0]
        np.testing.assert_allclose(ones[0], [0.5625, 0.75, 0.75, 0.75, 0.75, 0.5625])
        np.testing.assert_allclose(ones[2:4, 1:5], 1)


def test_upscore_cuts_out_what_it_is_asked_for():
    layer = Upscore(3, 8, learned=True)
    x = _images(2, 6, 5, 3)
    whole = layer(x).numpy()
    assert whole.shape == (2, 56, 48, 3)
    np.testing.assert_allclose(
        layer(x, 31, (20, 9)).numpy(), whole[:, 31:51, 31:40], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("classes", [2, 21])
@each_kind
def test_scores_start_at_zero(kind, classes):
    model = kind(3, classes, width=1)
    labels = np.random.default_rng(0).integers(0, classes, (1, 20, 30))
    loss = F.cross_entropy(model(_images(1, 20, 30, 3)), labels)
    assert loss.item() == pytest.approx({2: 0.6931472, 21: 3.0445224}[classes], abs=1e-6)


def test_it_is_the_classifier_wherever_that_fits():
    vgg = VGG(16, 3, 5, width=2, rng=np.random.default_rng(0)).eval()
    model = FCN32s(3, 5, width=2).eval()
    model.load_vgg(vgg)
    model.stages[0][0].padding = 1
    model.score_fr.weight.data = vgg.classifier[-1].weight.numpy()[None, None]
    model.score_fr.bias.data = vgg.classifier[-1].bias.numpy()
    x = _images(1, 224, 224, 3)
    with no_grad():
        expected = vgg(x).numpy()
        scores = model.coarse_scores(x)[0].numpy()
        assert model.coarse_scores(_images(1, 256, 320, 3))[0].shape == (1, 2, 4, 5)
    assert scores.shape == (1, 1, 1, 5)
    np.testing.assert_allclose(
        scores[:, 0, 0], expected, rtol=1e-4, atol=1e-5 * abs(expected).max()
    )


def test_load_vgg_refuses_others():
    with pytest.raises(
        ValueError, match=r"FCN8s\.load_vgg: expected VGG\(16, width=2\).*got VGG\(19.*width=2\)"
    ):
        FCN8s(3, 2, width=2).load_vgg(VGG(19, width=2))


def test_all_three_lie_the_same_way_over_the_image():
    """Interpolating a plane in one, two and three steps gives the same plane."""
    plane = np.add.outer(np.arange(12.0), 3 * np.arange(12.0))[None, ..., None]
    size = 200, 200
    three, two, one = (kind(1, 1, width=1).to(np.float64) for kind in (FCN8s, FCN16s, FCN32s))
    with no_grad():
        up = three.upscore_pool4(three.upscore2(Tensor(plane)))
        results = [
            one.upscore(Tensor(plane), 19, size),
            two.upscore16(two.upscore2(Tensor(plane)), 27, size),
            three.upscore8(up, 31, size),
        ]
    first, *others = (y.numpy()[0, 64:, 64:, 0] for y in results)
    assert np.ptp(first) > 3
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-9)


def test_each_starts_from_the_one_before():
    # With no scores from the finer maps, FCN-16s and FCN-8s enlarge what FCN-32s does.
    x = _images(1, 64, 64, 1)
    first = _with_scores(FCN32s(1, 3, width=2, rng=np.random.default_rng(0))).eval()
    second, third = FCN16s(1, 3, width=2).eval(), FCN8s(1, 3, width=2).eval()
    passed = second.load_state_dict(first.state_dict(), strict=False)
    assert passed.unexpected_keys == ["upscore.weight"]
    assert {name.split(".")[0] for name in passed.missing_keys} == {
        "upscore2", "score_pool4", "upscore16",
    }  # fmt: skip
    third.load_state_dict(second.state_dict(), strict=False)
    with no_grad():
        coarse, fine, finest = (model(x).numpy() for model in (first, second, third))
    # In steps, corners of the interpolation are cut, by a quarter at the most.
    for other in (fine, finest):
        assert 0 < abs(other - coarse).max() < np.ptp(coarse) / 4
        assert np.median(abs(other - coarse)) < 0.05 * coarse.std()


def test_scores_of_the_finer_maps_are_added_where_they_belong():
    model = FCN8s(1, 1, width=1).eval()
    model.score_pool4.weight.data[...] = 1
    model.score_pool3.weight.data[...] = 1
    x = _images(1, 100, 70, 1)
    with no_grad():
        _, pool3, pool4 = (y.numpy() for y in model.coarse_scores(x))
        found = model(x).numpy()
        # 100 and 70 pixels, with 198 more, make 10 and 9 behind the pools, 4 and 3 behind fc6.
        height, width = 2 * 4 + 2, 2 * 3 + 2
        up = pool4.sum(-1, keepdims=True)[:, 5 : 5 + height, 5 : 5 + width]
        up = model.upscore_pool4(up).numpy()
        up = up + pool3.sum(-1, keepdims=True)[:, 9 : 9 + up.shape[1], 9 : 9 + up.shape[2]]
        expected = model.upscore8(up).numpy()[:, 31:131, 31:101]
    assert abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_at_once_scales_the_finer_maps():
    x = _images(1, 24, 24, 1)
    model, at_once = (FCN8s(1, 2, at_once=flag, width=1).eval() for flag in (False, True))
    _with_scores(model)
    for bias in (model.score_pool3.bias, model.score_pool4.bias):
        bias.data[...] = 0
    at_once.load_state_dict(model.state_dict())
    with no_grad():
        expected = at_once(x).numpy()
        model.score_pool4.weight.data[...] *= 1e-2
        model.score_pool3.weight.data[...] *= 1e-4
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_ignored_pixels_have_no_gradient():
    model = _with_scores(FCN32s(1, 2, width=1)).eval()
    labels = np.full((1, 12, 12), 255)
    scores = model(Tensor(_images(1, 12, 12, 1), requires_grad=True))
    kept = Tensor(scores.numpy(), requires_grad=True)
    labels[0, :5] = 1
    F.cross_entropy(kept, labels, ignore_index=255).backward()
    assert np.all(kept.grad[0, :5] != 0)
    assert not np.any(kept.grad[0, 5:])


def test_small_letters_and_arguments():
    assert [type(make(width=1)) for make in (fcn32s, fcn16s, fcn8s)] == list(KINDS)
    with pytest.raises(ValueError, match="FCN16s: upsampling must be one of 'paper', 'fixed'"):
        FCN16s(3, 2, upsampling="bilinear", width=1)


# ---- the slides' ----------------------------------------------------------------------------


def test_layers_of_the_slides():
    for classes, total in ((151, 151_060_078), (21, 140_942_698), (2, 139_464_004)):
        heads = (4096 + 1) * classes  # W8
        up1, up2 = 16 * 512 * classes + 512, 16 * 256 * 512 + 256
        up3 = 256 * 256 * classes + classes
        assert 17_664_576 + 102_764_544 + 16_781_312 + heads + up1 + up2 + up3 == total
    model = FCNSlides(3, 5, width=2)
    shapes = {name: p.shape for name, p in model.named_parameters() if name.startswith("W")}
    weights = {name.split(".")[0]: s for name, s in shapes.items() if name.endswith("weight")}
    assert weights == {
        "W6": (7, 7, 16, 128),
        "W7": (1, 1, 128, 128),
        "W8": (1, 1, 128, 5),
        "W_t1": (4, 4, 16, 5),
        "W_t2": (4, 4, 8, 16),
        "W_t3": (16, 16, 5, 8),
    }
    assert [len(stage) for stage in model.stages] == [2, 2, 4, 4, 3]
    assert [conv.activation for conv in model.stages[4]] == ["relu", "relu", None]


def test_first_weights_of_the_slides():
    model = FCNSlides(3, 5, width=4, rng=np.random.default_rng(0))
    for layer in (model.W6, model.W7, model.W8, model.W_t1, model.W_t2, model.W_t3):
        assert abs(layer.weight.data).max() <= 0.04
        assert not np.any(layer.bias.data)
    # A normal distribution that is cut at two deviations spreads by 0.8796 of what it was.
    assert model.W6.weight.data.std() == pytest.approx(0.02 * 0.8796, rel=0.01)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (16, 8)])
@pytest.mark.parametrize("size", [(1, 2), (7, 8), (16, 17), (9, 31)])
def test_same_up_is_the_adjoint_of_a_convolution_with_same_padding(kernel, stride, size):
    rng = np.random.default_rng(0)
    layer = SameUp(3, 2, kernel, stride, rng).to(np.float64)
    x = rng.normal(size=(1, *(-(-n // stride) for n in size), 3))
    y = layer(Tensor(x), size).numpy() - layer.bias.data
    u = rng.normal(size=(1, *size, 2))
    back = F.conv2d(u, layer.weight, stride=stride, padding="same").numpy()
    assert y.shape == u.shape
    assert back.shape == x.shape
    np.testing.assert_allclose((back * x).sum(), (u * y).sum())


def test_same_up_cuts_the_odd_pixel_off_behind():
    layer = SameUp(1, 1, 4, 2, None)
    layer.weight.data[...] = 0
    layer.weight.data[:, 1] = np.arange(1, 5).reshape(4, 1, 1)
    x = np.ones((1, 2, 1, 1), np.float32)
    whole = [1, 2, 3 + 1, 4 + 2, 3, 4]
    for height, part in ((4, whole[1:5]), (3, whole[1:4])):
        assert layer(x, (height, 1)).numpy().ravel().tolist() == part


def test_maps_of_the_slides():
    """Average pools that leave out what hangs over, a last map with both signs, raw sums."""
    model = FCNSlides(1, 2, width=2, rng=np.random.default_rng(1)).eval()
    x = _images(1, 37, 50, 1)
    with no_grad():
        maps, y = [], x
        for stage in list(model.stages)[:4]:
            y = stage(y).numpy()
            h, w = y.shape[1:3]
            padded = np.pad(y, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=np.nan)
            cells = padded.reshape(1, -(-h // 2), 2, -(-w // 2), 2, y.shape[-1])
            y = np.nanmean(cells, axis=(2, 4)).astype(np.float32)
            maps.append(y)
        assert [m.shape[1:] for m in maps[2:]] == [(5, 7, 8), (3, 4, 16)]
        assert (model.stages[4](y).numpy() < 0).any()
        # Without what comes up, the raw maps are all there is.
        model.W_t1.weight.data[...] = 0
        expected = model.W_t3(model.W_t2(maps[3], (5, 7)) + maps[2], (37, 50)).numpy()
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_dropout_of_the_slides():
    model = FCNSlides(1, 2, dropout=1.0, width=1)
    model(_images(1, 32, 32, 1)).sum().backward()
    assert not np.any(model.W6.weight.grad)
    assert np.any(model.W_t2.weight.grad)


def test_fcn8s_as_pytorch_computes_it():
    torch = pytest.importorskip("torch")
    model = _with_scores(FCN8s(3, 4, width=2, rng=np.random.default_rng(0))).eval()
    x = _images(2, 45, 52, 3)

    def tensor(array):
        return torch.tensor(array).permute(0, 3, 1, 2)

    def conv(x, layer, padding=0):
        weight = torch.tensor(layer.weight.numpy()).permute(3, 2, 0, 1)
        return torch.conv2d(x, weight, torch.tensor(layer.bias.numpy()), padding=padding)

    def up(x, layer):
        weight = torch.tensor(layer.weight.numpy()).permute(3, 2, 0, 1)
        return torch.conv_transpose2d(x, weight, stride=layer.stride)

    def crop(x, offset, like):
        height, width = like.shape[2:]
        return x[:, :, offset : offset + height, offset : offset + width]

    y, pools = tensor(x), []
    for number, stage in enumerate(model.stages):
        for i, layer in enumerate(stage):
            y = conv(y, layer, 100 if number == i == 0 else 1).relu()
        y = torch.max_pool2d(y, 2, ceil_mode=True)
        pools.append(y)
    y = conv(conv(conv(y, model.fc6).relu(), model.fc7).relu(), model.score_fr)
    y = up(y, model.upscore2)
    y = up(y + crop(conv(pools[3], model.score_pool4), 5, y), model.upscore_pool4)
    y = up(y + crop(conv(pools[2], model.score_pool3), 9, y), model.upscore8)
    expected = crop(y, 31, tensor(x)).permute(0, 2, 3, 1).numpy()
    with no_grad():
        found = model(x).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
