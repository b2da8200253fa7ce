"""Tiles: the scores of the whole image, for any size, from windows no larger than asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import nn
from minidl.data import pad_to_multiple
from minidl.kernels import conv
from minidl.models import (
    AlexNet,
    DeepLab,
    FCDenseNet,
    FCN8s,
    FCNSlides,
    RefineNet,
    SegNet,
    SegNetBasic,
    UNet,
)
from minidl.receptive_field import measured_receptive_field
from minidl.tensor import Tensor, no_grad
from minidl.tiles import (
    Tiling,
    WholeOnly,
    mirrored,
    predict_tiles,
    sides,
    tiled_classes,
    tiled_scores,
    tiling_of,
)


def _unet(rng, **options):
    model = UNet(2, 3, depth=3, rng=np.random.default_rng(1), **options)
    side = model.fitting_size(60)
    model.train()
    model(rng.standard_normal((2, side, side, 2)).astype(np.float32))  # moments of batch norms
    return model.eval()


def _whole(model, x):
    """Mirrored by NumPy's own padding, and applied once."""
    if not model.shrink:
        padded, inside = pad_to_multiple(x, model.multiple)
    else:
        margin = model.shrink // 2
        fill = [(margin, model.fitting_size(n + 2 * margin) - n - margin) for n in x.shape[:2]]
        padded = np.pad(x, (*fill, (0, 0)), mode="reflect")
        inside = slice(x.shape[0]), slice(x.shape[1])
    return model(Tensor(padded[None])).numpy()[0][inside]


each_unet = pytest.mark.parametrize(
    "options",
    [
        {"root": 16},
        {"root": 4},
        {"root": 16, "padding": "valid", "batch_norm": False},
        {"root": 3, "batch_norm": False},
    ],
    ids=str,
)


@each_unet
def test_tiled_is_whole_bit_for_bit_on_the_direct_path(rng, monkeypatch, options):
    model = _unet(rng, **options)
    monkeypatch.setattr(conv, "algorithm_for", lambda *_: "direct")
    x = rng.standard_normal((141, 170, 2)).astype(np.float32)
    expected = _whole(model, x)
    np.testing.assert_array_equal(tiled_scores(model, x), expected)
    for tile in (100, 128):
        seen = []
        scores = tiled_scores(model, x, tile, watch=lambda *now, seen=seen: seen.append(now))
        np.testing.assert_array_equal(scores, expected)
        assert len(seen) >= 4 and seen[-1] == (len(seen) - 1, len(seen))


@each_unet
def test_tiled_is_whole_up_to_the_rounding_of_winograd(rng, options):
    model = _unet(rng, **options)
    x = rng.standard_normal((141, 170, 2)).astype(np.float32)
    expected = _whole(model, x)
    np.testing.assert_array_equal(tiled_scores(model, x), expected)  # one window
    bound = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(tiled_scores(model, x, 100), expected, rtol=0, atol=bound)


def test_a_smaller_halo_would_not_do(rng):
    """The halo is needed: with less, the test above would fail."""
    model = _unet(rng, root=4)
    x = rng.standard_normal((141, 170, 2)).astype(np.float32)
    difference = tiled_scores(model, x, 64, halo=16) - tiled_scores(model, x, 200)
    assert np.abs(difference).max() > 1e-4


def test_reach_of_a_u_net_is_the_measured_one():
    model = UNet(1, 2, depth=3, root=2, batch_norm=False)
    seen = [
        measured_receptive_field(model, (1, 80, 48, 1), (40 + place, 24))[0] for place in range(4)
    ]
    ends = [(first - 40 - k, last - 40 - k) for k, (first, last) in enumerate(seen)]
    assert tiling_of(model, 1) == Tiling(max(max(-a, b) for a, b in ends), 4) == Tiling(23, 4)


@given(
    st.integers(1, 500),
    st.integers(1, 200),
    st.integers(0, 60),
    st.integers(1, 4),
    st.booleans(),
)
def test_sides_cover_every_pixel_once(size, tile, halo, depth, valid):
    model = UNet(1, 2, depth=depth, root=1, padding="valid" if valid else "same")
    seen = np.zeros(size, int)
    for side in sides(model, size, tile, Tiling(halo, model.multiple)):
        seen[side.place] += 1
        first, last = side.window
        assert (last - first - model.fitting_size(last - first)) == 0
        # What is kept lies where it belongs, with the halo around it.
        offset = model.shrink // 2
        assert first + offset + side.keep.start == side.place.start
        assert side.keep.stop - side.keep.start == side.place.stop - side.place.start
        assert side.keep.stop + model.shrink <= last - first
        if not valid and first > 0:
            assert side.place.start - first >= halo
        if not valid and last < size:
            assert last - side.place.stop >= halo
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_mirroring_is_numpys(size):
    padded = np.pad(np.arange(size), (20, 15), mode="reflect")
    np.testing.assert_array_equal(mirrored(-20, size + 15, size), padded)


def test_windows_are_as_small_as_asked_for(rng):
    model = _unet(rng, root=2)
    shapes = []

    def read(rows, columns):
        shapes.append((len(rows), len(columns)))
        return np.zeros((len(rows), len(columns), 2), np.float32)

    places = [place for place, _ in predict_tiles(model, read, (1000, 700), tile=160)]
    assert shapes.pop(0) == (1, 1)  # how many channels there are
    assert len(places) == len(shapes) > 30
    assert max(map(max, shapes)) <= 160


def test_classes_are_those_of_the_scores(rng):
    model = _unet(rng, root=4)
    image = rng.integers(0, 255, (90, 130, 2)).astype(np.uint8)
    normal = lambda part: part.astype(np.float32) / 100 - 1  # noqa: E731
    classes = tiled_classes(model, image, normal, tile=80)
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, _whole(model, normal(image)).argmax(axis=-1))


# Shrunk, with tiles of about four times the halo: of the image below that makes four.
OTHERS = {
    "FCN-8s": (lambda rng: FCN8s(2, 3, width=1, upsampling="learned", rng=rng), 1064),
    "SegNet": (lambda rng: SegNet(2, 3, width=1, rng=rng), 936),
    "SegNet-Basic": (lambda rng: SegNetBasic(2, 3, width=2, rng=rng), 488),
    "DeepLab-LargeFOV": (lambda rng: DeepLab(2, 3, width=1, rng=rng), 904),
    "FC-DenseNet": (
        lambda rng: FCDenseNet(2, 3, 2, (1, 2, 2), num_init_features=4, rng=rng),
        152,
    ),
    "U-Net": (lambda rng: UNet(2, 3, depth=4, root=2, rng=rng), 264),
    "dilated": (lambda rng: _dilated(rng), 72),
}


def _dilated(rng):
    """A network without a name, that knows nothing of sizes."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, rng=rng),
        nn.BatchNorm2d(4, activation="relu"),
        nn.Conv2d(4, 4, 3, padding=4, dilation=4, rng=rng),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.Conv2d(4, 3, 5, padding=2, rng=rng),
    )


def _lively(name):
    """The network with weights that let every pixel of its receptive field be felt."""
    make, tile = OTHERS[name]
    rng = np.random.default_rng(7)
    model = make(rng)
    for path, weights in model.named_parameters():
        if path.endswith("weight") and weights.data.ndim == 4 and not weights.data.any():
            weights.data[...] = rng.standard_normal(weights.shape)  # FCN's start at zero
    model.train()
    model(rng.standard_normal((2, 64, 64, 2)).astype(np.float32))
    return model.eval(), tile


@pytest.mark.parametrize("name", OTHERS)
def test_tiled_is_whole_for_every_network_without_global_view(rng, monkeypatch, name):
    model, tile = _lively(name)
    sides = tile + 40, tile + 75  # no multiples of anything
    x = rng.standard_normal((*sides, 2)).astype(np.float32)
    fit = getattr(model, "multiple", 1)
    fill = [(-n % fit // 2, -n % fit - -n % fit // 2) for n in sides]
    padded = np.pad(x, (*fill, (0, 0)), mode="reflect")
    inside = tuple(slice(a, a + n) for (a, _), n in zip(fill, sides, strict=True))
    scores, seen = [], []
    with no_grad():
        bound = 1e-5 * np.abs(whole := model(Tensor(padded[None])).numpy()[0][inside]).max()
        np.testing.assert_allclose(tiled_scores(model, x, tile), whole, rtol=0, atol=bound)
        monkeypatch.setattr(conv, "algorithm_for", lambda *_: "direct")
        whole = model(Tensor(padded[None])).numpy()[0][inside]
    assert whole.std(axis=(0, 1)).min() > 0
    scores = tiled_scores(model, x, tile, watch=lambda *now: seen.append(now))
    np.testing.assert_array_equal(scores, whole)
    assert len(seen) >= 4 and seen[-1] == (len(seen) - 1, len(seen))


def test_reach_is_the_measured_one_for_other_networks():
    model = FCDenseNet(1, 2, 2, (1, 2), num_init_features=4)
    ends = []
    for place in range(2):
        (first, last), _ = measured_receptive_field(model.eval(), (1, 60, 40, 1), (20 + place, 9))
        ends += [20 + place - first, last - 20 - place]
    assert tiling_of(model, 1) == Tiling(max(ends), 2)
    chain = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 2, 3, padding=1))
    assert tiling_of(chain, 1) == Tiling(3, 1)


class _Global(nn.Module):
    """Adds to each pixel what the mean of all pixels says."""

    def __init__(self):
        super().__init__()
        self.local = nn.Conv2d(1, 2, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.local(x)
        return x + self.pool(x)


def test_a_network_with_a_global_view_sees_the_whole_image():
    model = _Global()
    x = np.random.default_rng(0).standard_normal((50, 60, 1)).astype(np.float32)
    whole = model(Tensor(x[None])).numpy()[0]
    why = r"_Global: scores depend on the whole image or on its size, from its layer pool on\. "
    with pytest.raises(WholeOnly, match=why + "So it cannot predict 50 x 60 pixels in tiles of 20"):
        tiled_scores(model, x, 20)
    for tile in (None, 60):
        np.testing.assert_array_equal(tiled_scores(model, x, tile), whole)
    # In spite of it, on one's own risk.
    assert np.abs(tiled_scores(model, x, 20, halo=1) - whole).max() < 1


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: RefineNet(1, 2, width=1), id="sizes"),
        pytest.param(lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4)), id="norm"),
        pytest.param(lambda: FCNSlides(1, 2, width=1), id="places"),
        pytest.param(lambda: lambda x: x * x.exp().mean(), id="function"),
    ],
)
def test_global_views_of_other_kinds(model):
    model = model()
    if not isinstance(model, nn.Module):
        function, model = model, nn.Module()
        model.forward = function
    with pytest.raises(WholeOnly, match="the whole image|the size of the image"):
        tiling_of(model, 1)


def test_networks_that_give_no_score_for_each_pixel():
    x = np.zeros((40, 48, 3), np.float32)
    for model, shape in (
        (DeepLab(3, 5, upsample=False, width=1), r"\(6, 7, 5\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(40 * 48 * 3, 2)), r"\(2,\)"),
    ):
        with pytest.raises(ValueError, match=rf"gives scores of shape {shape} for an image of"):
            tiled_scores(model, x)
    with pytest.raises(ValueError, match=r"AlexNet gives an array of shape \(1, 10\)"):
        tiling_of(AlexNet(num_classes=10, one_column=True, shrink=16), 3)


def test_arguments_are_checked(rng):
    model = _unet(rng, root=2)
    x = np.zeros((60, 70, 2), np.float32)
    with pytest.raises(ValueError, match="predict_tiles: tile=0, expected 1 or more"):
        tiled_scores(model, x, 0)
    with pytest.raises(ValueError, match="predict_tiles: halo=-1, expected 0 or more"):
        tiled_scores(model, x, 20, halo=-1)
    with pytest.raises(ValueError, match="tile=51, expected 52 or more: UNet looks 23 pixels far"):
        tiled_scores(model, x, 51)
    assert tiled_scores(model, x, 52).shape == (60, 70, 3)
