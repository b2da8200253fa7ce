"""DilatedNet against the tables of its paper, its released code, and loops."""

import numpy as np
import pytest

from minidl import functional as F
from minidl import nn, no_grad
from minidl.fields import receptive_fields
from minidl.models import ContextModule, DilatedNet, FrontEnd
from minidl.models.dilatednet import DILATION7, DILATION8, DILATION10, identity, mirrored
from minidl.receptive_field import measured_receptive_field

from .test_contract import undrawn  # noqa: F401

full = pytest.mark.usefixtures("undrawn")


def _count(model):
    return sum(parameter.size for parameter in model.parameters())


def _random(model, seed=0):
    """The model in double precision, with weights that are nobody's idea of a start."""
    rng = np.random.default_rng(seed)
    for parameter in model.to(np.float64).parameters():
        spread = 0.3 if parameter.ndim == 1 else (2 / np.prod(parameter.shape[:-1])) ** 0.5
        parameter.data[...] = rng.normal(size=parameter.shape) * spread
    return model.eval()


# ---- sizes and parameters -------------------------------------------------------------------


def test_sides_for_900_pixels():
    front_end, x = FrontEnd(width=1), np.zeros((1, 900, 380, 3), np.float32)
    sides = []
    with no_grad():
        for number, stage in enumerate(front_end.stages):
            x = stage(x)
            sides.append(x.shape[1])
            if number < 3:
                x = front_end.pool(x)
                sides.append(x.shape[1])
        sides.append(front_end.fc6(x).shape[1])
    assert sides == [896, 448, 444, 222, 216, 108, 102, 90, 66]


@pytest.mark.parametrize("side", [380, 500, 508, 900])
def test_side_of_the_front_end(side):
    with no_grad():
        scores = FrontEnd(3, 5, width=1)(np.zeros((1, side, 380, 3), np.float32))
    assert scores.shape == (1, (side - 380) // 8 + 1, 1, 5)
    assert scores.shape[1] == (side - 2 * FrontEnd.margin) // 8


@pytest.mark.parametrize(
    ("classes", "basic", "large"),
    [(21, 28_392, 6_803_139), (19, 23_256, 5_569_185), (11, 7_832, 1_867_129), (2, 272, 61_882)],
)
def test_parameters_of_the_context_module(classes, basic, large):
    assert _count(ContextModule(classes)) == basic == 64 * classes**2 + 8 * classes
    assert _count(ContextModule(classes, large=True)) == large


@full
@pytest.mark.parametrize(
    ("arguments", "settings", "count"),
    [
        ((3, 11), {}, 134_313_443),
        ((3, 11), {"dilations": DILATION7}, 134_312_343),
        ((3, 19), {"dilations": DILATION10, "upsampling": "learned"}, 134_373_043),
        ((3, 21), {"context": None}, 134_346_581),
        ((3, 21), {"context": "large", "context_padding": "first"}, 134_346_581 + 6_803_139),
    ],
)
def test_parameters_of_the_released_networks(arguments, settings, count):
    assert _count(DilatedNet(*arguments, **settings)) == count


def test_channels_of_the_large_module():
    layers = ContextModule(2, large=True).layers
    assert [layer.out_channels for layer in layers] == [4, 4, 8, 16, 32, 64, 64]
    assert [layer.dilation for layer in layers] == list(DILATION8)


# ---- receptive fields -----------------------------------------------------------------------


def test_receptive_fields_of_the_context_module():
    fields = []
    for count in range(1, 8):
        module = ContextModule(2, dilations=DILATION8[:count])
        ((first, last), _) = measured_receptive_field(module, (1, 81, 1, 2), maxima=False)
        fields.append(last - first + 1)
        assert module.receptive_field == fields[-1]
    assert fields == [3, 5, 9, 17, 33, 65, 67]
    assert ContextModule(2, dilations=DILATION10).receptive_field == 259


def _averaging(model):
    """The same windows as those of the max-pools, but every pixel of them counts."""
    front_end = getattr(model, "front_end", model)
    front_end.pool = nn.AvgPool2d(2)
    return model


def test_receptive_field_of_the_front_end():
    shape = (1, 396, 380, 3)
    expected = ((8, 387), (0, 379))
    assert receptive_fields(FrontEnd(3, 2, width=1), shape)[""].region() == expected
    model = _averaging(FrontEnd(3, 2, width=1))
    assert measured_receptive_field(model, shape, maxima=False) == expected
    one = receptive_fields(FrontEnd(3, 2, width=1), (1, 380, 380, 3))[""]
    assert one.region() == ((0, 379), (0, 379))  # so the centre of cell 0 is at 189.5


def test_receptive_field_of_front_end_and_context():
    model = DilatedNet(3, 2, mirror=False, upsampling=None, width=1)
    ((first, last), _) = receptive_fields(model, (1, 940, 940, 3))[""].region()
    assert last - first + 1 == 908 == 380 + 8 * 66


@pytest.mark.slow
def test_measured_receptive_field_of_front_end_and_context():
    model = _averaging(DilatedNet(3, 2, mirror=False, upsampling=None, width=1))
    ((first, last), _) = measured_receptive_field(model, (1, 940, 940, 3), maxima=False)
    assert last - first + 1 == 908


# ---- the identity it starts as --------------------------------------------------------------


@pytest.mark.parametrize("padding", ["same", "first"])
def test_the_basic_module_starts_as_the_identity(padding):
    x = np.random.default_rng(0).uniform(0, 3, (2, 7, 40, 5)).astype(np.float32)
    np.testing.assert_array_equal(ContextModule(5, padding=padding)(x).numpy(), x)


def test_the_large_module_starts_as_the_identity_but_for_noise():
    x = np.random.default_rng(0).uniform(0, 3, (1, 9, 20, 3)).astype(np.float32)
    exact = ContextModule(3, large=True, noise=0)(x).numpy()
    np.testing.assert_allclose(exact, x, rtol=1e-5, atol=1e-5)
    module = ContextModule(3, large=True, rng=np.random.default_rng(1))
    noisy = module(x).numpy()
    assert 0 < np.abs(noisy - x).mean() < 0.5
    first = module.layers[0].weight.numpy()
    assert np.any(first[..., 0] != first[..., 1])  # two channels of one class, not alike
    assert first[0].std() == pytest.approx(0.01 / 2, rel=0.2)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (4, 12), (12, 4), (8, 12), (12, 8)])
def test_identity_weights_are_those_of_equation_5(inputs, outputs):
    weight, classes = identity(3, inputs, outputs, 4), 4
    for a in range(inputs):
        for b in range(outputs):
            expected = np.zeros((3, 3))
            if a * classes // inputs == b * classes // outputs:
                expected[1, 1] = classes / outputs
            np.testing.assert_array_equal(weight[..., a, b], expected.astype(np.float32))


# ---- padding --------------------------------------------------------------------------------


def test_two_ways_to_pad_differ_at_the_border_only():
    same = _random(ContextModule(2))
    first = ContextModule(2, padding="first").to(np.float64)
    first.load_state_dict(same.state_dict())
    x = np.random.default_rng(2).normal(size=(1, 80, 75, 2))
    with no_grad():
        a, b = same(x).numpy(), first(x).numpy()
    assert a.shape == b.shape == x.shape
    inside = np.s_[:, 33:-33, 33:-33]
    np.testing.assert_allclose(a[inside], b[inside], rtol=1e-10, atol=1e-12)
    different = np.abs(a - b).max(axis=(0, 3)) > 1e-9
    rows, columns = different.any(axis=1), different.any(axis=0)
    assert rows.all() and columns.all()
    assert not different[33:-33, 33:-33].any()


@pytest.mark.parametrize(("side", "before", "after"), [(5, 3, 4), (2, 7, 6), (1, 3, 3), (9, 30, 1)])
def test_mirroring_goes_on_for_ever(side, before, after):
    expected = np.pad(np.arange(side), (before, after), "reflect")
    np.testing.assert_array_equal(mirrored(side, before, after), expected)


@pytest.mark.parametrize("upsampling", ["bilinear", "learned", None])
@pytest.mark.parametrize(("height", "width"), [(17, 24), (2, 15)])
def test_the_image_is_mirrored_by_186_pixels_and_what_is_missing(upsampling, height, width):
    settings = {"width": 1, "upsampling": upsampling}
    whole = _random(DilatedNet(3, 2, **settings))
    given = DilatedNet(3, 2, mirror=False, **settings).to(np.float64).eval()
    given.load_state_dict(whole.state_dict())
    x = np.random.default_rng(3).normal(size=(1, height, width, 3))
    # One cell each 8 pixels; to zoom, one more behind the last pixel.
    cells = [-(-(n - 1) // 8) + 1 if upsampling == "bilinear" else -(-n // 8) for n in x.shape[1:3]]
    behind = [8 * (c - 1) + 380 - 186 - n for c, n in zip(cells, x.shape[1:3], strict=True)]
    padded = np.pad(x, ((0, 0), (186, behind[0]), (186, behind[1]), (0, 0)), "reflect")
    with no_grad():
        a, b = whole(x).numpy(), given(padded).numpy()
    assert a.shape[1:3] == (tuple(cells) if upsampling is None else (height, width))
    np.testing.assert_allclose(a, b[:, : a.shape[1], : a.shape[2]], rtol=1e-9, atol=1e-12)
    assert a.std() > 0


# ---- up-sampling ----------------------------------------------------------------------------


def test_scores_of_pixels_lie_between_those_of_the_cells_around():
    """As the released code enlarges its probabilities, in loops."""
    model = _random(DilatedNet(3, 2, width=1))
    x = np.random.default_rng(4).normal(size=(1, 19, 33, 3))
    with no_grad():
        scores = model(x).numpy()[0]
        model.upsampling = None
        padded = np.pad(x, ((0, 0), (186, 205), (186, 199), (0, 0)), "reflect")
        cells = model.context(model.front_end(padded)).numpy()[0]
    for h in range(19):
        for w in range(33):
            (r, rt), (c, ct) = divmod(h / 8, 1), divmod(w / 8, 1)
            corners = [[cells[int(r) + i, min(int(c) + j, 4)] for j in (0, 1)] for i in (0, 1)]
            rows = [(1 - ct) * left + ct * right for left, right in corners]
            np.testing.assert_allclose(
                scores[h, w], (1 - rt) * rows[0] + rt * rows[1], rtol=1e-9, atol=1e-12
            )


def test_learned_upsampling_starts_bilinear():
    model = DilatedNet(3, 3, upsampling="learned", width=1)
    assert model.upsample.weight.size == 3 * 16**2
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32)[:, None, None], (6, 6, 3))[None]
    enlarged = model.upsample(ramp).numpy()[0]
    assert enlarged.shape == (48, 48, 3)
    inside = (np.arange(48)[4:-4] - 3.5) / 8
    np.testing.assert_allclose(
        enlarged[4:-4, 4:-4], np.broadcast_to(inside[:, None, None], (40, 40, 3)), rtol=1e-5
    )


# ---- another implementation, and what is refused --------------------------------------------


def test_front_end_and_context_as_torch_computes_them():
    torch = pytest.importorskip("torch")
    conv2d, pool = torch.nn.functional.conv2d, torch.nn.functional.max_pool2d
    model = _random(DilatedNet(3, 2, "large", mirror=False, upsampling=None, width=2))
    x = np.random.default_rng(5).normal(size=(1, 388, 396, 3))
    with no_grad():
        expected = model(x).numpy()

    def layer(y, conv, relu=True, padding=0, dilation=1):
        weight = torch.tensor(conv.weight.numpy().transpose(3, 2, 0, 1).copy())
        y = conv2d(y, weight, torch.tensor(conv.bias.numpy()), 1, padding, dilation)
        return y.relu() if relu else y

    y = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    for number, stage in enumerate(model.front_end.stages):
        for conv in stage:
            y = layer(y, conv, dilation=2 if number == 4 else 1)
        y = pool(y, 2) if number < 3 else y
    y = layer(layer(y, model.front_end.fc6, dilation=4), model.front_end.fc7)
    y = layer(y, model.front_end.final, relu=False)
    for conv, dilation in zip(model.context.layers, DILATION8, strict=True):
        y = layer(y, conv, padding=dilation, dilation=dilation)
    y = layer(y, model.context.final, relu=False).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(expected, y, rtol=1e-8, atol=1e-10)


def test_dropout_is_behind_both_layers_and_in_training_only():
    model = FrontEnd(3, 2, dropout=1.0, width=1)
    x = np.random.default_rng(6).normal(size=(1, 380, 380, 3)).astype(np.float32)
    F.mse_loss(model(x), np.ones((1, 1, 1, 2), np.float32)).backward()
    assert not np.any(model.final.weight.grad) and np.any(model.final.bias.grad)
    assert not np.any(model.fc6.weight.grad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DilatedNet(3, 2, "huge"), "DilatedNet: context must be one of 'basic', 'large'"),
        (
            lambda: DilatedNet(3, 2, upsampling="zoom", width=1),
            "DilatedNet: upsampling must be one of 'bilinear', 'learned', None",
        ),
        (lambda: ContextModule(2, dilations=()), "ContextModule: dilations must be an integer"),
        (lambda: ContextModule(2, padding="valid"), "ContextModule: padding must be one of"),
    ],
)
def test_unfit_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
