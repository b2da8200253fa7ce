"""DeepLab v1 and v2 against their tables, each other, and PyTorch's operations."""

import numpy as np
import pytest

from minidl import no_grad
from minidl.fields import receptive_fields
from minidl.models import DeepLab, DeepLabV2
from minidl.models.deeplab import ASPP_L, ASPP_S, LARGE_FOV

from .test_contract import undrawn  # noqa: F401

full = pytest.mark.usefixtures("undrawn")

V1 = {
    "7x7": {"kernel_size": 7, "rate": 4},
    "4x4, rate 4": {"kernel_size": 4, "rate": 4},
    "4x4, rate 8": {"kernel_size": 4, "rate": 8},
    "LargeFOV": {},
}


def _count(model):
    return sum(parameter.size for parameter in model.parameters())


def _zeros(height, width=1):
    return np.zeros((1, height, width, 3), np.float32)


# ---- sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (321, [161, 81, 41, 41, 41]),
        (306, [154, 78, 40, 40, 40]),
        (500, [251, 126, 64, 64, 64]),
        (505, [253, 127, 64, 64, 64]),
        (513, [257, 129, 65, 65, 65]),
    ],
)
def test_sides_of_vgg(side, sides):
    model, x, found = DeepLab(3, 2, width=1, upsample=False), _zeros(side), []
    with no_grad():
        for stage, pool in zip(model.features.stages, model.features.pools, strict=True):
            x = pool(stage(x))
            found.append(x.shape[1])
        assert model(_zeros(side)).shape[1] == sides[-1]
    assert found == sides


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (321, [161, 81, 41, 41, 41]),
        (306, [153, 77, 39, 39, 39]),
        (505, [253, 127, 64, 64, 64]),
        (513, [257, 129, 65, 65, 65]),
        (304, [152, 77, 39, 39, 39]),  # the pool rounds up
    ],
)
def test_sides_of_resnet(side, sides):
    model = DeepLabV2(3, 2, width=1, upsample=False).eval()
    backbone = model.features.backbone
    with no_grad():
        first = backbone.conv1(_zeros(side))
        maps = backbone(_zeros(side))
        assert model(_zeros(side)).shape[1] == sides[-1]
    assert [first.shape[1], *(y.shape[1] for y in maps)] == sides


@pytest.mark.parametrize("m", [0, 1, 5])
def test_vgg_and_resnet_agree_on_sides_of_8_m_and_1(m):
    x = _zeros(8 * m + 1, 9)
    for backbone in ("vgg16", "resnet18"):
        model = DeepLabV2(3, 2, backbone, width=1, upsample=False)
        assert model(x).shape == (1, m + 1, 2, 2)


@pytest.mark.parametrize("side", [41, 44])
def test_scores_are_those_of_every_eighth_pixel_enlarged(side):
    model = DeepLab(3, 2, width=2, rng=np.random.default_rng(0)).eval()
    x = np.random.default_rng(1).normal(size=(1, side, 33, 3)).astype(np.float32)
    with no_grad():
        scores = model(x).numpy()
        model.upsample = False
        coarse = model(x).numpy()
    assert scores.shape == (1, side, 33, 2) and np.ptp(coarse) > 0
    every = scores[:, ::8, ::8]
    np.testing.assert_allclose(every, coarse[:, : every.shape[1]], rtol=1e-5, atol=1e-8)


# ---- parameters and fields ------------------------------------------------------------------


@full
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("7x7", 134_346_581),
        ("4x4, rate 4", 65_140_565),
        ("4x4, rate 8", 65_140_565),
        ("LargeFOV", 20_505_429),
    ],
)
def test_parameters_of_v1(variant, count):
    assert _count(DeepLab(**V1[variant])) == count


@full
@pytest.mark.parametrize("rates", [ASPP_S, ASPP_L])
def test_parameters_of_v2(rates):
    branch = 4_719_616 + 1_049_600 + 21_525
    assert _count(DeepLabV2(3, 21, "vgg16", rates)) == 14_714_688 + 4 * branch == 37_877_652
    assert _count(DeepLabV2(3, 21, rates=rates)) == 44_048_532
    assert _count(DeepLabV2(3, 21, rates=rates).head) == 1_548_372


@pytest.mark.parametrize(
    ("variant", "seen", "published"),
    [
        ("7x7", 419, 224),
        ("4x4, rate 4", 323, 128),
        ("4x4, rate 8", 419, 224),
        ("LargeFOV", 419, 224),
    ],
)
def test_receptive_fields_of_v1(variant, seen, published):
    model = DeepLab(3, 2, upsample=False, width=1, **V1[variant])
    ((first, last), _) = receptive_fields(model, (1, 801, 1, 3))[""].region()
    assert last - first + 1 == seen
    conv = model.head.fc6
    assert 8 * conv.dilation * (conv.kernel_size[0] - 1) + 32 == published


def test_receptive_fields_of_the_branches():
    fields = []
    for rate in (*ASPP_L, *LARGE_FOV):
        model = DeepLabV2(3, 2, "vgg16", (rate,), upsample=False, width=1)
        ((first, last), _) = receptive_fields(model, (1, 801, 1, 3))[""].region()
        fields.append(last - first + 1)
    assert fields == [323, 419, 515, 611, 419]


# ---- one network in another -----------------------------------------------------------------


def test_aspp_whose_other_branches_are_zero_is_large_fov():
    rng = np.random.default_rng(2)
    large_fov = DeepLab(3, 4, width=2, rng=rng).to(np.float64).eval()
    pyramid = DeepLabV2(3, 4, "vgg16", ASPP_L, width=2, rng=rng).to(np.float64).eval()
    x = rng.normal(size=(1, 57, 70, 3))
    pyramid.features.load_state_dict(large_fov.features.state_dict())
    pyramid.head.branches[1].load_state_dict(large_fov.head.state_dict())
    with no_grad():
        assert np.abs(pyramid(x).numpy() - large_fov(x).numpy()).max() > 1e-6
        for number in (0, 2, 3):
            pyramid.head.branches[number].fc8.weight.data[...] = 0
        expected = large_fov(x).numpy()
        np.testing.assert_allclose(pyramid(x).numpy(), expected, rtol=1e-12, atol=1e-15)
    assert expected.std() > 0


@pytest.mark.parametrize("rate", [4, 8])
def test_kernels_of_4_have_no_tap_in_the_middle(rate):
    """Their taps are at -3/2, -1/2, 1/2 and 3/2 of the rate."""
    model = DeepLab(3, 2, kernel_size=4, rate=rate, upsample=False, width=1)
    sources = receptive_fields(model.head, (1, 81, 1, 8))[""].region()
    assert sources[0] == (40 - 3 * rate // 2, 40 + 3 * rate // 2)
    x = np.zeros((1, rate // 2, rate // 2, 8), np.float32)
    x += np.random.default_rng(3).normal(size=x.shape).astype(np.float32)
    model.head.fc6.bias.data[...] = 1
    with no_grad():
        scores = model.eval().head(x).numpy()  # sees padding only
    np.testing.assert_array_equal(scores, np.broadcast_to(scores[:, :1, :1], scores.shape))


def test_first_weights():
    rng = np.random.default_rng(4)
    for layer in (DeepLab(3, 21, width=8, rng=rng).head.fc8,
                  DeepLabV2(3, 21, "resnet18", width=8, rng=rng).head.branches[0]):  # fmt: skip
        assert layer.weight.numpy().std() == pytest.approx(0.01, rel=0.1)
        assert not layer.bias.numpy().any()


# ---- another implementation -----------------------------------------------------------------


@pytest.mark.parametrize("variant", list(V1))
def test_v1_as_torch_computes_it(variant):
    torch = pytest.importorskip("torch")
    conv2d, pool = torch.nn.functional.conv2d, torch.nn.functional.max_pool2d
    model = DeepLab(3, 3, width=2, rng=np.random.default_rng(5), **V1[variant])
    model = model.to(np.float64).eval()
    x = np.random.default_rng(6).normal(size=(1, 97, 105, 3))
    with no_grad():
        ours = model(x).numpy()

    def layer(y, conv, padding=0, dilation=1):
        weight = torch.tensor(conv.weight.numpy().transpose(3, 2, 0, 1).copy())
        return conv2d(y, weight, torch.tensor(conv.bias.numpy()), 1, padding, dilation)

    y = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    for number, stage in enumerate(model.features.stages):
        dilation = 2 if number == 4 else 1
        for conv in stage:
            y = layer(y, conv, dilation, dilation).relu()
        y = pool(y, 3, 1 if number > 2 else 2, 1, ceil_mode=True)
    fc6 = model.head.fc6
    margin = fc6.dilation * (fc6.kernel_size[0] - 1) // 2
    y = layer(layer(y, fc6, margin, fc6.dilation).relu(), model.head.fc7).relu()
    y = torch.nn.functional.interpolate(
        layer(y, model.head.fc8), size=(97, 105), mode="bilinear", align_corners=True
    )
    theirs = y.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-12)
    assert np.ptp(ours) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepLab(kernel_size=0), "DeepLab: kernel_size must be an integer >= 1"),
        (lambda: DeepLab(rate=0), "DeepLab: rate must be an integer >= 1"),
        (
            lambda: DeepLabV2(3, 2, "vgg19"),
            "DeepLabV2: backbone must be one of 'vgg16'",
        ),
        (
            lambda: DeepLabV2(3, 2, "resnet18", (), width=1),
            "AtrousPyramid: rates must be an integer",
        ),
    ],
)
def test_unfit_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
