"""WaveNet: causality, the slides' receptive fields, and the numbers of mu-law."""

import numpy as np
import pytest

from minidl import functional as F
from minidl import no_grad, optim
from minidl.models import SpeechWaveNet, WaveNet
from minidl.models.wavenet import mu_law_decode, mu_law_encode
from minidl.receptive_field import dilated_stack, measured_receptive_field


def _count(model):
    return sum(parameter.size for parameter in model.parameters())


def _small(**settings):
    settings = {"channels": 3, "skip_channels": 4, "dilations": (1, 2, 4), "blocks": 2} | settings
    return WaveNet(2, 5, rng=np.random.default_rng(0), **settings)


def test_receptive_fields():
    stack = [(kernel, 3, (1, 2, 4, 8, 16)) for kernel in (2, 3, 7)]
    stack += [(2, blocks, tuple(2**i for i in range(10))) for blocks in (1, 3)]
    fields = [
        WaveNet(1, 2, 1, 1, kernel, dilations, blocks).receptive_field
        for kernel, blocks, dilations in stack
    ]
    # The convolution at the entrance adds what a kernel adds to the stack of the slides.
    assert [f - (k - 1) for f, (k, *_) in zip(fields, stack, strict=True)] == [
        94, 187, 559, 1024, 3070
    ]  # fmt: skip
    assert dilated_stack(10, kernel_size=2) == 1024
    assert SpeechWaveNet().receptive_field == 559


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_measured_receptive_field(kernel_size):
    model = _small(kernel_size=kernel_size)
    ((first, last),) = measured_receptive_field(model, (1, 60, 2), maxima=False)
    assert last - first + 1 == model.receptive_field == 1 + 15 * (kernel_size - 1)


def test_no_score_depends_on_what_comes_later():
    model, rng = _small(), np.random.default_rng(2)
    x = rng.normal(size=(1, 40, 2)).astype(np.float32)
    changed = x.copy()
    changed[:, 23:] += 1
    with no_grad():
        before, after = model(x).numpy(), model(changed).numpy()
    np.testing.assert_array_equal(before[:, :23], after[:, :23])
    assert (before[:, 23] != after[:, 23]).any()


def test_scores_of_the_speech_network_look_as_far_forward_as_back():
    model = SpeechWaveNet(2, 3, channels=3, kernel_size=3, dilations=(1, 2), blocks=2).eval()
    assert model.receptive_field == 13
    x = np.random.default_rng(3).normal(size=(1, 41, 2)).astype(np.float32)
    changed = x.copy()
    changed[:, 20] += 1
    with no_grad():
        (different,) = np.nonzero((model(x).numpy() != model(changed).numpy()).any(axis=(0, 2)))
    assert (different.min(), different.max()) == (14, 26)


def test_a_layer_is_that_of_figure_4():
    """Against loops over time."""
    model = _small(dilations=(3,), blocks=2, kernel_size=2).to(np.float64)
    layer, last = model.layers
    z = np.random.default_rng(4).normal(size=(1, 9, 3))
    x, skip = layer(z)
    past = np.concatenate([np.zeros((3, 3)), z[0, :-3]])

    def taps(conv):
        weight, bias = conv.weight.numpy(), conv.bias.numpy()
        return past @ weight[0] + z[0] @ weight[1] + bias

    gated = np.tanh(taps(layer.filter)) / (1 + np.exp(-taps(layer.gate)))
    residual = gated @ layer.residual.weight.numpy()[0] + layer.residual.bias.numpy()
    np.testing.assert_allclose(x.numpy()[0], z[0] + residual, rtol=1e-12)
    expected = gated @ layer.skip.weight.numpy()[0] + layer.skip.bias.numpy()
    np.testing.assert_allclose(skip.numpy()[0], expected, rtol=1e-12)
    assert last.residual is None


def test_parameters():
    # Of the slides' network: 2560 + 15 * 245760 + 16384 + 3584 weights, 47 batch normalisations,
    # and biases for the 28 letters only.
    assert _count(SpeechWaveNet()) == 3_708_928 + 47 * 2 * 128 + 28
    # Filter and gate 2 * (2 * 32 + 1) * 32, residual 33 * 32, skip 33 * 512, the last layer
    # without its residual.
    assert _count(WaveNet()) == (
        (2 * 256 + 1) * 32 + 30 * (2 * 65 * 32 + 33 * 32 + 33 * 512) - 33 * 32 + 513 * (512 + 256)
    )


@pytest.mark.parametrize("model", [_small(), SpeechWaveNet(2, 5, channels=4, blocks=1)])
def test_gradient_reaches_every_parameter_and_the_loss_falls(model):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 30, 2)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 30))
    optimizer, losses = optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        assert all(p.grad is not None and np.any(p.grad) for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01


def test_mu_law():
    x = [-1, -0.5, 0, 0.01, 0.1, 0.5, 1]
    assert mu_law_encode(x).tolist() == [0, 16, 128, 157, 203, 239, 255]
    assert mu_law_encode([-7, 7]).tolist() == [0, 255]
    codes = np.arange(256)
    decoded = mu_law_decode(codes)
    assert decoded.dtype == np.float32
    assert (decoded[0], decoded[255]) == (-1, 1)
    np.testing.assert_array_equal(mu_law_encode(decoded), codes)
    np.testing.assert_allclose(decoded, -decoded[::-1], rtol=1e-6)
    # f(0.5) = 0.8757030686, so that sample comes back from the middle of its bin.
    assert abs(mu_law_decode(239) - 0.5) < 0.02
    assert mu_law_encode(np.linspace(-1, 1, 9), mu=3).max() == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _small(dilations=(1, 0)), "WaveNet: dilations must be an integer or 2 integers"),
        (lambda: _small(dilations=()), "WaveNet: dilations must be an integer >= 1, but is"),
        (lambda: SpeechWaveNet(blocks=0), "SpeechWaveNet: blocks must be an integer >= 1"),
        (
            lambda: _small()(np.zeros((1, 10, 3), np.float32)),
            r"WaveNet: x must be sequences \(N, L, 2\) of at least one sample, but has shape "
            r"\(1, 10, 3\)",
        ),
        (lambda: mu_law_encode([0.0], mu=0), "mu_law_encode: mu must be an integer >= 1"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
