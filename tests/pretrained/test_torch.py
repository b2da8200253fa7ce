"""Against PyTorch itself: its files are read, its networks give the same, and it reads ours."""

import collections

import numpy as np
import pytest

from minidl import Tensor, no_grad
from minidl.models import (
    VGG,
    AlexNet,
    CifarResNet,
    DenseNet,
    FCN8s,
    GoogLeNet,
    RefineNet,
    ResNet,
    SegNet,
    UNet,
)
from minidl.pretrained import load, read, save_for_torch

torch = pytest.importorskip("torch")
import torch_classifiers as networks  # noqa: E402

from . import torch_segmentation as segmentation  # noqa: E402

each_format = pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])


def _save(value, path, zipped=True, **settings):
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **settings)
    return path


# ---- files ------------------------------------------------------------------------------------


@each_format
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dtypes_and_protocols(zipped, protocol, tmp_path):
    names = "float64 float32 float16 int64 int32 int16 int8 uint8 bool complex64 complex128"
    tensors = {
        name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in names.split()
    }
    if zipped:
        later = {name: getattr(torch, name) for name in ("uint16", "uint32", "uint64")}
        tensors |= {name: torch.arange(6).to(dtype) for name, dtype in later.items()}
    tensors["bfloat16"] = torch.randn(5).to(torch.bfloat16)
    tensors["scalar"], tensors["none"] = torch.tensor(2.5), torch.zeros(0, 3)
    tensors["transposed"] = torch.randn(3, 4).T
    tensors["part"] = torch.randn(5, 6)[1:4:2, ::3]
    found = read(_save(tensors, tmp_path / "x", zipped, pickle_protocol=protocol))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        expected = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
        assert found[name].dtype == expected.numpy().dtype
        np.testing.assert_array_equal(found[name], expected.numpy())


@each_format
def test_checkpoints_of_training(zipped, tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    network[0].weight.note = "an attribute"
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])
    whole = {
        "epoch": 3,
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"milestones": collections.Counter([3, 6]), "last": schedule.last_epoch},
        "best": np.float64(0.5),
        "loss": torch.tensor(0.1),
    }
    found = read(_save(whole, tmp_path / "x", zipped))
    expected = network.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


@each_format
def test_parameters(zipped, tmp_path):
    parameters = {
        "plain": torch.nn.Parameter(torch.randn(3)),
        "noted": torch.nn.Parameter(torch.ones(2)),
    }
    parameters["noted"].note = 3
    found = read(_save(parameters, tmp_path / "x", zipped))
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(found[name], parameter.detach().numpy())


@each_format
def test_whole_models_are_refused(zipped, tmp_path):
    path = _save(torch.nn.Sequential(torch.nn.Linear(2, 3)), tmp_path / "x", zipped)
    with pytest.raises(ValueError, match=r"a whole model.*torch\.save\(model\.state_dict\(\)"):
        read(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_programs_are_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "x")
    with pytest.raises(ValueError, match=r"a TorchScript archive.*save only the tensors"):
        read(tmp_path / "x")


@pytest.mark.filterwarnings("ignore")
def test_other_tensors_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a sparse tensor.*to_dense\(\)"):
        read(_save({"x": torch.eye(2).to_sparse()}, tmp_path / "x"))
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match=r"a quantised tensor.*dequantize\(\)"):
        read(_save({"x": quantised}, tmp_path / "x"))
    with pytest.raises(ValueError, match="8-bit floats"):
        read(_save({"x": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "x"))


def test_files_without_sums(tmp_path):
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        _save({"x": torch.ones(3)}, tmp_path / "x")
    finally:
        torch.serialization.set_crc32_options(before)
    np.testing.assert_array_equal(read(tmp_path / "x")["x"], np.ones(3))


# ---- networks ---------------------------------------------------------------------------------


def _predictions(model, network, x):
    with no_grad():
        ours = model.eval()(Tensor(x)).numpy()
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()
    return ours, np.moveaxis(theirs, 1, -1)


def _images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _check_both_ways(model, network, x, tmp_path):
    """The network's file makes the model give the same, and the model's file makes another."""
    networks.randomised(network)
    assert load(model, _save(network.state_dict(), tmp_path / "x.pth")) == ([], [])
    ours, theirs = _predictions(model, network, x)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1, np.abs(theirs).max()))
    assert np.ptp(theirs) > 1e-2

    from safetensors.torch import load_file

    save_for_torch(model, tmp_path / "x.safetensors")
    found, expected = load_file(tmp_path / "x.safetensors"), network.state_dict()
    assert set(found) <= set(expected)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name
    return set(expected) - set(found)


BACKBONES = {
    "vgg11": (lambda: VGG(11, 3, 7, width=2), lambda: networks.VGG(11, 7, width=2)),
    "vgg13_bn": (lambda: VGG(13, 3, 7, True, 2), lambda: networks.VGG(13, 7, True, 2)),
    "vgg16": (lambda: VGG(16, 3, 7, width=2), lambda: networks.VGG(16, 7, width=2)),
    "vgg16_bn": (lambda: VGG(16, 3, 7, True, 2), lambda: networks.VGG(16, 7, True, 2)),
    "vgg19": (lambda: VGG(19, 3, 7, width=2), lambda: networks.VGG(19, 7, width=2)),
    "vgg19_bn": (lambda: VGG(19, 3, 7, True, 2), lambda: networks.VGG(19, 7, True, 2)),
    "alexnet": (lambda: AlexNet(3, 7, True, 16), lambda: networks.AlexNet(7, 16)),
    "resnet18": (lambda: ResNet(18, 3, 7, width=4), lambda: networks.ResNet(18, 7, 4)),
    "resnet34": (lambda: ResNet(34, 3, 7, width=4), lambda: networks.ResNet(34, 7, 4)),
    "resnet50": (lambda: ResNet(50, 3, 7, width=4), lambda: networks.ResNet(50, 7, 4)),
    "resnet101": (lambda: ResNet(101, 3, 7, width=4), lambda: networks.ResNet(101, 7, 4)),
    "resnet152": (lambda: ResNet(152, 3, 7, width=2), lambda: networks.ResNet(152, 7, 2)),
    "densenet121": (lambda: DenseNet(121, 3, 7, 4), lambda: networks.DenseNet(121, 7, 4)),
    "densenet161": (lambda: DenseNet(161, 3, 7, 2), lambda: networks.DenseNet(161, 7, 2)),
    "densenet169": (lambda: DenseNet(169, 3, 7, 2), lambda: networks.DenseNet(169, 7, 2)),
    "densenet201": (lambda: DenseNet(201, 3, 7, 2), lambda: networks.DenseNet(201, 7, 2)),
    "googlenet": (lambda: GoogLeNet(3, 7, True, True, 8), lambda: networks.GoogLeNet(7, True, 8)),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name, tmp_path):
    ours, theirs = (make() for make in BACKBONES[name])
    assert _check_both_ways(ours, theirs, _images(2, 70, 96, 3), tmp_path) == set()


def test_heads_for_training_are_loaded_and_may_be_absent(tmp_path):
    network = networks.randomised(networks.GoogLeNet(7, True, 8))
    path = _save(network.state_dict(), tmp_path / "x.pth")
    model, bare = GoogLeNet(3, 7, True, True, 8), GoogLeNet(3, 7, True, False, 8)
    assert load(model, path) == load(bare, path) == ([], [])
    x = _images(2, 70, 96, 3)
    _, theirs = _predictions(bare, network, x)
    np.testing.assert_allclose(_predictions(bare, network, x)[0], theirs, atol=1e-5)
    weight = network.aux1.fc1.weight.detach()
    maps = torch.randn(2, 16, 4, 4)
    expected = torch.nn.functional.linear(maps.flatten(1), weight).numpy()
    found = maps.numpy().transpose(0, 2, 3, 1).reshape(2, -1) @ model.aux1.fc1.weight.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_old_names_of_densenet(tmp_path):
    network = networks.randomised(networks.DenseNet(121, 7, 4))
    state = {
        name.replace("norm1", "norm.1")
        .replace("conv1", "conv.1")
        .replace("norm2", "norm.2")
        .replace("conv2", "conv.2"): tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    model = DenseNet(121, 3, 7, 4)
    assert load(model, _save(state, tmp_path / "x.pth")) == ([], [])
    ours, theirs = _predictions(model, network, _images(1, 64, 64, 3))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_resnets_for_cifar_with_projections(tmp_path):
    """Names of the usual repository: shortcuts are called so there."""
    source = CifarResNet(14, option="B", width=4, rng=np.random.default_rng(0))
    save_for_torch(source, tmp_path / "x")
    found = read(tmp_path / "x")
    assert found["layer2.0.shortcut.0.weight"].shape == (8, 4, 1, 1)
    model = CifarResNet(14, option="B", width=4)
    assert load(model, tmp_path / "x") == ([], [])
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)


def test_backbones_inside_of_other_networks(tmp_path):
    network = networks.randomised(networks.ResNet(50, 7, 4))
    model = RefineNet(3, 5, depth=50, width=4, scales=(1.0, 0.5))
    path = _save(network.state_dict(), tmp_path / "x.pth")
    missing, unexpected = load(model, path, strict=False)
    assert unexpected == ["fc.weight", "fc.bias"]
    assert not any(name.startswith("backbones") for name in missing)
    x = _images(1, 64, 64, 3)
    with torch.no_grad():
        y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        y = network.maxpool(torch.relu(network.bn1(network.conv1(y))))
        y = network.layer4(network.layer3(network.layer2(network.layer1(y)))).numpy()
    for backbone in model.eval().backbones:
        np.testing.assert_allclose(
            backbone(x)[-1].numpy(), y.transpose(0, 2, 3, 1), atol=1e-4 * np.abs(y).max()
        )


SEGMENTATION = {
    "fcn8s": (lambda: FCN8s(3, 5, width=2), lambda: segmentation.FCN8s(5, 2), (1, 45, 38, 3)),
    "segnet": (lambda: SegNet(3, 5, width=4), lambda: segmentation.SegNet(5, 4), (1, 32, 64, 3)),
    "unet": (lambda: UNet(3, 2, root=4), lambda: segmentation.UNet(3, 2, 4), (1, 32, 48, 3)),
}


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation(name, tmp_path):
    ours, theirs, shape = SEGMENTATION[name]
    assert _check_both_ways(ours(), theirs(), _images(*shape), tmp_path) == set()


def test_segnet_by_other_names(tmp_path):
    network = networks.randomised(segmentation.SegNet(5, 4, caffe=False))
    model = SegNet(3, 5, width=4)
    assert load(model, _save(network.state_dict(), tmp_path / "x.pth")) == ([], [])
    ours, theirs = _predictions(model, network, _images(1, 32, 64, 3))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_unet_of_2017_has_biases_in_front_of_its_norms(tmp_path):
    network = networks.randomised(segmentation.UNet(3, 2, 4, first=True))
    model = UNet(3, 2, root=4)
    state = network.state_dict() | {"mask_values": [0, 255]}
    assert load(model, _save(state, tmp_path / "x.pth")) == ([], [])
    ours, theirs = _predictions(model, network, _images(1, 32, 48, 3))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_classifier_becomes_fully_convolutional(tmp_path):
    """FCN's way: fc6 and fc7 are the linear layers of VGG, wherever they fit."""
    network = networks.randomised(networks.VGG(16, 7, width=2))
    path = _save(network.state_dict(), tmp_path / "x.pth")
    model, vgg = FCN8s(3, 5, width=2), VGG(16, 3, 7, width=2)
    missing, unexpected = load(model, path, strict=False)
    assert {name.partition(".")[0] for name in missing} == {
        "score_fr", "score_pool3", "score_pool4", "upscore2", "upscore_pool4", "upscore8",
    }  # fmt: skip
    assert unexpected == ["classifier.6.weight", "classifier.6.bias"]
    load(vgg, path)
    reference = FCN8s(3, 5, width=2)
    reference.load_vgg(vgg)
    for name in ("stages", "fc6", "fc7"):
        found, expected = getattr(model, name).state_dict(), getattr(reference, name).state_dict()
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array)
