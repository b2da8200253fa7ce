"""SegNet, SegNet-Basic and SegNetCMR against the numbers of their papers and files."""

import numpy as np
import pytest

from minidl import Tensor, nn, no_grad
from minidl import functional as F
from minidl.models import SegNet, SegNetBasic, SegNetCMR
from minidl.models.segnet import SELU, mirrored

DOWN = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
UP = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))


def _count(model):
    return sum(p.size for p in model.parameters())


def _images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _convolutions(stages):
    return [[c.out_channels for c in s if isinstance(c, nn.Conv2d)] for s in stages]


# ---- pools that remember ----------------------------------------------------------------------

PLANE = np.array([[1, 2, 5, 3], [4, 0, 1, 5], [7, 7, 2, 2], [7, 7, 2, 9]], np.float32)


def test_positions_of_maxima():
    x = np.stack([PLANE, -PLANE], axis=-1)[None]
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(y.numpy()[0, ..., 0], [[4, 5], [7, 9]])
    np.testing.assert_array_equal(y.numpy()[0, ..., 1], [[0, -1], [-7, -2]])
    positions = indices.numpy()[0]
    np.testing.assert_array_equal(positions[..., 0], [[8, 4], [16, 30]])
    np.testing.assert_array_equal(positions[..., 1], [[11, 13], [17, 21]])
    # PyTorch and Caffe count pixels: the same without the channel. Equals: the first wins.
    np.testing.assert_array_equal(positions[..., 0] // 2, [[4, 2], [8, 15]])
    np.testing.assert_array_equal(positions[..., 1] // 2, [[5, 6], [8, 10]])


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 3)])
def test_there_and_back(size):
    """The unpool puts maxima where they were, at odd sizes as well."""
    x = abs(_images(2, *size, 3)) + 1
    model = SegNet(3, 2, width=1)
    y, indices = model.pool(Tensor(x))
    back = model.unpool(y, indices, size).numpy()
    assert back.shape == x.shape
    kept = back != 0
    np.testing.assert_array_equal(back[kept], x[kept])
    assert kept.sum() == y.size
    np.testing.assert_array_equal(model.pool(back)[0].numpy(), y.numpy())
    assert back.sum() == pytest.approx(y.numpy().sum(), rel=1e-5)


# ---- the networks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "count"),
    # The last: 29 464 934 would be 38 classes, 37 and one for what is none of them.
    [(11, 29_449_355), (12, 29_449_932), (21, 29_455_125), (37, 29_464_357), (38, 29_464_934)],
)
def test_parameters_follow_from_the_table(classes, count):
    total, channels = 0, 3
    for widths in (*DOWN, *UP):
        for width in widths:
            total += 9 * channels * width + width + 2 * width
            channels = width
    assert total + 9 * 64 * classes + classes == count
    narrow = SegNet(3, classes, width=2)
    assert _convolutions(narrow.encoder) == [[w // 32 for w in stage] for stage in DOWN]
    assert _convolutions(narrow.decoder) == [[w // 32 for w in stage] for stage in UP]
    assert tuple(mirrored(DOWN)) == UP


@pytest.mark.slow
def test_parameters_of_each_layer():
    sizes = {name: sum(p.size for p in m.parameters()) for name, m in SegNet().named_modules()}
    first = [1_792, 73_856, 295_168, 1_180_160, 2_359_808]
    last = [2_359_808, 1_179_904, 295_040, 73_792, 36_928]
    for i in range(5):
        assert sizes[f"encoder.{i}.0"] == first[i]
        assert sizes[f"decoder.{i}.{2 * len(UP[i]) - 2}"] == last[i]
    assert sizes["scores"] == 6_347
    assert sizes[""] == 29_449_355


def test_every_convolution_is_normalised_but_the_last():
    model = SegNet(3, 4, width=2)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (len(convolutions), len(norms)) == (26, 25)
    assert all(c.bias is not None for c in convolutions)
    assert all(norm.activation == "relu" for norm in norms)
    assert all(np.all(norm.bias.data == np.float32(0.001)) for norm in norms)
    assert all(np.all(norm.weight.data == 1) for norm in norms)


def test_sizes_on_the_way():
    """360 x 480, and 23 x 30 and 45 x 60, which the authors' files write down."""
    model, sizes = SegNet(1, 2, width=1).eval(), []
    pool, unpool = model.pool.forward, model.unpool.forward
    model.pool.forward = lambda x: _noting(sizes, pool(x))
    model.unpool.forward = lambda *arguments: _noting(sizes, unpool(*arguments))
    with no_grad():
        assert model(np.zeros((1, 360, 480, 1), np.float32)).shape == (1, 360, 480, 2)
    down = [(180, 240), (90, 120), (45, 60), (23, 30), (12, 15)]
    assert sizes == [*down, *reversed(down[:-1]), (360, 480)]


def _noting(sizes, result):
    map_ = result[0] if isinstance(result, tuple) else result
    sizes.append(map_.shape[1:3])
    return result


def test_scores_are_linear():
    model = SegNet(1, 3, width=2, rng=np.random.default_rng(0)).eval()
    x = _images(1, 33, 40, 1)
    before = model(x).numpy()
    model.scores.weight.data[...] *= -2
    np.testing.assert_allclose(model(x).numpy(), -2 * before, rtol=1e-4, atol=1e-5)


def test_basic():
    assert _count(SegNetBasic()) == 9_472 + 7 * 200_768 + 715 + 8 * 128 == 1_416_587
    model = SegNetBasic(3, 4, width=2)
    activations = [[stage[1].activation for stage in s] for s in (model.encoder, model.decoder)]
    assert activations == [["relu"] * 4, [None] * 4]
    assert {c[0].kernel_size for c in (*model.encoder, *model.decoder)} == {(7, 7)}
    assert model.scores.kernel_size == (1, 1)


def test_basic_normalises_the_image_first():
    model = SegNetBasic(3, 2, width=2, rng=np.random.default_rng(0)).eval()
    x = 100 * _images(1, 8, 9, 3)
    squares = x**2
    around = squares.sum(-1, keepdims=True)  # three channels lie within five of each other
    normal = x / (1 + 1e-4 / 5 * around) ** 0.75
    assert abs(normal - x).max() > 1
    with no_grad():
        expected = super(SegNetBasic, model).forward(normal).numpy()
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_cmr(batch_norm):
    conv = 29_433_483 - 1_152 - 5_193  # one channel less two, two classes less nine
    assert conv == 29_427_138
    model = SegNetCMR(1, 2, batch_norm, width=2, rng=np.random.default_rng(0))
    assert _count(model) == _count(SegNetCMR(1, 2, not batch_norm, width=2))
    assert _convolutions(model.encoder) == [[w // 32 for w in stage] for stage in DOWN]
    assert _convolutions(model.decoder) == [[w // 32 for w in stage] for stage in UP]
    kinds = {type(m) for stage in model.encoder for m in stage}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d if batch_norm else SELU}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            *kernel, channels, _ = module.weight.shape
            deviation = (np.prod(kernel) * channels) ** -0.5
            assert abs(module.weight.data).max() <= 2 * deviation
            assert (module.bias is None) == (batch_norm and module is not model.scores)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight is None
            assert module.activation == "relu"


def test_selu_keeps_mean_and_variance():
    x = np.random.default_rng(0).normal(size=1_000_000)
    y = SELU()(x).numpy()
    assert abs(y.mean()) < 0.01
    assert y.var() == pytest.approx(1, abs=0.01)
    assert SELU()(np.array([1.0, -1.0])).numpy() == pytest.approx([1.0507010, -1.1113307])


def test_segnet_as_pytorch_computes_it():
    torch = pytest.importorskip("torch")
    model = SegNet(3, 4, width=2, rng=np.random.default_rng(0))
    x = _images(2, 45, 60, 3)
    with no_grad():
        model(x)  # moves the moments
    model.eval()

    def stage(y, layers):
        for conv, norm in zip(list(layers)[::2], list(layers)[1::2], strict=True):
            y = torch.conv2d(y, *_torch_weights(torch, conv), padding=1)
            arrays = norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data
            y = torch.nn.functional.batch_norm(y, *(torch.tensor(a) for a in arrays)).relu()
        return y

    pool, unpool = torch.nn.functional.max_pool2d, torch.nn.functional.max_unpool2d
    y, pooled = torch.tensor(x).permute(0, 3, 1, 2), []
    for layers in model.encoder:
        y = stage(y, layers)
        size = y.shape[2:]
        y, indices = pool(y, 2, ceil_mode=True, return_indices=True)
        pooled.append((indices, size))
    for layers, (indices, size) in zip(model.decoder, reversed(pooled), strict=True):
        y = stage(unpool(y, indices, 2, output_size=size), layers)
    y = torch.conv2d(y, *_torch_weights(torch, model.scores), padding=1)
    expected = y.permute(0, 2, 3, 1).numpy()
    with no_grad():
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-3, atol=1e-4)


def _torch_weights(torch, conv):
    weight = torch.tensor(conv.weight.numpy()).permute(3, 2, 0, 1)
    return weight, torch.tensor(conv.bias.numpy())
