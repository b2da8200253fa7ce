"""Networks by name: which there are, what they are built with, and that each does the whole job."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from discs import disc_picture
from safetensors import safe_open
from safetensors.numpy import load_file

import minidl
from minidl import nn, optim
from minidl.architecture import SEGMENTATION, Architecture, find_network, known_networks
from minidl.checkpoint import save
from minidl.data import MaskKind, Normaliser
from minidl.run import RunError
from minidl.segmenter import ModelError, Segmenter, fitting_crop, like_scores, scores_of
from minidl.train import segmentation_loss

LARGE = "fc-densenet67", "fc-densenet103"  # as they are: these have no settings
each_network = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in SEGMENTATION]
)
SMALL = {
    "unet": {"root": 2, "depth": 3},
    "fcdensenet": {"growth_rate": 2, "block_config": (1, 1, 2), "num_init_features": 4},
    "fc-densenet56": {},
    "fc-densenet67": {},
    "fc-densenet103": {},
    "deeplabv2": {"width": 2, "backbone": "resnet18", "rates": (1, 2)},
    "refinenet": {"width": 2, "depth": 18},
    "unetslides": {"features_root": 2},
}


def small(name, channels=1, classes=2):
    return Architecture(name, channels, classes, SMALL.get(name, {"width": 2}))


def segmenter(architecture):
    kind = MaskKind(".png", tuple(range(architecture.num_classes)), "uint8")
    channels = architecture.in_channels
    normaliser = Normaliser((100.0,) * channels, (50.0,) * channels)
    names = tuple(f"class {index}" for index in range(architecture.num_classes))
    return Segmenter(architecture, architecture.build(), normaliser, kind, names, (1,))


def test_every_network_is_listed_or_scores_no_pixels():
    listed = {find_network(name) for name in SEGMENTATION}
    assert None not in listed and len(listed) == len(SEGMENTATION)
    others = {name for name, make in known_networks().items() if make not in listed}
    assert {name.lower().rstrip("0123456789_bn") for name in others} == {
        "alexnet", "atrouspyramid", "cifarresnet", "densenet", "fcn32s", "fcn16s", "fcn8s",
        "frontend", "googlenet", "lenet", "resnet", "resnetbackbone", "speechwavenet", "vgg",
        "wavenet",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "same"), [("UNet", "unet"), ("SegNet-Basic", "segnetbasic"), ("FCN8s", "fcn8s")]
)
def test_names_may_be_written_in_several_ways(name, same):
    assert type(small(same).build()) is type(Architecture(name, 1, 2, small(same).settings).build())


def test_a_unet_has_defaults_and_others_do_not():
    assert Architecture.chosen("unet", 1, 2).settings == {"root": 16, "depth": 4}
    asked = Architecture.chosen("unet", 1, 2, {"dropout": 0.5}, root=8)
    assert asked.settings == {"root": 8, "depth": 4, "dropout": 0.5}
    assert Architecture.chosen("segnet", 1, 2, {"width": 4}).settings == {"width": 4}
    with pytest.raises(RunError, match="segnet: no setting root, .* It takes width, as --set"):
        Architecture.chosen("segnet", 1, 2, root=8)


def test_a_network_may_see_averages_of_pixels():
    asked = Architecture.chosen("unet", 1, 2, root=2, depth=2, reduce=4)
    assert str(asked) == "unet root=2 depth=2 reduce=4"
    assert Architecture.from_dict(asdict(asked)) == asked
    assert asked.build().multiple == 8
    with pytest.raises(RunError, match="scores must be as large as the image, but it cuts off"):
        Architecture.chosen("unet", 1, 2, {"padding": "valid"}, reduce=2).build()


def test_what_cannot_be_is_refused_with_what_can():
    with pytest.raises(RunError, match="no network 'nut'. For segmentation there are unet, fcn8s"):
        Architecture("nut", 1, 2).build()
    with pytest.raises(RunError, match="segnet: no setting 'root'. It takes width"):
        Architecture("segnet", 1, 2, {"root": 3}).build()
    with pytest.raises(RunError, match="segnet: .*width must be an integer >= 1"):
        Architecture("segnet", 1, 2, {"width": 0}).build()
    with pytest.raises(RunError, match="alexnet .*does not give a score for each pixel. For segm"):
        Architecture("alexnet", 3, 2, {"shrink": 16}).build()
    with pytest.raises(RunError, match="lenet5: does not give a score for each pixel"):
        Architecture("lenet5", 1, 2).build()
    with pytest.raises(RunError, match="deeplab upsample=False width=2: does not give a score"):
        Architecture("deeplab", 3, 2, {"upsample": False, "width": 2}).build()


@each_network
def test_images_of_all_sizes_have_a_score_for_each_pixel(name, rng):
    model = small(name, classes=3).build()
    for size in ((1, 5), (29, 70)):
        x = rng.normal(size=(*size, 1)).astype(np.float32)
        scores = scores_of(model, x)
        assert scores.shape == (*size, 3)
        assert np.isfinite(scores).all()


@each_network
def test_crops_fit_and_a_step_changes_every_weight(name):
    minidl.manual_seed(0)
    model = small(name).build()
    side = fitting_crop(model, 64)
    assert model.fitting_size(side) == side <= max(64, model.fitting_size(1))
    pictures = [disc_picture(index, (side, side)) for index in (3, 4)]
    x = np.stack([image[..., None] for image, _ in pictures]).astype(np.float32) / 50 - 2
    target = np.stack([classes for _, classes in pictures])
    optimiser = optim.Adam(model.parameters(), lr=1e-2)
    before = model.state_dict()
    for _ in range(4):  # layers behind scores that begin at zero learn a step later, and so on
        scores = model(minidl.Tensor(x))
        loss = segmentation_loss(scores, like_scores(target, scores), (1,))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert np.isfinite(loss.item())
    learned = {key for key, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    after = model.state_dict()
    assert not [key for key in learned if np.array_equal(before[key], after[key])]


def test_like_scores_takes_the_middle():
    target = np.arange(2 * 6 * 7).reshape(2, 6, 7)
    np.testing.assert_array_equal(like_scores(target, np.zeros((2, 2, 3, 9))), target[:, 2:4, 2:5])
    assert like_scores(target, np.zeros((2, 6, 7, 9))) is not None
    np.testing.assert_array_equal(like_scores(target, np.zeros((2, 6, 7, 9))), target)


@pytest.mark.parametrize("name", ["unet", "fcdensenet", "unetslides"])
def test_a_model_file_brings_the_network_back(name, tmp_path, rng):
    first = segmenter(small(name, 1, 3))
    second = Segmenter.load(first.save(tmp_path / "m.safetensors"))
    assert type(second.model) is type(first.model)
    image = rng.integers(0, 255, (17, 30, 1)).astype(np.uint8)
    np.testing.assert_array_equal(first(image), second(image))
    assert Segmenter.load(second.save(tmp_path / "again")).class_names == first.class_names


def test_anyone_can_read_a_model_file(tmp_path):
    first = segmenter(small("segnet", 3, 2))
    path = first.save(tmp_path / "m.safetensors")
    state = first.model.state_dict()
    arrays = load_file(path)
    assert arrays.keys() == state.keys()
    for key in arrays:
        np.testing.assert_array_equal(arrays[key], state[key])
    with safe_open(path, framework="np") as file:
        about = file.metadata()
    assert json.loads(about["architecture"]) == {
        "model": "segnet", "in_channels": 3, "num_classes": 2, "settings": {"width": 2},
        "reduce": 1,
    }  # fmt: skip
    assert json.loads(about["class_names"]) == ["class 0", "class 1"]
    assert json.loads(about["normaliser"])["std"] == [50.0] * 3
    assert json.loads(about["mask_kind"])["values"] == [0, 1]
    first.model.load_state_dict(minidl.load(path))


def test_a_header_that_was_changed_is_noticed(tmp_path):
    path = segmenter(small("segnet")).save(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes().replace(b"class 0", b"class 7"))
    with pytest.raises(ModelError, match="damaged: its header is not what was saved"):
        Segmenter.load(path)


def test_files_of_the_time_before_load_still(tmp_path, rng):
    now = segmenter(small("unet"))
    state = {
        "architecture": {
            "model": "unet", "in_channels": 1, "num_classes": 2, "depth": 3, "root": 2,
        },
        "normaliser": now.normaliser.to_dict(),
        "mask_kind": now.mask_kind.to_dict(),
        "class_names": now.class_names,
        "foreground": now.foreground,
        "mask_ending": "",
        "weights": now.model.state_dict(),
    }  # fmt: skip
    save(tmp_path / "old", state)
    old = Segmenter.load(tmp_path / "old")
    image = rng.integers(0, 255, (9, 14, 1)).astype(np.uint8)
    np.testing.assert_array_equal(old(image), now(image))


def test_every_network_knows_what_fits():
    for name in SEGMENTATION:
        model = small(name).build()
        assert isinstance(model, nn.Module)
        assert model.fitting_size(model.fitting_size(50)) == model.fitting_size(50)
