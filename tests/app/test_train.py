"""The loop: budgets, schedule, best network, and how it ends."""

import math
import threading

import numpy as np
import pytest

from minidl import functional as F
from minidl import metrics, nn, optim, train
from minidl.data import Dataset, check_folder
from minidl.models import UNet
from minidl.random import manual_seed
from minidl.train import Settings, Trainer, TrainingError, Watch, Watches, segmentation_loss
from minidl.training import schedule
from minidl.training.average import Average
from minidl.training.objective import LOSSES, boundary_distances


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
    for name, value, message in (
        ("clip", 0, "clip=0, expected more than 0"),
        ("patience", 0, "patience=0, expected more than 0"),
        ("accumulate", 0, "accumulate=0, expected 1 or more"),
        ("average", 1.0, "average=1.0, expected from 0 to below 1"),
        ("optimiser", "lion", "optimiser='lion', expected one of adam, adamw, sgd"),
        ("schedule", "rising", "schedule='rising', expected one of cosine, poly, step"),
        ("class_weights", (0, 0), "expected 0 or more, and not all of them 0"),
        ("loss", "ce+", "loss 'ce[+]': expected one of ce, dice"),
        ("loss", "dice+dice", "different ones with a [+] between them"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(steps=1, **{name: value})


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


# ---- schedules, averages, accumulation ------------------------------------------------------


def rates(sets, **settings):
    """The learning rate of each step."""
    seen = []

    class Rates(Watch):
        def stepped(self, trainer):
            seen.append(trainer.lr)

    trainer = make(sets, Rates(), **settings)
    trainer.run()
    return seen, trainer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [1] * 8),
        ("poly", [(1 - k / 8) ** 0.9 for k in range(8)]),
        ("step", [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_schedules(sets, name, expected):
    found, _ = rates(sets, steps=8, lr=1e-3, schedule=name)
    np.testing.assert_allclose(found, np.array(expected) * 1e-3)


def test_a_warm_up_rises_in_equal_parts(sets):
    found, _ = rates(sets, steps=6, lr=1e-3, schedule="constant", warm_up=4)
    np.testing.assert_allclose(found, np.array([0.25, 0.5, 0.75, 1, 1, 1]) * 1e-3)


def scored(monkeypatch, scores):
    """Validations that find these scores, one after the other."""
    values = iter(scores)
    monkeypatch.setattr(train.Evaluation, "foreground_dice", property(lambda self: next(values)))
    monkeypatch.setattr(train.Evaluation, "pixel_accuracy", 0.5)


def test_a_plateau_brings_the_rate_down(sets, monkeypatch):
    scored(monkeypatch, [0.5, *[0.4] * 5, 0.6, *[0.3] * 9])
    monkeypatch.setattr(Trainer, "_validation_interval", lambda self: 1)
    found, _ = rates(sets, steps=16, lr=1e-3, schedule="plateau")
    # The sixth validation is the fifth in vain; after the seventh, which is best, it counts anew.
    expected = [1.0] * 6 + [0.2] * 6 + [0.04] * 4
    np.testing.assert_allclose(found, np.array(expected) * 1e-3)
    assert schedule.PLATEAU == 5


def test_it_stops_when_nothing_better_is_found(sets, monkeypatch):
    scored(monkeypatch, [0.5, 0.4, 0.6, 0.6, 0.5, 0.4, 0.9])
    trainer = make(sets, steps=7, patience=3)
    trainer.validate_every = 1
    history = trainer.run()
    assert trainer.stopped_early
    assert not trainer.interrupted
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert trainer.best["step"] == 3


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_accumulated_gradients_are_those_of_the_mean_loss(sets, parts):
    """In float64, so that a gradient that is scaled wrongly by any factor would be seen."""
    trainer = make(sets, steps=1, accumulate=parts, optimiser="sgd", lr=1e-3)
    trainer.model.to("float64")
    before = trainer.model.state_dict()
    stream = list(train.batches(sets[0], 2, (16, 16), 0, steps=parts))
    trainer._learn(iter([(x.astype(float), y) for x, y in stream]))
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    twin = make(sets, steps=1).model.to("float64")
    total = sum(segmentation_loss(twin(x.astype(float)), y, (1,)) for x, y in stream)
    (total / parts).backward()
    for name, p in twin.named_parameters():
        np.testing.assert_allclose(gradients[name], p.grad, rtol=1e-9, atol=1e-12)
        change = trainer.model.state_dict()[name] - before[name]
        np.testing.assert_allclose(change, -1e-3 * p.grad, rtol=1e-6, atol=1e-12)
    assert trainer.loss == pytest.approx(float(total) / parts)
    assert trainer.epoch == parts * 2 / 5


def test_epochs_count_all_images_of_a_step(sets):
    assert make(sets, epochs=4, accumulate=3).last_step == math.ceil(4 * 5 / 6)


def test_gradients_are_clipped(sets):
    norms = []

    class Norms(Watch):
        def stepped(self, trainer):
            squares = (np.sum(p.grad.astype(float) ** 2) for p in trainer.model.parameters())
            norms.append(math.sqrt(sum(squares)))

    make(sets, Norms(), steps=4).run()
    free = list(norms)
    norms.clear()
    make(sets, Norms(), steps=4, clip=0.1).run()
    assert min(free) > 0.1
    np.testing.assert_allclose(norms, 0.1, rtol=1e-4)


@pytest.mark.parametrize(
    ("chosen", "rule"),
    [({"optimiser": "sgd", "momentum": 0.7, "weight_decay": 0.1},
      lambda p: optim.SGD(p, 1e-2, momentum=0.7, weight_decay=0.1)),
     ({"optimiser": "sgd"}, lambda p: optim.SGD(p, 1e-2, momentum=0.9)),
     ({"optimiser": "adamw"}, lambda p: optim.AdamW(p, 1e-2)),
     ({"optimiser": "adamw", "weight_decay": 0.0}, lambda p: optim.AdamW(p, 1e-2, weight_decay=0)),
     ({"weight_decay": 0.1}, lambda p: optim.Adam(p, 1e-2, weight_decay=0.1))],
)  # fmt: skip
def test_optimisers(sets, chosen, rule):
    found = make(sets, steps=1, **chosen).optimiser
    expected = rule(make(sets, steps=1).model.parameters())
    assert type(found) is type(expected)
    groups = [{**one.param_groups[0], "params": None} for one in (found, expected)]
    assert groups[0] == groups[1]


def test_an_average_follows_its_formula(rng):
    model = nn.BatchNorm2d(3)
    average = Average(model, 0.6)
    expected = {name: value.copy() for name, value in model.state_dict().items()}
    for step in range(1, 9):
        for _, p in model.named_parameters():
            p.data[...] = rng.standard_normal(3)
        model(rng.standard_normal((1, 2, 2, 3)).astype(np.float32))
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            kept = expected[name].dtype.kind == "f"
            expected[name] = decay * expected[name] + (1 - decay) * value if kept else value
    for name, value in expected.items():
        np.testing.assert_allclose(average.values[name], value, rtol=1e-5, atol=1e-6)
    assert average.values["num_batches_tracked"] == 8


def test_the_averaged_network_is_the_one_that_is_validated(sets):
    seen = []

    class Report(Watch):
        def validated(self, trainer, evaluation, better):
            with trainer.judged():  # once more changes nothing
                seen.append((trainer.model.state_dict(), trainer.state_dict(), evaluation))

    trainer = make(sets, Report(), steps=6, average=0.9)
    trainer.run()
    judged, state, evaluation = seen[-1]
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(state["weights"][name], value)
        np.testing.assert_array_equal(judged[name], trainer.average.values[name])
    assert any((state["weights"][name] != judged[name]).any() for name in judged)
    trainer.model.load_state_dict(judged)
    again = train.evaluate(trainer.model, sets[1], ("nothing", "disc"), (1,))
    np.testing.assert_array_equal(again.matrix, evaluation.matrix)
    # Averaging only looks on.
    plain = make(sets, steps=6)
    plain.run()
    for name, value in plain.model.state_dict().items():
        np.testing.assert_array_equal(value, state["weights"][name])


def test_weights_of_pixels_reach_the_cross_entropy(sets):
    trainer = make(sets, steps=1, loss="ce", optimiser="sgd", lr=1e-3)
    x, y = next(train.batches(sets[0], 2, (16, 16), 0))
    weight = np.random.default_rng(0).uniform(0, 3, y.shape)
    trainer._learn(iter([(x, y, weight)]))
    model = make(sets, steps=1).model
    expected = float(F.cross_entropy(model(x), y, pixel_weight=weight))
    assert trainer.loss == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-3)
    assert trainer.batch[2] is weight


# ---- those who look on ----------------------------------------------------------------------


def test_several_look_on_each_in_turn(sets):
    heard = []

    class Listener(Watch):
        def __init__(self, name):
            self.name = name

        def stepped(self, trainer):
            heard.append((self.name, "stepped", trainer.step, len(trainer.batch)))

        def validating(self, trainer, done):
            heard.append((self.name, "validating", trainer.step, done))

        def validated(self, trainer, evaluation, better):
            heard.append((self.name, "validated", trainer.step, better))

    make(sets, [Listener("a"), Listener("b")], steps=1).run()
    told = [("stepped", 1, 2), *(("validating", 1, k) for k in range(4)), ("validated", 1, True)]
    assert heard == [(name, *event) for event in told for name in "ab"]
    assert isinstance(make(sets, steps=1).watch, Watches)


def test_they_may_say_why_a_loss_is_not_finite(sets, monkeypatch):
    found = []

    class Explains(Watch):
        def not_finite(self, trainer):
            found.append((trainer.step, trainer.loss, trainer.batch[0].shape))
            return "Layer down.0 did it."

    true = train.segmentation_loss
    monkeypatch.setattr(train, "segmentation_loss", lambda *a: true(*a) * float("inf"))
    with pytest.raises(
        TrainingError, match=r"step 1 .*\. Layer down.0 did it\. Train with a lower"
    ):
        make(sets, [Watch(), Explains()], steps=4).run()
    assert found == [(0, math.inf, (2, 16, 16, 1))]


# ---- losses ---------------------------------------------------------------------------------


def softmax(scores):
    share = np.exp(scores - scores.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True)


def by_hand(name, p, target, front, w, distance, done):
    """A loss of probabilities p (N, H, W, K), with loops over classes and float64 sums."""
    kept = target >= 0
    own = np.take_along_axis(p, np.maximum(target, 0)[..., None], -1)[..., 0][kept]
    label_weight = w[target[kept]]
    if name == "ce":
        return (label_weight * -np.log(own)).sum() / label_weight.sum()
    if name == "focal":
        return (label_weight * (1 - own) ** 2 * -np.log(own)).sum() / kept.sum()
    hit = np.array([p[..., k][kept & (target == k)].sum() for k in range(len(w))])
    size = np.array([p[..., k][kept].sum() for k in range(len(w))])
    real = np.array([(target == k).sum() for k in range(len(w))], float)
    if name == "generalised-dice":
        v = w * np.where(real > 0, 1 / np.maximum(real, 1) ** 2, 0)
        return 1 - 2 * (v * hit).sum() / (v * (size + real)).sum()
    share = np.array([w[k] if k in front else 0 for k in range(len(w))])
    if name == "boundary":
        alpha = 0.01 + 0.99 * done
        return alpha * (share * p * distance)[kept].sum() / kept.sum()
    share = share / share.sum()
    if name == "dice":
        return (share * (1 - (2 * hit + 1) / (size + real + 1))).sum()
    if name == "tversky":
        missed, invented = real - hit, size - hit
        return (share * (1 - (hit + 1) / (hit + 0.3 * invented + 0.7 * missed + 1))).sum()
    costs = []
    for k in range(len(w)):
        wanted = (target[kept] == k).astype(float)
        errors = np.abs(wanted - p[..., k][kept])
        order = np.argsort(-errors)
        inside = np.cumsum(wanted[order])
        seen = np.arange(1, len(order) + 1)
        jaccard = 1 - (wanted.sum() - inside) / (wanted.sum() + seen - inside)
        costs.append((errors[order] * np.diff(jaccard, prepend=0)).sum())
    return (share * costs).sum()


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 3.0)])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_its_formula(rng, name, weights):
    scores = rng.standard_normal((2, 6, 5, 3))
    target = rng.integers(0, 3, (2, 6, 5))
    target[0, 0] = -100
    distance = boundary_distances(target, 3)
    w = np.ones(3) if weights is None else np.array(weights)
    expected = by_hand(name, softmax(scores), target, (1, 2), w, distance, 0.25)
    found = segmentation_loss(scores, target, (1, 2), name, weights, None, distance, 0.25)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    ce = by_hand("ce", softmax(scores), target, (1, 2), w, distance, 0.25)
    if name != "ce":
        both = segmentation_loss(
            scores, target, (1, 2), f"{name}+ce", weights, None, distance, 0.25
        )
        assert float(both) == pytest.approx(expected + ce, rel=1e-6)


def test_boundary_distances_by_brute_force(rng):
    target = (rng.random((2, 7, 9)) < 0.4).astype(int)
    target[1] = 0
    found = boundary_distances(target, 3)
    places = np.stack(np.mgrid[:7, :9], -1).reshape(-1, 2)
    for label in (0, 1):
        inside = (target[0] == label).reshape(-1)
        gaps = np.linalg.norm(places[:, None] - places, axis=-1)
        expected = [
            1 - gaps[k][~inside].min() if inside[k] else gaps[k][inside].min()
            for k in range(len(places))
        ]
        np.testing.assert_allclose(found[0, ..., label].reshape(-1), expected, atol=1e-5)
    assert not found[1].any()
    assert not found[0, ..., 2].any()


def test_a_boundary_loss_is_trained_and_validated(sets):
    row = make(sets, steps=3, loss="ce+boundary").run()[-1]
    assert math.isfinite(row["val_loss"])
    plain = make(sets, steps=3, loss="ce").run()[-1]
    assert row["val_loss"] != plain["val_loss"]
