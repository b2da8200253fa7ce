"""Where axes go: against the definition, element by element, and against PyTorch's layers."""

import itertools

import numpy as np
import pytest

from minidl import nn
from minidl.pretrained import layout


def _numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv1d(4, 6, 3), (6, 4, 3)),
        (nn.Conv2d(4, 6, (2, 3)), (6, 4, 2, 3)),
        (nn.Conv2d(4, 6, (2, 3), groups=2), (6, 2, 2, 3)),
        (nn.Conv3d(2, 3, (2, 3, 4)), (3, 2, 2, 3, 4)),
        (nn.ConvTranspose1d(4, 6, 3), (4, 6, 3)),
        (nn.ConvTranspose2d(4, 6, (2, 3)), (4, 6, 2, 3)),
        (nn.ConvTranspose2d(4, 6, (2, 3), groups=2), (4, 3, 2, 3)),
        (nn.ConvTranspose3d(2, 3, (2, 3, 4)), (2, 3, 2, 3, 4)),
        (nn.Linear(4, 6), (6, 4)),
    ],
)
def test_each_number_finds_its_place(layer, shape):
    array = _numbers(*shape)
    slot = layout.slots(layer)["weight"]
    ours = layout.from_torch(array, slot)
    assert ours.shape == slot.shape == layer.weight.shape
    for first, second, *place in itertools.product(*map(range, shape)):
        assert ours[(*place, second, first)] == array[(first, second, *place)]
    np.testing.assert_array_equal(layout.to_torch(ours, slot), array)


@pytest.mark.parametrize(
    "layer, name",
    [
        (nn.BatchNorm2d(3), "weight"),
        (nn.BatchNorm2d(3), "running_var"),
        (nn.BatchNorm2d(3), "num_batches_tracked"),
        (nn.GroupNorm(1, 3), "bias"),
        (nn.LayerNorm((2, 3)), "weight"),
        (nn.Conv2d(2, 3, 1), "bias"),
    ],
)
def test_what_is_no_kernel_stays_as_it_is(layer, name):
    slot = layout.slots(layer)[name]
    array = _numbers(*slot.shape)
    assert slot.kind == "plain"
    assert layout.from_torch(array, slot) is array is layout.to_torch(array, slot)


def test_linear_behind_a_flatten():
    maps, weight = _numbers(2, 3, 5, 4), _numbers(7, 60, seed=1)  # (N, C, H, W)
    slot = layout.slots(nn.Sequential(nn.Linear(60, 7)), {"0": (5, 4)})["0.weight"]
    ours = layout.from_torch(weight, slot)
    expected = maps.reshape(2, 60) @ weight.T
    found = maps.transpose(0, 2, 3, 1).reshape(2, 60) @ ours
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(layout.to_torch(ours, slot), weight)


def test_linear_layers_as_convolutions_and_back():
    """A linear layer behind a flatten is a convolution as large as the map."""
    maps, weight = _numbers(2, 3, 5, 4), _numbers(7, 60, seed=1)
    expected = maps.reshape(2, 60) @ weight.T
    conv = layout.slots(nn.Conv2d(3, 7, (5, 4)))["weight"]
    kernel = layout.from_torch(weight, conv)
    ours = maps.transpose(0, 2, 3, 1)
    found = np.einsum("nijc,ijcf->nf", ours, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    linear = layout.slots(nn.Linear(60, 7))["weight"]
    theirs = layout.to_torch(kernel, conv)  # (F, C, KH, KW)
    for back in (layout.from_torch(theirs, linear), layout.from_minidl(kernel, linear)):
        np.testing.assert_allclose(ours.reshape(2, 60) @ back, expected, atol=1e-12)
    np.testing.assert_array_equal(layout.from_minidl(back, conv), kernel)


def test_nothing_is_copied_without_need():
    array = _numbers(6, 4, 3, 3)
    slot = layout.slots(nn.Conv2d(4, 6, 3))["weight"]
    assert np.shares_memory(layout.from_torch(array, slot), array)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv2d(4, 6, 3), (6, 35)),
        (nn.Conv2d(4, 6, 3), (6,)),
        (nn.Conv2d(4, 6, 3), (6, 4, 3)),
        (nn.Linear(4, 6), (6,)),
        (nn.Linear(4, 6), (6, 5)),
    ],
)
def test_what_does_not_fit_is_left_for_the_report(layer, shape):
    slot = layout.slots(layer)["weight"]
    assert layout.from_torch(_numbers(*shape), slot).shape != slot.shape


def test_flattened_names_linear_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(60, 7))
    for wrong in ({"0": (5, 3)}, {"1": (7, 7)}, {"2": (5, 3)}):
        with pytest.raises(ValueError, match="must be a linear layer of Sequential whose inputs"):
            layout.slots(model, wrong)


def test_linear_layers_that_must_stand_behind_a_flatten():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Linear(100, 12),
        nn.Linear(12, 7),
        nn.Conv2d(7, 8, 1),
        nn.Linear(8, 2),
    )
    assert list(layout.behind_flatten(model)) == [("1", 100, 4)]


TORCH_LAYERS = {
    "Conv1d": ((4, 6, 3), {"stride": 2, "groups": 2}, (7,)),
    "Conv2d": ((4, 6, (2, 3)), {"padding": 1, "dilation": 2, "groups": 2}, (8, 9)),
    "Conv3d": ((2, 3, (1, 2, 3)), {"stride": (1, 2, 1)}, (4, 5, 6)),
    "ConvTranspose1d": ((4, 6, 3), {"stride": 2, "groups": 2}, (5,)),
    "ConvTranspose2d": ((4, 6, (2, 3)), {"stride": 2, "padding": 1, "groups": 2}, (5, 6)),
    "ConvTranspose3d": ((2, 3, (1, 2, 3)), {"stride": (1, 2, 1)}, (3, 4, 5)),
    "Linear": ((4, 6), {}, ()),
}


@pytest.mark.parametrize("name", TORCH_LAYERS)
def test_layers_give_what_they_give_in_torch(name):
    torch = pytest.importorskip("torch")
    arguments, settings, extents = TORCH_LAYERS[name]
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*arguments, **settings).double()
    ours = getattr(nn, name)(*arguments, **settings, dtype=np.float64)
    places = layout.slots(ours)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours.load_state_dict(
        {key: layout.from_torch(value, places[key]) for key, value in state.items()}
    )
    x = _numbers(2, *extents, arguments[0])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.moveaxis(x, -1, 1 if extents else -1))).numpy()
    found = ours(x).numpy()
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1), atol=1e-12)
