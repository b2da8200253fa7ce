"""The recipes' PyTorch side against ours: same weights in, same scores, steps and schedule out."""

import copy
import json

import numpy as np
import pytest

import minidl as md
from minidl import train
from minidl.models import Reduced, UNet
from minidl.progress import Progress
from minidl.recipe import Options
from minidl.segmenter import scores_of
from minidl.training.average import Average

torch = pytest.importorskip("torch")
import recipes  # noqa: E402
import torch_recipes  # noqa: E402

FOREGROUND = (0, 2)
HOW = Options(root=4, depth=2, crop=16, batch_size=2, steps=7, lr=1e-2)
ADAM = train.Settings(steps=1)
layouts = pytest.mark.parametrize("channels_last", [False, True])


@pytest.fixture
def batch(rng):
    x = rng.standard_normal((2, 16, 24, 3), np.float32)
    y = rng.integers(0, 3, (2, 16, 24), np.int32)
    y[rng.random(y.shape) < 0.2] = -100
    return x, y


@pytest.fixture(params=[1, 2])
def model(request):
    md.manual_seed(3)
    if request.param == 1:
        return UNet(3, 3, depth=3, root=4)
    return Reduced(UNet(3, 3, depth=2, root=4), request.param)


def test_the_loss_is_ours(rng, batch):
    _, y = batch
    scores = rng.standard_normal((*y.shape, 3), np.float32)
    ours = train.segmentation_loss(md.Tensor(scores), y, FOREGROUND)
    theirs = torch_recipes.segmentation_loss(
        torch.from_numpy(scores).movedim(-1, 1), torch.from_numpy(y).long(), FOREGROUND
    )
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-6)


@layouts
@pytest.mark.parametrize("settings", [ADAM, train.Settings(1, optimiser="adamw", weight_decay=9.0)])
def test_one_step_of_the_twin_is_one_of_ours(model, batch, channels_last, settings):
    x, y = batch
    twin = torch_recipes.Twin(model, FOREGROUND, channels_last, settings)
    before = copy.deepcopy(model.state_dict())
    optimiser = settings.new_optimiser(model)
    for group in optimiser.param_groups:
        group["lr"] = 1e-3
    loss = train.segmentation_loss(model(md.Tensor(x)), y, FOREGROUND)
    loss.backward()
    optimiser.step()
    assert twin.step(x, y, 1e-3) == pytest.approx(loss.item(), rel=1e-5)

    changed = 0
    names = dict(model.named_parameters())
    for (name, own), other in zip(names.items(), twin.network.parameters(), strict=True):
        theirs = other.detach().numpy()
        theirs = theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs
        np.testing.assert_allclose(own.data, theirs, atol=1e-4, err_msg=name)
        changed += np.abs(own.data - before[name]).max() > 5e-4
    assert changed > len(names) / 2  # so that 1e-4 says something
    # Running statistics, and images whose sides are no multiple.
    image = np.random.default_rng(0).standard_normal((19, 30, 3), np.float32)
    np.testing.assert_allclose(twin.scores(image), scores_of(model, image), atol=1e-2)
    assert twin.network.training


@layouts
def test_scores_of_the_same_weights(model, batch, channels_last):
    twin = torch_recipes.Twin(model, FOREGROUND, channels_last, ADAM)
    image = np.random.default_rng(0).standard_normal((19, 30, 3), np.float32)
    np.testing.assert_allclose(twin.scores(image), scores_of(model, image), atol=1e-4)


@layouts
def test_the_average_of_the_twin_is_ours(model, batch, channels_last):
    twin = torch_recipes.Twin(model, FOREGROUND, channels_last, train.Settings(1, average=0.3))
    average = Average(model, 0.3)
    for step in (1, 2, 3):
        for own, other in zip(model.parameters(), twin.network.parameters(), strict=True):
            own.data *= 1.02
            other.data *= 1.02
        average.update(step)
        twin.average.update()
    image = np.random.default_rng(0).standard_normal((19, 30, 3), np.float32)
    own = twin.scores(image)
    with average.in_place(), twin.judged():
        np.testing.assert_allclose(twin.scores(image), scores_of(model, image), atol=1e-4)
        assert np.abs(twin.scores(image) - own).max() > 1e-2
    np.testing.assert_array_equal(twin.scores(image), own)


def test_a_network_of_another_shape_is_refused():
    model = UNet(3, 3, depth=3, root=4)
    other = torch_recipes.UNet(1, 3, 3, 4, True)
    with pytest.raises(ValueError, match=r"hand_over: \(3, 3, 3, 4\) of ours to \(4, 1, 3, 3\)"):
        torch_recipes.hand_over(model, other)


def test_both_sides_of_a_recipe(pairs_folder, tmp_path):
    results = {}
    for side, run in (("minidl", recipes.run_minidl), ("pytorch", recipes.run_pytorch)):
        task = recipes.Task.prepare("discs", pairs_folder, HOW, Progress(silent=True))
        record = run(task, tmp_path, Progress(silent=True))
        recipes.write_side(task, record, tmp_path)
        results[side] = record
    ours, theirs = (results[side].rows for side in recipes.SIDES)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for key, atol in (("train_loss", 0.02), ("pixel_accuracy", 0.05)):
        np.testing.assert_allclose(
            [row[key] for row in ours], [row[key] for row in theirs], atol=atol, err_msg=key
        )
    assert 0 < results["pytorch"].validating < results["pytorch"].seconds
    assert (tmp_path / "predictions.png").stat().st_size > 1000


def test_the_schedule_is_the_trainers(pairs_folder):
    task = recipes.Task.prepare("discs", pairs_folder, HOW, Progress(silent=True))

    class Rates(train.Watch):
        seen: list = []

        def stepped(self, trainer):
            self.seen.append(trainer.lr)

    task.trainer(Rates()).run()
    rates = [torch_recipes.learning_rate(1e-2, step / 7) for step in range(7)]
    assert Rates.seen == pytest.approx(rates, rel=1e-12)


def test_the_table(tmp_path):
    side = {
        "options": {"batch_size": 4, "steps": 9, "reduce": 2}, "crop": [16, 32], "network": "U-Net",
        "best": {"foreground_dice": 0.5, "mean_iou": 0.25, "pixel_accuracy": 0.875},
    }  # fmt: skip
    folder = tmp_path / "isbi2012_em"
    folder.mkdir()
    (folder / "minidl.json").write_text(json.dumps(side | {"steps_seconds": 60}))
    assert recipes.table(tmp_path)[1] == []  # one side is not enough
    (folder / "pytorch.json").write_text(json.dumps(side | {"steps_seconds": 90}))
    text, records = recipes.table(tmp_path)
    assert text.splitlines()[2:] == [
        "| isbi2012_em | U-Net; 4 of 16 x 32, averaged over 2 x 2 | 9 | 50.0 | 25.0 | 87.5 | 1.0 "
        "| 50.0 | 25.0 | 87.5 | 1.5 | 1.50 |"
    ]
    assert [record["ratio"] for record in records] == [1.5]
