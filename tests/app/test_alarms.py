"""Alarms: each is made to go off by a network that is broken in a known place, and only by it."""

import json

import numpy as np
import pytest
from discs import write_pairs

import minidl
from minidl import functional as F
from minidl import nn, optim
from minidl.alarms import Alarm, Alarms, find_non_finite, look, read_alarms, signs, watch
from minidl.data import Dataset, check_folder
from minidl.metrics import constant_entropy
from minidl.models import UNet, UNetSlides
from minidl.train import Settings, Trainer, TrainingError


def images(channels=1, side=16, count=2, seed=0):
    numbers = np.random.default_rng(seed).normal(size=(count, side, side, channels))
    return numbers.astype(np.float32)


def chain(*widths, activation="relu", seed=0):
    """Convolutions one behind the other, and two scores."""
    rng = np.random.default_rng(seed)
    layers = [
        nn.Conv2d(a, b, 3, padding=1, rng=rng, activation=activation)
        for a, b in zip(widths, widths[1:], strict=False)
    ]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 2, 1, rng=rng))


# ---- looking -----------------------------------------------------------------------------------


def test_a_look_sees_layers_in_order_with_their_sizes():
    model, x = chain(1, 4, 6), images()
    seen = look(model, x)
    assert [layer.path for layer in seen.layers] == ["0", "1", "2"]
    assert [layer.relu for layer in seen.layers] == [True, True, False]
    assert (seen.convolutions, seen.drops) == (3, [])
    first = np.maximum(F.conv2d(x, model[0].weight, model[0].bias, padding=1).numpy(), 0)
    np.testing.assert_allclose(seen.layers[0].rms, np.sqrt((first**2).mean()), rtol=1e-5)
    np.testing.assert_array_equal(seen.scores, model(x).numpy())


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    report = check_folder(write_pairs(tmp_path_factory.mktemp("alarms") / "discs"))
    return Dataset(report.pairs, report.mask_kind)


def train(discs, model, alarms, steps=40, lr=1e-2, crop=(24, 24), data=None):
    settings = Settings(steps=steps, batch_size=2, crop=crop, lr=lr)
    trainer = Trainer(model, data or discs, discs, settings, ("nothing", "disc"), (1,), alarms)
    trainer.run()
    return trainer


def test_training_is_the_same_whether_anyone_looks_or_not(discs):
    states = []
    for watching in (None, Alarms()):
        minidl.manual_seed(5)
        model = UNet(1, 2, depth=2, root=4, dropout=0.5)
        train(discs, model, watching, steps=31)
        states.append(model.state_dict())
    assert len(watching.looks) == 3
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)


# ---- whole trainings ---------------------------------------------------------------------------


def test_a_network_that_learns_sets_nothing_off(discs):
    minidl.manual_seed(0)
    alarms = Alarms()
    trainer = train(discs, UNet(1, 2, depth=2, root=4), alarms, steps=210)
    assert trainer.best["val_dice"] > 0.8
    assert alarms.alarms == []


def test_the_slides_network_is_told_what_is_wrong_with_it(discs, tmp_path):
    minidl.manual_seed(0)
    told = []
    alarms = Alarms(told.append, tmp_path / "alarms.json")
    train(discs, UNetSlides(1, 2, output_relu=True), alarms, steps=2, lr=1e-4, crop=(44, 44))
    kinds = [alarm.kind for alarm in told]
    assert kinds == ["first-weights", "relu-scores", "dropout-everywhere"]
    assert "down.0.conv1" in told[0].words and "layer scores" in told[1].words
    assert "10 of 13 convolutions" in told[2].words
    assert [alarm["kind"] for alarm in json.loads((tmp_path / "alarms.json").read_text())] == kinds
    assert read_alarms(tmp_path / "alarms.json") == told == alarms.alarms


def test_nothing_is_said_twice_not_even_after_a_resume(tmp_path):
    told, alarm = [], Alarm("kind", "Words.", "Remedy.")
    for _ in range(2):
        alarms = Alarms(told.append, tmp_path / "a.json")
        alarms.raise_alarm(alarm, 3)
        alarms.raise_alarm(alarm, 5)
        alarms.raise_alarm(None, 6)
    assert [(a.kind, a.step, str(a)) for a in told] == [("kind", 3, "Words. Remedy.")]
    (tmp_path / "a.json").write_text("{")
    assert read_alarms(tmp_path / "a.json") == []


def test_steps_that_are_too_small_or_too_large_are_told(discs):
    for lr, steps, kind in ((1e-7, 70, "small-steps"), (3.0, 6, "large-steps")):
        minidl.manual_seed(0)
        alarms = Alarms()
        train(discs, UNet(1, 2, depth=2, root=2), alarms, steps=steps, lr=lr, crop=(8, 8))
        assert [alarm.kind for alarm in alarms.alarms] == [kind], lr


def test_the_error_of_a_loss_that_is_not_finite_says_where_it_began(discs):
    model = UNet(1, 2, depth=2, root=4, batch_norm=False)
    model.merge[0].conv1.weight.data[...] = 3e38
    with pytest.raises(TrainingError, match=r"at step 1 .* forward pass of layer merge.0.conv1: "):
        train(discs, model, Alarms())


# ---- where numbers stop being numbers ----------------------------------------------------------


def square(scores):
    return (scores * scores).mean()


def test_nothing_is_found_where_all_is_finite():
    assert find_non_finite(chain(1, 4), images(), square) is None


def test_the_first_layer_of_the_forward_pass_is_found():
    model = chain(1, 4, 6, 8)
    model[1].weight.data[...] = 1e38
    model[2].weight.data[...] = 1e38
    found = find_non_finite(model, images())
    assert (found.where, found.path) == ("forward", "1")
    assert "of the results of Conv" in found.words
    assert "layer 1:" in signs.non_finite(found, 0.1).words


def test_images_and_weights_are_looked_at_first():
    model, x = chain(1, 4, 6), images()
    x[1, 2, 3] = np.nan
    assert find_non_finite(model, x).where == "images"
    model[1].bias.data[2] = np.inf
    found = find_non_finite(model, images())
    assert (found.where, found.path) == ("weights", "1.bias")
    assert found.words == "16.7% of its values are infinite or NaN"


class Root(nn.Module):
    """Finite wherever it is used, but not its gradient at 0."""

    def forward(self, x):
        return (x.relu()).sqrt()


def test_the_backward_pass_and_the_loss_are_told_apart():
    model = nn.Sequential(chain(1, 4), Root())
    found = find_non_finite(model, images(), lambda scores: scores.sum())
    assert (found.where, found.path) == ("backward", "1")
    assert "gradients" in found.words
    found = find_non_finite(chain(1, 4), images(), lambda scores: (scores * 0).sum().log())
    assert found.where == "loss"
    assert "first in the loss itself" in signs.non_finite(found, 0.1).words


# ---- signs, one by one -------------------------------------------------------------------------


def test_images_as_they_are_in_files():
    model = chain(1, 4)
    assert signs.unscaled_images(look(model, images())) is None
    bright = signs.unscaled_images(look(model, images() * 40 + 128))
    assert bright.kind == "unscaled-images" and "mean square of 1" in bright.words
    assert signs.unscaled_images(look(model, images() / 255)).kind == "unscaled-images"
    assert signs.unscaled_images(look(model, images() * 0)) is None


def test_a_relu_in_front_of_the_softmax():
    model = chain(1, 4)
    assert signs.relu_scores(look(model, images())) is None
    behind = signs.relu_scores(look(nn.Sequential(model, nn.ReLU()), images()))
    assert behind.kind == "relu-scores" and "layer 1 end in a ReLU" in behind.words

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x).relu()

    assert signs.relu_scores(look(Hidden(), images())).kind == "relu-scores"
    model[1].weight.data[...] = 0  # scores that begin at zero are no trap
    assert signs.relu_scores(look(model, images())) is None


def test_dropout_everywhere_in_a_narrow_network():
    def network(p, width, drops=5):
        parts = [nn.Conv2d(1, width, 3, padding=1)]
        for _ in range(drops):
            parts += [nn.Dropout(p), nn.Conv2d(width, width, 3, padding=1)]
        return nn.Sequential(*parts)

    bad = signs.dropout_everywhere(look(network(0.4, 8), images()))
    assert "Dropout follows 5 of 6 convolutions" in bad.words and "8 channels" in bad.words
    for fine in (network(0.1, 8), network(0.4, 64), network(0.4, 8, drops=2)):
        assert signs.dropout_everywhere(look(fine, images())) is None


def test_first_weights_by_the_outgoing_channels():
    assert signs.first_weights(chain(1, 16, 32, 64)) is None
    model = chain(1, 16, 32, 64)
    for layer in model:
        _, fan_out = nn.init.fans(layer.weight.shape)
        layer.weight.data = nn.init.normal(layer.weight.shape, std=np.sqrt(2 / fan_out))
    assert "0.333" not in signs.first_weights(model).words
    assert "weights of 0 begin with" in signs.first_weights(model).words
    model[1].bias.data[...] = np.linspace(-1, 1, 32)  # as after a training
    assert signs.first_weights(model) is None
    assert signs.first_weights(UNet(1, 2, depth=3, root=4)) is None
    assert signs.first_weights(UNet(1, 2, depth=3, root=4, batch_norm=False)) is None


def test_the_deviation_of_an_up_convolution_counts_what_reaches_a_pixel():
    assert signs.he_deviation(nn.Conv2d(6, 5, 3)) == pytest.approx(np.sqrt(2 / 54))
    up = nn.ConvTranspose2d(6, 5, 2, stride=2)
    assert signs.he_deviation(up) == pytest.approx(np.sqrt(2 / 6))
    assert signs.he_deviation(nn.ConvTranspose2d(6, 5, 4, stride=2)) == pytest.approx(
        np.sqrt(2 / 24)
    )


def test_dead_relus_are_those_of_all_batches():
    model = chain(1, 8, 8)
    fine = [look(model, images(seed=k)) for k in range(3)]
    assert signs.dead_relus(fine) is None
    model[1].bias.data[:5] = -100
    looks = [look(model, images(seed=k)) for k in range(3)]
    assert "5 of the 8 channels of 1 are 0" in signs.dead_relus(looks).words
    assert signs.dead_relus(looks[:2]) is None
    assert signs.dead_relus([*looks[:2], fine[0]]) is None


def gradients(model, lr=1e-3):
    """Norms of three steps."""
    optimiser, norms = optim.Adam(model.parameters(), lr=lr), []
    for seed in range(3):
        target = (images(seed=seed)[..., 0] > 0).astype(int)
        loss = F.cross_entropy(model(images(seed=seed)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        norms.append(watch.gradient_norms(model))
    return norms


def test_gradients_that_vanish_behind_many_sigmoids():
    assert signs.gradient_sizes(gradients(chain(1, 8, 8, 8))) is None
    parts = []
    for k in range(12):
        parts += [nn.Conv2d(8 if k else 1, 8, 3, padding=1), nn.Sigmoid()]
    deep = nn.Sequential(*parts, nn.Conv2d(8, 2, 1))
    for part in deep:
        if isinstance(part, nn.Conv2d):
            part.weight.data *= np.float32(0.3)
    alarm = signs.gradient_sizes(gradients(deep))
    assert alarm.kind == "vanishing-gradients" and "gradient of 0.weight" in alarm.words


def test_gradients_that_explode_are_large_at_every_step():
    large, small = {"a": 3e3, "b": 4e3}, {"a": 3.0, "b": 4.0}
    assert "norm of 5e+03 or more" in signs.gradient_sizes([large] * 3).words
    assert signs.gradient_sizes([large, small, large]) is None
    assert signs.gradient_sizes([large] * 2) is None


def test_changes_of_weights_are_relative_and_of_the_middle_layer():
    before = {"a": np.ones(4), "b": np.ones(9), "c": np.full(4, 2.0)}
    after = {"a": np.ones(4), "b": np.full(9, 1.5), "c": np.full(4, 2.2)}
    assert watch.change(before, after) == pytest.approx(0.1)
    assert signs.weight_changes([1e-3] * 3, 1e-3) is None
    assert signs.weight_changes([1e-6] * 2, 1e-6) is None
    assert signs.weight_changes([1e-6, 1e-3, 1e-6], 1e-6) is None
    assert signs.weight_changes([1e-5] * 3, 1e-6).kind == "small-steps"
    assert "by 70% of themselves" in signs.weight_changes([0.5, 0.7], 1).words


def test_predictions_that_collapsed_to_one_class():
    names = "wall", "floor"
    empty, fine = np.array([[90, 0], [10, 0]]), np.array([[89, 1], [10, 0]])
    alarm = signs.one_class([fine, empty, empty, empty], names)
    assert "predicted as wall, which 90.0% of them are" in alarm.words
    assert signs.one_class([empty, empty], names) is None
    assert signs.one_class([empty, fine, empty], names) is None
    alone = np.array([[100, 0], [0, 0]])  # there is nothing else to find
    assert signs.one_class([alone] * 3, names) is None


def test_a_loss_above_that_of_the_constant_prediction():
    shares = np.array([0.9, 0.1])
    entropy = constant_entropy(shares)
    flat, constant = [0.6931] * 20, [entropy] * 20
    alarm = signs.not_converged(flat, constant, shares)
    assert f"H(q) = {entropy:.3f}" in alarm.words and "0.693" in alarm.words
    assert signs.not_converged([0.9 * entropy] * 20, constant, shares) is None
    assert signs.not_converged(flat[:18], constant[:18], shares) is None
    falling = list(np.linspace(1.0, 0.5, 20))
    assert signs.not_converged(falling, constant, shares) is None


def test_the_constant_prediction_is_that_of_the_shares(discs):
    """A network that has learned nothing but the shares is exactly as good."""
    alarms = Alarms()
    trainer = train(discs, UNet(1, 2, depth=2, root=2), alarms, steps=10)
    _, target = trainer.batch
    counted = np.bincount(target[target >= 0], minlength=2)
    q = counted / counted.sum()
    dice = 2 * q[1] * counted[1] / (q[1] * counted.sum() + counted[1])
    expected = constant_entropy(counted) + 1 - dice
    assert alarms.losses[0] == (trainer.loss, pytest.approx(expected, abs=0.02))


def test_a_label_that_is_no_class_is_named_with_its_place():
    target = np.zeros((2, 4, 5), int)
    target[1, 2, 3] = 7
    with pytest.raises(ValueError, match=r"label 7 at \(1, 2, 3\), but the logits have 2 classes"):
        F.cross_entropy(np.zeros((2, 4, 5, 2), np.float32), target)
