"""FC-DenseNet against the numbers of its paper."""

import numpy as np
import pytest

from minidl import Tensor, nn, no_grad
from minidl import functional as F
from minidl.models import FCDenseNet, fc_densenet56, fc_densenet67, fc_densenet103
from minidl.models.fcdensenet import DenseBlock, NormReLU, TransitionUp


def _count(model):
    return sum(p.size for p in model.parameters())


def _images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _small(**settings):
    rng = np.random.default_rng(0)
    arguments = {"growth_rate": 3, "block_config": (1, 2, 3), "num_init_features": 5}
    return FCDenseNet(3, 4, **(arguments | settings), rng=rng)


@pytest.mark.parametrize(
    ("make", "arguments", "count", "with_moments", "convolutions"),
    [
        (fc_densenet56, (3, 11), 1_376_795, 1_397_963, 56),
        (fc_densenet67, (3, 11), 3_463_243, 3_502_923, 67),
        (fc_densenet103, (3, 11), 9_322_091, 9_425_163, 103),
        (fc_densenet56, (1, 2), 1_374_194, None, 56),
        (fc_densenet103, (1, 2), 9_318_914, None, 103),
    ],
)
def test_parameters(make, arguments, count, with_moments, convolutions):
    model = make(*arguments)
    assert _count(model) == count
    if with_moments:
        assert count + sum(b.size for b in model.buffers() if b.ndim) == with_moments
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == convolutions
    assert all(layer.bias is not None for layer in layers)


def test_the_constructor_of_the_authors_has_other_defaults():
    assert _count(FCDenseNet(3, 11, 12, (5,) * 5)) == 1_459_835


@pytest.mark.parametrize(
    ("make", "down", "bottom", "up"),
    [
        (fc_densenet56, (96, 144, 192, 240, 288), (336, 48), (384, 336, 288, 240, 192)),
        (fc_densenet67, (128, 208, 288, 368, 448), (528, 80), (608, 528, 448, 368, 288)),
        (fc_densenet103, (112, 192, 304, 464, 656), (896, 240), (1088, 816, 576, 384, 256)),
    ],
)
def test_channels(make, down, bottom, up):
    model = make()

    def stack(block):
        """Channels that go in and those that are new."""
        first, *_ = block.layers
        new = sum(layer.conv.out_channels for layer in block.layers)
        return first.norm.num_features + new, new

    assert tuple(stack(block)[0] for block in model.down) == down
    assert tuple(t.norm.num_features for t in model.transition_down) == down
    assert tuple(t.conv.out_channels for t in model.transition_down) == down
    assert stack(model.bottleneck) == bottom
    assert model.transition_up[0].in_channels == model.transition_up[0].out_channels == bottom[1]
    assert tuple(stack(block)[0] for block in model.up) == up
    assert model.scores.in_channels == up[-1]


@pytest.mark.parametrize(
    ("size", "down", "up"),
    [
        (360, (180, 90, 45, 22, 11), ((23, 22), (45, 45), (91, 90), (181, 180), (361, 360))),
        (480, (240, 120, 60, 30, 15), ((31, 30), (61, 60), (121, 120), (241, 240), (481, 480))),
        (224, (112, 56, 28, 14, 7), ((15, 14), (29, 28), (57, 56), (113, 112), (225, 224))),
        (33, (16, 8, 4, 2, 1), ((3, 2), (5, 4), (9, 8), (17, 16), (33, 33))),
    ],
)
def test_sizes_on_the_way(size, down, up):
    model = FCDenseNet(1, 2, 1, (1,) * 6, 1).eval()
    found, raised = [], []
    for transition in model.transition_down:
        transition.pool.forward = lambda x: _noting(found, F.max_pool2d(x, 2))
    for transition in model.transition_up:
        before = transition.forward

        def forward(x, wanted, before=before):
            raised.append((before(x).shape[1], before(x, wanted).shape[1]))
            return before(x, wanted)

        transition.forward = forward
    with no_grad():
        assert model(np.zeros((1, size, 32, 1), np.float32)).shape == (1, size, 32, 2)
    assert tuple(found) == down
    assert tuple(raised) == up


def _noting(found, result):
    found.append(result.shape[1])
    return result


@pytest.mark.parametrize("size", [(8, 10), (9, 10), (9, 11)])
def test_a_transition_up_leaves_off_the_last_row_and_column(size):
    up = TransitionUp(2, np.random.default_rng(0))
    x = _images(1, 4, 5, 2)
    whole = up(x).numpy()
    assert whole.shape == (1, 9, 11, 2)
    np.testing.assert_allclose(
        up(x, size).numpy(), whole[:, : size[0], : size[1]], rtol=1e-5, atol=1e-6
    )


def test_a_block_returns_only_what_is_new():
    block = DenseBlock(5, 4, 3, 0.0, False, np.random.default_rng(0)).eval()
    x = _images(1, 6, 7, 5)
    with no_grad():
        new = block(x).numpy()
        assert new.shape == (1, 6, 7, 12)
        # Layer by layer, everything concatenated.
        stack = x
        for i, layer in enumerate(block.layers):
            assert layer.norm.num_features == stack.shape[-1] == 5 + 3 * i
            y = layer.conv(nn.BatchNorm2d.forward(layer.norm, stack)).numpy()
            np.testing.assert_allclose(new[..., 3 * i : 3 * i + 3], y, rtol=1e-3, atol=1e-5)
            stack = np.concatenate([stack, y], axis=-1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_statistics", [True, False])
def test_normalising_in_two_parts_is_normalising_the_whole(training, batch_statistics):
    rng = np.random.default_rng(0)
    parts, whole = (NormReLU(7, batch_statistics).to(np.float64) for _ in range(2))
    for norm in (parts, whole):
        norm.weight.data = np.arange(1.0, 8)
        norm.bias.data = np.linspace(-1, 1, 7)
        norm.train(training)
    for _ in range(2):
        x = rng.normal(2, 3, size=(2, 4, 5, 7))
        weight = rng.normal(size=x.shape)
        a, b, c = (Tensor(part, requires_grad=True) for part in (x[..., :4], x[..., 4:], x))
        first, second = parts(a, beside=b)
        joined = whole(c)
        np.testing.assert_allclose(first.numpy(), joined.numpy()[..., :4])
        np.testing.assert_allclose(second.numpy(), joined.numpy()[..., 4:])
        ((first * weight[..., :4]).sum() + (second * weight[..., 4:]).sum()).backward()
        (joined * weight).sum().backward()
        np.testing.assert_allclose(np.concatenate([a.grad, b.grad], -1), c.grad, atol=1e-9)
        np.testing.assert_allclose(parts.weight.grad, whole.weight.grad)
        np.testing.assert_allclose(parts.bias.grad, whole.bias.grad)
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(parts.state_dict()[name], value, err_msg=name)


def test_statistics_of_the_batch_are_the_authors_way():
    model = _small(batch_statistics=True).eval()
    assert list(model.buffers()) == []
    x = _images(2, 8, 9, 3)
    with no_grad():
        together, alone = model(x).numpy()[:1], model(x[:1]).numpy()
    assert abs(together - alone).max() > 0.01
    ours = _small().eval()
    ours.load_state_dict(model.state_dict(), strict=False)
    with no_grad():
        np.testing.assert_allclose(ours(x).numpy()[:1], ours(x[:1]).numpy(), rtol=1e-4, atol=1e-5)


def test_dropout_follows_every_convolution_of_blocks_and_transitions_down():
    drops = [m for m in _small(dropout=0.3).modules() if isinstance(m, nn.Dropout)]
    assert len(drops) == 1 + 2 + 3 + 2 + 1 + 2
    assert {drop.p for drop in drops} == {0.3}
    defaults = [m.p for m in FCDenseNet(1, 2, 1, (1, 1), 1).modules() if isinstance(m, nn.Dropout)]
    assert set(defaults) == {0.2}


def test_first_weights():
    model = FCDenseNet(3, 2, 16, (2, 2), rng=np.random.default_rng(0))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            kernel = np.prod(module.kernel_size)
            limit = np.sqrt(6 / (kernel * module.in_channels))
            assert 0.8 * limit < abs(module.weight.data).max() <= limit
            assert not np.any(module.bias.data)


def test_arguments_are_checked():
    for arguments, message in (
        ({"growth_rate": 0}, "FCDenseNet: growth_rate must be an integer >= 1, but is 0"),
        ({"block_config": ()}, "FCDenseNet: block_config must be an integer >= 1"),
        ({"block_config": (1, 0)}, "FCDenseNet: block_config must be .* but is"),
        ({"dropout": 1.5}, "Dropout: p must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            _small(**arguments)


def test_as_pytorch_computes_it():
    """With every stack concatenated, and cropped in the centre as the authors' code does."""
    torch = pytest.importorskip("torch")
    model = _small(dropout=0.0)
    x = _images(2, 13, 18, 3)
    with no_grad():
        model(x)  # moves the moments
    model.eval()

    def conv(x, layer):
        weight = torch.tensor(layer.weight.numpy()).permute(3, 2, 0, 1)
        bias = torch.tensor(layer.bias.numpy())
        return torch.conv2d(x, weight, bias, padding=layer.kernel_size[0] // 2)

    def layer(x, part):
        norm = part.norm
        arrays = norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data
        x = torch.nn.functional.batch_norm(x, *(torch.tensor(a) for a in arrays)).relu()
        return conv(x, part.conv)

    def block(x, part):
        stack, new = x, []
        for each in part.layers:
            new.append(layer(stack, each))
            stack = torch.cat([stack, new[-1]], 1)
        return stack, torch.cat(new, 1)

    y, skips = conv(torch.tensor(x).permute(0, 3, 1, 2), model.first), []
    for part, down in zip(model.down, model.transition_down, strict=True):
        y, _ = block(y, part)
        skips.append(y)
        y = torch.max_pool2d(layer(y, down), 2)
    _, new = block(y, model.bottleneck)
    for up, part, skip in zip(model.transition_up, model.up, reversed(skips), strict=True):
        weight = torch.tensor(up.weight.numpy()).permute(3, 2, 0, 1)
        raised = torch.conv_transpose2d(new, weight, torch.tensor(up.bias.numpy()), stride=2)
        height, width = skip.shape[2:]
        top, left = (raised.shape[2] - height) // 2, (raised.shape[3] - width) // 2
        raised = raised[:, :, top : top + height, left : left + width]
        y, new = block(torch.cat([raised, skip], 1), part)
    expected = conv(y, model.scores).permute(0, 2, 3, 1).numpy()
    with no_grad():
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-3, atol=1e-4)
