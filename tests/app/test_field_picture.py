"""What units look at: gradients inside of what they can see, and pictures of both."""

import numpy as np
import pytest

from minidl import functional as F
from minidl import nn, tensor
from minidl.field_picture import card, picture, see, table


@pytest.fixture
def net():
    rng = np.random.default_rng(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, rng=rng),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, activation="relu", rng=rng),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 2, 1, rng=rng),
    )


IMAGE = card(24, 32, 3)


def test_a_layer_for_each_resolution_and_the_unit_in_its_middle(net):
    seen = see(net, IMAGE)
    assert [(one.field.path, one.position) for one in seen] == [("0", (12, 16)), ("4", (6, 8))]
    assert seen[0].region == seen[0].reached == ((11, 13), (15, 17))
    assert seen[1].region == seen[1].free == ((9, 16), (13, 20))


def test_the_gradient_is_that_of_the_unit(net):
    (one,) = see(net, IMAGE, ["1"], [2, 3])
    weight = net[0].weight.data
    expected = np.zeros((24, 32))
    for channel in range(3):
        part = np.zeros((24, 32))
        for row in range(4, 6):
            for column in range(6, 8):
                taps = weight[:, :, channel].sum(axis=-1) / 4
                part[row - 1 : row + 2, column - 1 : column + 2] += taps
        expected += abs(part)
    np.testing.assert_allclose(one.gradient, expected, rtol=1e-5, atol=1e-7)


def test_at_a_border(net):
    (one,) = see(net, IMAGE, [""], (0, 15))
    assert one.region == ((0, 4), (27, 31))
    assert one.free == ((-3, 4), (27, 34))


def test_the_network_is_left_as_it_was(net):
    net[0].weight.requires_grad = False
    before = net.state_dict()
    see(net, IMAGE)
    assert net.training and net[3].training
    assert not net[0].weight.requires_grad and net[2].weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert tensor.listener is None
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_units_without_a_gradient():
    class Dead(nn.Module):
        def forward(self, x):
            return F.relu(-1 - x)

    (one,) = see(Dead(), IMAGE, [""])
    assert one.reached is None
    assert one.holding(0.5) == 0
    assert table([one]).splitlines()[1].split()[-2:] == ["-", "-"]
    assert len(picture(IMAGE, [one]).axes) == 1


def test_squares_that_hold_a_share(net):
    (one,) = see(net, IMAGE, ["0"])
    point = np.zeros((24, 32))
    point[12, 16] = 1
    assert type(one)(one.field, one.position, point).holding(0.5) == 1
    even = np.ones((25, 25))
    assert type(one)(one.field, one.position, even).holding(1) == 25
    assert type(one)(one.field, one.position, even).holding(0.27) == 13  # 169 of 625


def test_layers_and_units_that_do_not_exist(net):
    with pytest.raises(ValueError, match="see: there is no layer '7', but there are 0, 1, 2, 3, 4"):
        see(net, IMAGE, ["7"])
    with pytest.raises(ValueError, match=r"position must be one of 1 with extents \(12, 16\)"):
        see(net, IMAGE, ["1"], (12, 0))


def test_table(net):
    head, first, last = table(see(net, IMAGE)).splitlines()
    assert head.split() == ["layer", "output", "unit", "sees", "here", "measured", "half", "within"]
    assert first.split()[:6] == ["0", "24x32x4", "12,16", "3", "3x3", "3x3"]
    assert last.split()[3] == "8"


def test_picture_has_a_panel_for_each_layer_with_frames(net):
    seen = see(net, IMAGE, ["0", "1", "2", "4"], (0, 0))
    figure = picture(IMAGE, seen, "Title")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["0: sees 3", "1: sees 4", "2: sees 8", "4: sees 8"]
    assert all(len(axis.patches) == 3 for axis in figure.axes)
    left, right = figure.axes[0].get_xlim()
    assert left < -2 and right > 31  # what lies beyond the image is shown
    assert figure.texts[0].get_text() == "Title"
    with pytest.raises(ValueError, match="picture: no layers to draw"):
        picture(IMAGE, [])


def test_cards_have_any_size_and_channels():
    for shape in ((8, 9, 1), (40, 20, 5)):
        image = card(*shape)
        assert (image.shape, image.dtype) == (shape, np.float32)
        assert 0 <= image.min() < image.max() <= 1
