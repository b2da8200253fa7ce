"""The loop: budgets, schedule, best network, and how it ends."""

import math
import threading

import numpy as np
import pytest

from minidl import functional as F
from minidl import metrics, optim, train
from minidl.data import Dataset, check_folder
from minidl.models import UNet
from minidl.random import manual_seed
from minidl.train import Settings, Trainer, TrainingError, Watch, segmentation_loss


@pytest.fixture
def sets(pairs_folder):
    report = check_folder(pairs_folder)
    full = Dataset(report.pairs[:5], report.mask_kind)
    return full, Dataset(report.pairs[5:], report.mask_kind, full.normaliser)


def make(sets, watch=None, seed=0, **settings):
    manual_seed(seed)
    model = UNet(1, 2, depth=2, root=4)
    settings = {"batch_size": 2, "crop": (16, 16), "lr": 1e-2, "seed": seed, **settings}
    return Trainer(model, *sets, Settings(**settings), ("nothing", "disc"), (1,), watch)


def test_a_network_learns(sets):
    trainer = make(sets, steps=80, batch_size=4, crop=(24, 24))
    history = trainer.run()
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert trainer.best["val_dice"] > 0.9
    assert trainer.best["val_pixel_accuracy"] > 0.98


def test_equal_seeds_give_equal_bits_for_any_number_of_threads(sets, threads):
    histories, weights = [], []
    for seed, count in ((3, 1), (3, 2), (4, 2)):
        threads(count)
        trainer = make(sets, steps=8, seed=seed)
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.run()]
        histories.append(rows)
        weights.append(trainer.model.state_dict())
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 3}, 3), ({"epochs": 2}, 5), ({"epochs": 2, "steps": 4}, 4),
     ({"epochs": 0.1}, 1), ({"steps": 3, "minutes": 60}, 3)],
)  # fmt: skip
def test_whatever_ends_first_ends_the_training(sets, budget, steps):
    trainer = make(sets, **budget)
    assert trainer.run()[-1]["step"] == trainer.step == steps
    assert trainer.done == 1


def test_a_time_budget_ends_the_training_and_brings_the_rate_down(sets):
    rates = []

    class Rates(Watch):
        def stepped(self, trainer):
            rates.append(trainer.lr)

    trainer = make(sets, Rates(), minutes=1.5 / 60)
    trainer.run()
    assert trainer.elapsed < 6
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.5 * rates[0]
    assert trainer.history[-1]["step"] == trainer.step


def test_the_learning_rate_falls_along_half_a_cosine(sets):
    trainer = make(sets, steps=10, lr=0.5)
    expected = {0: 0.5, 5: 0.5 * (0.01 + 0.99 / 2), 10: 0.005}
    for step, rate in expected.items():
        trainer.step = step
        assert trainer.learning_rate() == pytest.approx(rate)


def test_the_best_network_is_the_one_with_the_highest_dice(sets, monkeypatch):
    scores = iter([0.5, 0.7, 0.6, 0.7])
    reported = []

    class Report(Watch):
        def validated(self, trainer, evaluation, better):
            reported.append(better)

    monkeypatch.setattr(train.Evaluation, "foreground_dice", property(lambda self: next(scores)))
    trainer = make(sets, Report(), steps=4)
    trainer.validate_every = 1
    monkeypatch.setattr(train.Evaluation, "pixel_accuracy", 0.9)
    trainer.run()
    assert reported == [True, True, False, False]
    assert trainer.best["step"] == 2


def test_finding_nothing_where_there_is_nothing_is_best(sets, monkeypatch):
    scores = iter([(0.0, 0.9), (0.0, 0.95), (float("nan"), 1.0), (0.0, 0.99)])
    better = []

    class Report(Watch):
        def validated(self, trainer, evaluation, is_better):
            better.append(is_better)

    current = []

    def dice(self):
        current[:] = [next(scores)]
        return current[0][0]

    monkeypatch.setattr(train.Evaluation, "foreground_dice", property(dice))
    trainer = make(sets, Report(), steps=4)
    trainer.validate_every = 1
    trainer.run()
    assert better[0]
    assert better[2]
    assert not better[3]


def test_validation_costs_a_small_share_of_the_computing(sets):
    trainer = make(sets, steps=10_000)
    step = 3 * 2 * 16 * 16
    assert trainer.validate_every == max(math.ceil(3 * 24 * 32 / (0.12 * step)), 5)
    assert make(sets, steps=1).validate_every >= 1


def test_validation_uses_whole_images(sets):
    trainer = make(sets, steps=1)
    seen = []

    class Sizes(Watch):
        def validated(self, trainer, evaluation, better):
            seen.append((evaluation.matrix.sum(), evaluation.images))

    trainer.watch = Sizes()
    trainer.run()
    assert seen == [(3 * 24 * 32, 3)]


def test_a_loss_that_is_not_finite_stops_with_the_step(sets, monkeypatch):
    true, calls = train.segmentation_loss, []

    def broken(*arguments):
        calls.append(1)
        return true(*arguments) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(train, "segmentation_loss", broken)
    with pytest.raises(TrainingError, match=r"loss became nan at step 3 .*Train with a lower one"):
        make(sets, steps=4).run()
    assert "minidl-prefetch" not in {thread.name for thread in threading.enumerate()}


def test_the_keyboard_ends_training_and_keeps_what_there_is(sets):
    class Impatient(Watch):
        def stepped(self, trainer):
            if trainer.step == 3:
                raise KeyboardInterrupt

    trainer = make(sets, Impatient(), steps=50)
    trainer.validate_every = 2
    history = trainer.run()
    assert trainer.interrupted
    assert [row["step"] for row in history] == [2]
    assert trainer.best is history[0]


def test_each_row_of_the_history_says_everything(sets):
    trainer = make(sets, steps=2)
    row = trainer.run()[-1]
    assert list(row) == [
        "step", "epoch", "seconds", "lr", "train_loss", "val_loss", "val_pixel_accuracy",
        "val_dice", "val_dice_nothing", "val_dice_disc",
    ]  # fmt: skip
    assert row["val_dice"] == row["val_dice_disc"]
    assert row["epoch"] == pytest.approx(2 * 2 / 5)


def test_the_reported_scores_are_those_of_the_network(sets):
    trainer = make(sets, steps=2)
    row = trainer.run()[-1]
    trainer.model.eval()
    val, matrix = sets[1], 0
    for index in range(len(val)):
        x, y = val[index]
        scores = np.asarray(trainer.model(x[None]))[0]
        matrix = matrix + metrics.confusion_matrix(scores.argmax(-1), y, 2)
    assert row["val_dice"] == metrics.dice(matrix)[1]
    assert row["val_pixel_accuracy"] == metrics.pixel_accuracy(matrix)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least one of steps, epochs and minutes"):
        Settings()
    with pytest.raises(ValueError, match="minutes=0, expected more than 0"):
        Settings(minutes=0)
    with pytest.raises(ValueError, match="lr=-1, expected more than 0"):
        Settings(steps=1, lr=-1)


def test_the_loss_is_cross_entropy_plus_dice_of_the_foreground_over_the_batch(rng):
    scores = rng.standard_normal((2, 4, 5, 3))
    target = rng.integers(0, 3, (2, 4, 5))
    target[0, 0] = -100
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    costs, hit, size = [], np.zeros(3), np.zeros(3)
    for index in np.ndindex(target.shape):
        label = target[index]
        if label >= 0:
            costs.append(-np.log(p[index][label]))
            hit[label] += p[index][label]
            size += p[index]
            size[label] += 1
    dice = 1 - (2 * hit + 1) / (size + 1)
    for foreground in ([1], [0, 2]):
        expected = np.mean(costs) + dice[foreground].mean()
        assert float(segmentation_loss(scores, target, foreground)) == pytest.approx(expected)


def test_the_validation_loss_is_that_of_all_pixels(sets, monkeypatch):
    trainer = make(sets, steps=1)
    row = trainer.run()[-1]
    trainer.model.eval()
    scores, targets = [], []
    for index in range(len(sets[1])):
        x, y = sets[1][index]
        scores.append(np.asarray(trainer.model(x[None])))
        targets.append(y[None])
    both = np.concatenate(scores, axis=1), np.concatenate(targets, axis=1)
    assert row["val_loss"] == pytest.approx(float(segmentation_loss(*both, (1,))), rel=1e-5)
    monkeypatch.setattr(train, "_LOSS_PIXELS", 1000)
    assert make(sets, steps=1).run()[-1]["val_loss"] == pytest.approx(row["val_loss"], rel=0.3)


def test_the_loop_uses_adam_as_it_is(sets):
    """Two steps of the trainer equal two steps written out by hand."""
    trainer = make(sets, steps=2)
    trainer.run()
    manual_seed(0)
    model = UNet(1, 2, depth=2, root=4)
    adam = optim.Adam(model.parameters(), lr=1e-2)
    stream = train.batches(sets[0], 2, (16, 16), 0, steps=2)
    for (x, y), rate in zip(stream, (1e-2, 1e-2 * (0.01 + 0.99 / 2)), strict=True):
        adam.param_groups[0]["lr"] = rate
        scores = model(x)
        loss = F.cross_entropy(scores, y)
        loss = loss + F.dice_loss(scores, y, batch=True, include_background=False)
        adam.zero_grad()
        loss.backward()
        adam.step()
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(trainer.model.state_dict()[name], array, atol=1e-5)
