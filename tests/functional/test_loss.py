"""Losses against naive twins written from the formulas, numeric derivatives, and PyTorch."""

import itertools
import warnings

import numpy as np
import pytest

from minidl import Tensor, kernels
from minidl.functional import loss as F
from minidl.gradcheck import gradcheck

SHAPE, CLASSES = (2, 5, 3), 4
REDUCTIONS = ["none", "mean", "sum"]


def _logits(dtype=np.float64, scale=3.0, shape=(*SHAPE, CLASSES)):
    return (np.random.default_rng(0).normal(size=shape) * scale).astype(dtype)


def _labels(ignored=True):
    labels = np.random.default_rng(1).integers(0, CLASSES, SHAPE)
    if ignored:
        labels[0, 0] = -100
    return labels


def _probabilities(dtype=np.float64):
    return np.random.default_rng(2).dirichlet(np.ones(CLASSES), SHAPE).astype(dtype)


WEIGHT = np.array([0.5, 2.0, 1.0, 1.7])


def _log_softmax(x):
    return (
        x
        - x.max(-1, keepdims=True)
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1))[..., None]
    )


def _reduced(costs, divisor, reduction):
    return {"none": costs, "sum": costs.sum(), "mean": costs.sum() / divisor}[reduction]


def _naive_cross_entropy(x, target, weight, reduction, smoothing, pixel_weight):
    weight = np.ones(CLASSES) if weight is None else weight
    log_p = _log_softmax(x)
    costs, divisor = np.zeros(x.shape[:-1]), 0.0
    for position in np.ndindex(costs.shape):
        wanted = target[position]
        if np.ndim(wanted) == 0:
            if wanted == -100:
                continue
            divisor += weight[wanted]
            wanted = np.eye(CLASSES)[wanted]
        else:
            divisor += 1
        wanted = (1 - smoothing) * wanted + smoothing / CLASSES
        costs[position] = -(weight * wanted * log_p[position]).sum()
        if pixel_weight is not None:
            costs[position] *= pixel_weight[position]
    return _reduced(costs, divisor, reduction)


PIXEL_WEIGHT = np.random.default_rng(3).uniform(0, 10, SHAPE)


class TestCrossEntropy:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("target", [_labels(), _probabilities()], ids=["labels", "shares"])
    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weight"])
    @pytest.mark.parametrize("pixel_weight", [None, PIXEL_WEIGHT], ids=["", "map"])
    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_value(self, dtype, target, weight, pixel_weight, smoothing, reduction):
        result = F.cross_entropy(
            _logits(dtype), target, weight, reduction=reduction, label_smoothing=smoothing,
            pixel_weight=pixel_weight,
        )  # fmt: skip
        expected = _naive_cross_entropy(
            _logits(dtype).astype(np.float64), target, weight, reduction, smoothing, pixel_weight
        )
        assert result.dtype == dtype
        rtol = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(result.numpy(), expected, rtol=rtol)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("target", [_labels(), _probabilities()], ids=["labels", "shares"])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_gradient(self, dtype, target, reduction):
        def f(x):
            return F.cross_entropy(
                x, target, WEIGHT, reduction=reduction, label_smoothing=0.1,
                pixel_weight=PIXEL_WEIGHT,
            )  # fmt: skip

        assert gradcheck(f, _logits(dtype))

    @pytest.mark.parametrize("target", [_labels(), _probabilities()], ids=["labels", "shares"])
    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weight"])
    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_is_that_of_pytorch(self, target, weight, smoothing, reduction):
        torch = pytest.importorskip("torch")
        x = torch.tensor(_logits(), requires_grad=True)
        wanted = torch.tensor(target)
        expected = torch.nn.functional.cross_entropy(
            x.movedim(-1, 1),
            wanted.movedim(-1, 1) if target.dtype.kind == "f" else wanted,
            None if weight is None else torch.tensor(weight),
            reduction=reduction,
            label_smoothing=smoothing,
        )
        logits = Tensor(_logits(), requires_grad=True)
        result = F.cross_entropy(
            logits, target, weight, reduction=reduction, label_smoothing=smoothing
        )
        gy = np.random.default_rng(4).normal(size=result.shape)
        result.backward(gy)
        expected.backward(torch.tensor(gy))
        np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(logits.grad, x.grad.numpy(), rtol=1e-10, atol=1e-14)

    def test_ignored_pixels_cost_nothing(self):
        logits = Tensor(_logits(), requires_grad=True)
        labels = _labels(ignored=False)
        labels[1] = 3
        costs = F.cross_entropy(logits, labels, ignore_index=3, reduction="none")
        costs.sum().backward()
        assert (costs.numpy()[labels == 3] == 0).all()
        assert (logits.grad[labels == 3] == 0).all()
        assert (costs.numpy()[labels != 3] > 0).all()

    @pytest.mark.parametrize("weight", [None, np.zeros(CLASSES)])
    def test_nothing_that_counts_costs_nothing(self, weight):
        logits = Tensor(_logits(), requires_grad=True)
        labels = np.full(SHAPE, -100 if weight is None else 1)
        result = F.cross_entropy(logits, labels, weight)
        result.backward()
        assert result.item() == 0
        np.testing.assert_array_equal(logits.grad, 0)

    def test_large_logits_do_not_overflow(self):
        logits = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
        costs = F.cross_entropy(logits, [0, 0], reduction="none").numpy()
        np.testing.assert_array_equal(costs, [0, 2e4])

    def test_nan_is_not_hidden(self):
        logits = np.zeros((2, 3))
        logits[1, 2] = np.nan
        costs = F.cross_entropy(logits, [0, 0], reduction="none").numpy()
        np.testing.assert_allclose(costs, [np.log(3), np.nan])

    @pytest.mark.parametrize("kind", [np.uint8, np.int32, np.bool_])
    def test_labels_of_any_integer_type(self, kind):
        labels = np.random.default_rng(1).integers(0, 2, SHAPE)
        expected = F.cross_entropy(_logits(), labels).item()
        assert F.cross_entropy(_logits(), labels.astype(kind)).item() == expected
        assert F.cross_entropy(_logits(), Tensor(labels.astype(kind))).item() == expected

    def test_takes_what_is_not_contiguous(self):
        logits = _logits(shape=(CLASSES, *SHAPE))
        moved = np.moveaxis(logits, 0, -1)
        labels = np.asfortranarray(_labels())
        result = F.cross_entropy(moved, labels).item()
        assert result == F.cross_entropy(moved.copy(), _labels()).item()

    def test_does_not_change_its_inputs(self):
        logits, labels, weight = _logits(), _labels(), WEIGHT.copy()
        x = Tensor(logits, requires_grad=True)
        F.cross_entropy(x, labels, weight).backward()
        np.testing.assert_array_equal(x.numpy(), logits)
        np.testing.assert_array_equal(labels, _labels())
        np.testing.assert_array_equal(weight, WEIGHT)

    @pytest.mark.parametrize(
        "loss",
        [F.cross_entropy, F.focal_loss, F.dice_loss, F.generalised_dice_loss, F.lovasz_softmax],
    )
    def test_same_bits_for_any_number_of_threads(self, loss):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(2, 160, 170, 3)).astype(np.float32)
        labels = rng.integers(0, 3, (2, 160, 170))
        before, results = kernels.parallel.get_num_threads(), []
        try:
            for threads in (1, 2, 5):
                kernels.parallel.set_num_threads(threads)
                x = Tensor(logits, requires_grad=True)
                y = loss(x, labels)
                y.backward()
                results.append(y.numpy().tobytes() + x.grad.tobytes())
        finally:
            kernels.parallel.set_num_threads(before)
        assert results[0] == results[1] == results[2]

    def test_sums_many_pixels_accurately(self):
        logits = np.zeros((1_000_000, 2), np.float32)
        result = F.cross_entropy(logits, np.zeros(1_000_000, np.uint8), reduction="sum")
        assert result.item() == np.float32(1e6 * np.log(2))

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"target": _labels(False) + 4}, ValueError, r"the label \d at \(0, 0, 0\), but"),
            ({"target": _labels()[0]}, ValueError, r"target must have shape \(2, 5, 3\)"),
            ({"target": _probabilities()[..., :2]}, ValueError, "holds probabilities and must"),
            ({"target": np.full(SHAPE, 1 + 2j)}, TypeError, "integer labels, but has dtype comp"),
            ({"weight": [1.0, 2.0]}, ValueError, r"weight must be 4 numbers.*shape \(2,\)"),
            ({"pixel_weight": np.ones(5)}, ValueError, r"pixel_weight must have shape \(2, 5, 3\)"),
            ({"reduction": "max"}, ValueError, "reduction must be one of 'none', 'mean', 'sum'"),
            ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be between 0 and 1"),
            ({"logits": np.zeros((2, 3), int)}, TypeError, "logits must be floating"),
            ({"logits": 1.0}, ValueError, r"logits must have shape \(\.\.\., classes\)"),
            (
                {"target": _probabilities(), "ignore_index": 0},
                ValueError,
                "ignore_index=0 needs integer labels",
            ),
            (
                {"target": Tensor(_probabilities(), requires_grad=True)},
                ValueError,
                r"target is a constant.*target\.detach\(\)",
            ),
        ],
    )
    def test_errors(self, arguments, error, message):
        with pytest.raises(error, match=f"cross_entropy: .*{message}|^cross_entropy: {message}"):
            F.cross_entropy(**{"logits": _logits(), "target": _labels()} | arguments)

    def test_wrong_label_says_what_is_right(self):
        labels = _labels()
        labels[1, 2, 1] = -1
        message = r"label -1 at \(1, 2, 1\).*4 classes: labels must be 0 to 3, or ignore_index=-100"
        with pytest.raises(ValueError, match=message):
            F.cross_entropy(_logits(), labels)


class TestFocalLoss:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
    @pytest.mark.parametrize("alpha", [None, WEIGHT], ids=["", "alpha"])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_value(self, dtype, gamma, alpha, reduction):
        labels = _labels()
        chosen = np.where(labels < 0, 0, labels)
        log_p = _log_softmax(_logits(dtype).astype(np.float64))
        log_p = np.take_along_axis(log_p, chosen[..., None], -1)[..., 0]
        costs = -np.where(labels < 0, 0, (1 - np.exp(log_p)) ** gamma * log_p)
        costs = costs if alpha is None else costs * alpha[chosen]
        expected = _reduced(costs, (labels >= 0).sum(), reduction)
        result = F.focal_loss(_logits(dtype), labels, gamma, alpha, reduction=reduction)
        assert result.dtype == dtype
        rtol = 1e-5 if dtype == np.float32 else 1e-11
        np.testing.assert_allclose(result.numpy(), expected, rtol=rtol, atol=rtol * 1e-3)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("gamma", [0, 0.5, 2])
    def test_gradient(self, dtype, gamma):
        x = _logits(dtype)
        assert gradcheck(lambda x: F.focal_loss(x, _labels(), gamma, WEIGHT, reduction="none"), x)

    def test_without_focus_it_is_cross_entropy(self):
        focal = F.focal_loss(_logits(), _labels(), gamma=0).item()
        assert focal == F.cross_entropy(_logits(), _labels()).item()

    def test_gradient_of_what_is_certain_is_zero(self):
        x = Tensor(np.array([[200.0, 0.0]]), requires_grad=True)
        F.focal_loss(x, [0], gamma=0.5).backward()
        np.testing.assert_array_equal(x.grad, 0)

    def test_one_alpha_for_two_classes(self):
        x, labels = _logits(shape=(*SHAPE, 2)), _labels() % 2
        one = F.focal_loss(x, labels, alpha=0.25).item()
        assert one == F.focal_loss(x, labels, alpha=[0.75, 0.25]).item()

    def test_errors(self):
        with pytest.raises(ValueError, match="focal_loss: gamma must be at least 0, but is -1"):
            F.focal_loss(_logits(), _labels(), gamma=-1)
        with pytest.raises(ValueError, match="focal_loss: alpha must be 4 numbers"):
            F.focal_loss(_logits(), _labels(), alpha=0.25)
        with pytest.raises(TypeError, match="focal_loss: target must be integer labels.*float64"):
            F.focal_loss(_logits(), _probabilities())


def _naive_tversky(x, labels, alpha, beta, smooth, background, batch):
    p = np.exp(_log_softmax(x))
    first = 0 if background else 1
    images = [slice(None)] if batch else [slice(n, n + 1) for n in range(len(x))]
    losses = np.empty((len(images), CLASSES - first))
    for i, image in enumerate(images):
        counts = labels[image] >= 0
        for c in range(first, CLASSES):
            p_c, t_c = p[image][counts][:, c], labels[image][counts] == c
            hit = (p_c * t_c).sum() + smooth
            wrong = alpha * (p_c * ~t_c).sum() + beta * ((1 - p_c) * t_c).sum()
            losses[i, c - first] = 1 - hit / (hit + wrong)
    return losses[0] if batch else losses


SETTINGS = [(0.5, 0.5, 1.0, True, False), (0.3, 0.7, 0.0, False, False), (1, 2, 1e-3, True, True)]


class TestOverlap:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("settings", SETTINGS)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_tversky(self, dtype, settings, reduction):
        expected = _naive_tversky(_logits(dtype).astype(np.float64), _labels(), *settings)
        expected = _reduced(expected, expected.size, reduction)
        result = F.tversky_loss(_logits(dtype), _labels(), *settings, reduction=reduction)
        assert result.dtype == dtype
        rtol = 2e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(result.numpy(), expected, rtol=rtol)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("settings", SETTINGS)
    def test_gradient(self, dtype, settings):
        def f(x):
            return F.tversky_loss(x, _labels(), *settings, reduction="none")

        assert gradcheck(f, _logits(dtype))

    @pytest.mark.parametrize("background", [True, False])
    @pytest.mark.parametrize("batch", [True, False])
    def test_dice(self, background, batch):
        p, t = np.exp(_log_softmax(_logits())), _labels(ignored=False)[..., None] == range(CLASSES)
        axes = (0, 1, 2) if batch else (1, 2)
        dice = (2 * (p * t).sum(axes) + 3) / (p.sum(axes) + t.sum(axes) + 3)
        expected = 1 - dice[..., 0 if background else 1 :]
        result = F.dice_loss(
            _logits(), _labels(ignored=False), 3.0, background, batch, reduction="none"
        )
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12)

    def test_jaccard(self):
        # Certain predictions: with both prices 1 the index is intersection over union.
        predicted, wanted = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]])
        logits = 1e3 * np.eye(2)[predicted]
        result = F.tversky_loss(logits, wanted, 1, 1, smooth=0, reduction="none")
        np.testing.assert_allclose(result.numpy(), [[1 - 1 / 2, 1 - 2 / 3]])

    def test_perfect_prediction_costs_nothing(self):
        labels = _labels(ignored=False)
        assert F.dice_loss(1e3 * np.eye(CLASSES)[labels], labels, smooth=0).item() == 0

    def test_class_neither_wanted_nor_predicted_costs_nothing(self):
        labels = np.zeros((1, 6), int)
        x = Tensor(np.tile([1e4, -1e4], (1, 6, 1)), requires_grad=True)
        loss = F.dice_loss(x, labels, smooth=0, reduction="none")
        loss.sum().backward()
        np.testing.assert_array_equal(loss.numpy(), [[0, 0]])
        np.testing.assert_array_equal(x.grad, 0)

    def test_all_ignored_costs_nothing(self):
        x = Tensor(_logits(), requires_grad=True)
        loss = F.dice_loss(x, np.full(SHAPE, -100))
        loss.backward()
        assert loss.item() == 0
        np.testing.assert_array_equal(x.grad, 0)

    @pytest.mark.parametrize(
        ("loss", "arguments", "message"),
        [
            (F.dice_loss, {"logits": np.zeros((1, 5, 1))}, "dice_loss: logits need at least 2"),
            (F.dice_loss, {"logits": np.zeros(3)}, r"must have shape \(N, \.\.\., classes\)"),
            (F.dice_loss, {"smooth": -1}, "dice_loss: smooth must be at least 0"),
            (F.tversky_loss, {"beta": -1}, "tversky_loss: beta must be at least 0"),
            (
                F.dice_loss,
                {"target": _labels(False) - 9},
                r"dice_loss: target has the label -\d at",
            ),
            (F.tversky_loss, {"reduction": ""}, "tversky_loss: reduction must be one of"),
        ],
    )
    def test_errors(self, loss, arguments, message):
        with pytest.raises(ValueError, match=message):
            loss(**{"logits": _logits(), "target": _labels()} | arguments)


REGIONS = [F.dice_loss, F.tversky_loss, F.generalised_dice_loss, F.lovasz_softmax]


@pytest.mark.parametrize("loss", REGIONS)
class TestRegions:
    @pytest.mark.parametrize("settings", [{}, {"absent": "skip"}, {"batch": True}])
    def test_gradient_with_weights(self, loss, settings):
        labels = _labels() % 3  # nothing is of class 3; what was ignored is class 2
        labels[0, 0] = -100

        def f(x):
            return loss(
                x, labels, weight=WEIGHT, pixel_weight=PIXEL_WEIGHT, reduction="none", **settings
            )

        assert gradcheck(f, _logits())

    def test_a_weight_counts_as_so_many_pixels(self, loss):
        logits, labels = _logits()[:1], _labels(False)[:1]
        times = np.random.default_rng(5).integers(0, 4, labels.shape)
        repeated = [np.repeat(x.reshape(15, -1), times.ravel(), axis=0) for x in (logits, labels)]
        expected = loss(repeated[0][None], repeated[1][None, :, 0], reduction="none").numpy()
        result = loss(logits, labels, reduction="none", pixel_weight=times)
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12)

    def test_ignored_pixels_may_be_anything(self, loss):
        logits, labels = _logits(), _labels()
        x, free = Tensor(logits.copy(), requires_grad=True), Tensor(logits, requires_grad=True)
        x.numpy()[labels == -100] = [np.nan, np.inf, 0, 1]
        with np.errstate(invalid="ignore"):  # plain Python, with compilation switched off
            results = [loss(t, labels) for t in (x, free)]
            for result in results:
                result.backward()
        assert results[0].item() == results[1].item()
        np.testing.assert_array_equal(x.grad, free.grad)
        assert (x.grad[labels == -100] == 0).all()

    def test_nothing_that_counts_costs_nothing(self, loss):
        for settings in ({"absent": "skip"}, {"absent": "skip", "batch": True}):
            x = Tensor(_logits(), requires_grad=True)
            result = loss(x, np.full(SHAPE, -100), **settings)
            result.backward()
            assert result.item() == 0
            np.testing.assert_array_equal(x.grad, 0)

    def test_perfect_and_wholly_wrong(self, loss):
        labels = _labels(ignored=False)
        settings = {"smooth": 0} if loss in REGIONS[:2] else {}
        for shift, expected in ((0, 0), (1, 1)):
            answer = 1e3 * np.eye(CLASSES)[(labels + shift) % CLASSES]
            assert loss(answer, labels, **settings).item() == expected

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"absent": "no"}, "absent must be one of 'count', 'skip', but is 'no'"),
            ({"weight": [1, 2]}, "weight must be 4 numbers"),
            ({"pixel_weight": np.ones(3)}, "pixel_weight must have shape"),
            ({"pixel_weight": -np.ones(SHAPE)}, "pixel_weight must not be negative, but is -1"),
            ({"logits": np.zeros((*SHAPE, 1))}, "logits need at least 2 classes"),
            ({"target": _labels() + 9}, "target has the label"),
        ],
    )
    def test_errors(self, loss, arguments, message):
        with pytest.raises(ValueError, match=f"{loss.__name__}: {message}"):
            loss(**{"logits": _logits(), "target": _labels()} | arguments)


class TestGeneralisedDice:
    def test_rare_classes_count_as_much_as_others(self):
        """In closed form, for 1 pixel of class 1 among 9, half of which is found."""
        p = np.array([[0.0] * 8 + [0.5]])
        logits = np.log(np.stack([1 - p, p], axis=-1).clip(1e-300))
        labels = np.array([[0] * 8 + [1]])
        below = (8 + 8.5) / 64 + 1 + 0.5
        expected = 1 - 2 * (8 / 64 + 0.5) / below
        assert F.generalised_dice_loss(logits, labels).item() == pytest.approx(expected)

    def test_errors(self):
        with pytest.raises(ValueError, match="generalised_dice_loss: power must be at least 0"):
            F.generalised_dice_loss(_logits(), _labels(), power=-1)


class TestLovasz:
    def test_of_certain_answers_is_one_minus_iou(self):
        predicted, wanted = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]])
        result = F.lovasz_softmax(1e3 * np.eye(2)[predicted], wanted, reduction="none")
        np.testing.assert_allclose(result.numpy(), [1 - 1 / 2, 1 - 2 / 3])

    def test_an_absent_class_costs_its_largest_probability(self):
        p = np.array([[[0.9, 0.1], [0.7, 0.3], [0.8, 0.2]]])
        result = F.lovasz_softmax(np.log(p), [[0, 0, 0]], absent="count", reduction="none")
        np.testing.assert_allclose(result.numpy()[1], 0.3)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("scale", [0.01, 1, 10])
    def test_many_pixels(self, dtype, scale):
        """Against sums of sorted arrays: errors of all sizes, and many that are nearly equal."""
        logits, labels = _logits(dtype, scale, (1, 5000, 3)), np.arange(5000)[None] ** 2 % 7 % 3
        p = np.exp(_log_softmax(logits.astype(np.float64)))[0]
        expected = []
        for c in range(3):
            truth = labels[0] == c
            order = np.argsort(-abs(truth - p[:, c]), kind="stable")
            left = truth.sum() - truth[order].cumsum()
            loss = 1 - left / (truth.sum() + (~truth)[order].cumsum())
            expected.append((abs(truth - p[:, c])[order] * np.diff(loss, prepend=0)).sum())
        result = F.lovasz_softmax(logits, labels, reduction="none").numpy()
        atol = 1e-6 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(result, expected, rtol=0, atol=atol)

    def test_nan_is_not_hidden(self):
        logits = _logits()
        logits[1, 2, 1, 0] = np.nan
        assert np.isnan(F.lovasz_softmax(logits, _labels()).item())


class TestBoundary:
    def test_of_certain_answers_is_the_sum_of_distances_inside(self):
        distance = np.array([[2.0, 1.0, -1.0, 1.0]])
        logits = 1e3 * np.eye(2)[[[0, 1, 1, 0]]]
        assert F.boundary_loss(logits, distance, reduction="sum").item() == 0.0
        logits = 1e3 * np.eye(2)[[[0, 0, 1, 0]]]
        assert F.boundary_loss(logits, distance).item() == -1 / 4

    def test_gradient(self):
        distance = _logits(shape=(*SHAPE, CLASSES))

        def f(x):
            return F.boundary_loss(
                x, distance, _labels(), WEIGHT, reduction="none", pixel_weight=PIXEL_WEIGHT
            )

        assert gradcheck(f, _logits())

    def test_same_bits_for_any_number_of_threads(self):
        rng = np.random.default_rng(0)
        logits, distance = rng.normal(size=(2, 2, 160, 170, 3)).astype(np.float32)
        before, results = kernels.parallel.get_num_threads(), []
        try:
            for threads in (1, 2, 5):
                kernels.parallel.set_num_threads(threads)
                x = Tensor(logits, requires_grad=True)
                y = F.boundary_loss(x, distance)
                y.backward()
                results.append(y.numpy().tobytes() + x.grad.tobytes())
        finally:
            kernels.parallel.set_num_threads(before)
        assert results[0] == results[1] == results[2]

    @pytest.mark.filterwarnings("ignore:invalid value")  # plain Python
    def test_ignored_pixels_may_be_anything(self):
        logits, distance, labels = _logits(), _logits(scale=1), _labels()
        expected = F.boundary_loss(logits, distance, labels).item()
        logits[labels == -100] = np.nan
        x = Tensor(logits, requires_grad=True)
        result = F.boundary_loss(x, distance, labels)
        result.backward()
        assert result.item() == expected
        assert (x.grad[labels == -100] == 0).all()

    def test_all_ignored_costs_nothing(self):
        assert F.boundary_loss(_logits(), _logits(), np.full(SHAPE, -100)).item() == 0

    @pytest.mark.parametrize(
        ("distance", "message"),
        [
            (np.zeros((2, 5, 3)), r"distance must have the shape \(2, 5, 3, 4\) of the logits"),
            (np.full((2, 5, 3, 4), np.inf), "distance is not finite everywhere.*put zeros"),
        ],
    )
    def test_errors(self, distance, message):
        with pytest.raises(ValueError, match=f"boundary_loss: {message}"):
            F.boundary_loss(_logits(), distance)


def _softplus(x):
    return np.log1p(np.exp(-abs(x))) + np.maximum(x, 0)


ELEMENTWISE = {
    "mse": (F.mse_loss, lambda x, t: (x - t) ** 2),
    "l1": (F.l1_loss, lambda x, t: abs(x - t)),
    "bce": (
        F.binary_cross_entropy_with_logits,
        lambda x, t: t * _softplus(-x) + (1 - t) * _softplus(x),
    ),
    "kl": (F.kl_div, lambda x, t: t * (np.log(t) - x)),
}


class TestElementwise:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("name", ELEMENTWISE)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_value(self, dtype, name, reduction):
        loss, formula = ELEMENTWISE[name]
        x, target = _logits(dtype), _probabilities(dtype)
        costs = formula(x.astype(np.float64), target.astype(np.float64))
        result = loss(x, target, reduction=reduction)
        assert result.dtype == dtype
        rtol = 1e-4 if dtype == np.float32 else 1e-12
        expected = _reduced(costs, costs.size, reduction)
        np.testing.assert_allclose(result.numpy(), expected, rtol=rtol, atol=rtol / 100)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("name", ELEMENTWISE)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_gradient_of_both(self, dtype, name, reduction):
        loss, _ = ELEMENTWISE[name]
        target = 0.2 + 0.6 * _probabilities(dtype)  # away from log(0), and from equal elements
        x = np.where(abs(_logits(dtype) - target) < 0.1, 2, _logits(dtype)).astype(dtype)
        assert gradcheck(lambda x, t: loss(x, t, reduction=reduction), (x, target))

    @pytest.mark.parametrize(
        ("name", "reduction"),
        [
            *itertools.product(["mse_loss", "l1_loss", "kl_div", "log", "bce"], REDUCTIONS),
            ("kl_div", "batchmean"),
            ("log", "batchmean"),
        ],
    )
    def test_is_that_of_pytorch(self, name, reduction):
        torch = pytest.importorskip("torch")
        settings = {"reduction": reduction}
        theirs = settings.copy()
        if name == "log":
            name, settings["log_target"], theirs["log_target"] = "kl_div", True, True
        if name == "bce":
            name = "binary_cross_entropy_with_logits"
            settings |= {"weight": WEIGHT, "pos_weight": WEIGHT[::-1]}
            theirs |= {
                "weight": torch.tensor(WEIGHT), "pos_weight": torch.tensor(WEIGHT[::-1].copy())
            }  # fmt: skip
        arrays = _logits(scale=30), _probabilities()
        ours = [Tensor(a, requires_grad=True) for a in arrays]
        others = [torch.tensor(a, requires_grad=True) for a in arrays]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's thoughts about the mean of kl_div
            expected = getattr(torch.nn.functional, name)(*others, **theirs)
        result = getattr(F, name)(*ours, **settings)
        gy = np.random.default_rng(4).normal(size=result.shape)
        result.backward(gy)
        expected.backward(torch.tensor(gy))
        np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), rtol=1e-11)
        for a, b in zip(ours, others, strict=True):
            np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-9, atol=1e-13)

    def test_batchmean_is_the_divergence_of_its_definition(self):
        p, q = _probabilities()[0, 0], _probabilities()[1, 1]
        expected = (p * np.log(p / q)).sum() / 3
        np.testing.assert_allclose(F.kl_div(np.log(q), p, "batchmean").item(), expected)

    def test_divergence_to_nothing_is_zero(self):
        x, t = Tensor(np.array([-1.0, -2.0]), requires_grad=True), np.array([0.0, 1.0])
        result = F.kl_div(x, t, "none")
        result.sum().backward()
        np.testing.assert_array_equal(result.numpy(), [0, 2])
        np.testing.assert_array_equal(x.grad, [0, -1])

    def test_large_logits_do_not_overflow(self):
        x = Tensor(np.array([1e3, -1e3, 1e3, -1e3]), requires_grad=True)
        result = F.binary_cross_entropy_with_logits(x, [1, 0, 0, 1], reduction="none")
        result.sum().backward()
        np.testing.assert_array_equal(result.numpy(), [0, 0, 1e3, 1e3])
        np.testing.assert_array_equal(x.grad, [0, 0, 1, -1])

    def test_masks_are_targets(self):
        x, mask = _logits(), _logits() > 0
        expected = F.binary_cross_entropy_with_logits(x, mask.astype(np.float64)).item()
        assert F.binary_cross_entropy_with_logits(x, mask).item() == expected

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (
                lambda: F.mse_loss(np.zeros((2, 3)), np.zeros(3)),
                ValueError,
                r"mse_loss: input and target must have the same shape.*\(2, 3\) and \(3,\)",
            ),
            (lambda: F.l1_loss([1], [1.0]), TypeError, "l1_loss: input must be floating"),
            (lambda: F.mse_loss([1.0], [1.0], "batchmean"), ValueError, "reduction must be one of"),
            (
                lambda: F.binary_cross_entropy_with_logits([1.0], [1.0], weight=[1.0, 2.0]),
                ValueError,
                r"weight of shape \(2,\) cannot be broadcast to the shape \(1,\)",
            ),
        ],
    )
    def test_errors(self, call, error, message):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("pixels", [1, 15, 16, 127, 129, 300])
def test_any_number_of_classes_and_pixels(dtype, classes, pixels):
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(pixels, classes)) * 3).astype(dtype)
    labels = rng.integers(0, classes, pixels)
    exact = _log_softmax(logits.astype(np.float64))
    leaf = Tensor(logits, requires_grad=True)
    loss = F.cross_entropy(leaf, labels, reduction="sum")
    loss.backward(np.asarray(2, dtype))
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    expected = -exact[np.arange(pixels), labels].sum()
    np.testing.assert_allclose(loss.item(), expected, rtol=rtol, atol=1e-6)
    slopes = 2 * (np.exp(exact) - np.eye(classes)[labels])
    np.testing.assert_allclose(leaf.grad, slopes, rtol=rtol, atol=rtol / 10)


@pytest.mark.filterwarnings("ignore:invalid value")  # plain Python, with compilation switched off
def test_what_is_ignored_may_be_anything():
    logits = np.array([[np.nan, 1, 2], [0, 0, 0], [np.inf, 1, 2]], np.float32)
    leaf = Tensor(logits, requires_grad=True)
    loss = F.cross_entropy(leaf, [-100, 1, -100])
    loss.backward()
    assert loss.item() == pytest.approx(np.log(3))
    third = 1 / 3
    np.testing.assert_allclose(
        leaf.grad, [[0, 0, 0], [third, third - 1, third], [0, 0, 0]], rtol=1e-6
    )


def test_a_mistake_far_too_small_for_single_precision_still_counts():
    leaf = Tensor(np.array([[0, 20]], np.float32), requires_grad=True)
    loss = F.cross_entropy(leaf, [1])
    loss.backward()
    assert loss.item() == pytest.approx(np.exp(-20), rel=1e-5)
    np.testing.assert_allclose(leaf.grad, [[np.exp(-20), -np.exp(-20)]], rtol=1e-5)


def test_kernels_agree_with_themselves_across_blocks():
    """A loss of many pixels is the sum of the losses of its parts, wherever blocks are cut."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(kernels.loss.BLOCK * 2 + 7, 3))
    labels = rng.integers(0, 3, len(logits))
    for cut, loss in itertools.product((1, 1000, 2000), (F.cross_entropy, F.focal_loss)):
        whole = loss(logits, labels, reduction="sum").item()
        parts = [
            loss(logits[part], labels[part], reduction="sum").item()
            for part in (slice(cut), slice(cut, None))
        ]
        assert whole == pytest.approx(sum(parts), rel=1e-13)
