"""From a file into a model: names, shapes, what is reported, and that nothing is done by halves."""

import copy
import re
import subprocess
import sys

import numpy as np
import pytest

from minidl import nn
from minidl.models import VGG, AlexNet, CifarResNet, DenseNet, FCN16s, GoogLeNet, SegNet, UNet
from minidl.pretrained import load, read, save_for_torch

from .torch_files import archive, legacy, tensor


class Small(nn.Module):
    """Each kind of layer once."""

    def __init__(self, classes=4, seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False, rng=rng)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2, rng=rng)
        self.fc = nn.Linear(2, classes, rng=rng)

    def forward(self, x):
        return self.fc(self.up(self.norm(self.conv(x))).mean((1, 2)))


def _torch_state(seed=1, classes=4):
    """What PyTorch would save of `Small`."""
    rng = np.random.default_rng(seed)
    shapes = {
        "conv.weight": (4, 3, 3, 3),
        "norm.weight": (4,),
        "norm.bias": (4,),
        "norm.running_mean": (4,),
        "norm.running_var": (4,),
        "norm.num_batches_tracked": (),
        "up.weight": (4, 2, 2, 2),
        "up.bias": (2,),
        "fc.weight": (classes, 2),
        "fc.bias": (classes,),
    }
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    state["norm.running_var"] = np.abs(state["norm.running_var"])
    state["norm.num_batches_tracked"] = np.array(12)
    return state


def _write(state, path, write=archive):
    path.write_bytes(write({name: tensor(array) for name, array in state.items()}))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def _check_small(model, state):
    ours = model.state_dict()
    kernel, up = ours["conv.weight"], ours["up.weight"]
    np.testing.assert_array_equal(kernel, state["conv.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(up, state["up.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(ours["fc.weight"], state["fc.weight"].T)
    for name in ("norm.weight", "norm.running_mean", "norm.running_var", "up.bias", "fc.bias"):
        np.testing.assert_array_equal(ours[name], state[name])


def _check_same(model, other, atol=0.0):
    state = model.state_dict()
    for name, array in other.state_dict().items():
        np.testing.assert_allclose(state[name], array, rtol=0, atol=atol)


@pytest.mark.parametrize("write", [archive, legacy])
def test_a_model_of_ones_own(write, path):
    model, state = Small(), _torch_state()
    before = list(model.parameters())
    assert load(model, _write(state, path, write)) == ([], [])
    _check_small(model, state)
    assert model.norm.num_batches_tracked == 12
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_parameters_keep_their_dtype(path):
    model = Small().to(np.float64)
    load(model, _write(_torch_state(), path))
    assert {parameter.dtype for parameter in model.parameters()} == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    "wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net."]
)
def test_what_wrappers_put_in_front_of_names(wrapper, path):
    model, state = Small(), _torch_state()
    load(model, _write({wrapper + name: array for name, array in state.items()}, path))
    _check_small(model, state)


def test_a_module_of_ones_own_is_no_wrapper(path):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Small()

    model, state = Outer(), _torch_state()
    load(model, _write({f"net.{name}": array for name, array in state.items()}, path))
    _check_small(model.net, state)


def test_counters_of_batches_may_be_absent(path):
    model, state = Small(), _torch_state()
    del state["norm.num_batches_tracked"]
    assert load(model, _write(state, path)) == ([], [])
    assert model.norm.num_batches_tracked == 0


def test_counters_of_batches_may_be_of_no_use(path):
    state = {"conv.weight": _torch_state()["conv.weight"], "conv.num_batches_tracked": np.array(3)}
    model = nn.Sequential()
    model.conv = nn.Conv2d(3, 4, 3, bias=False)
    assert load(model, _write(state, path)) == ([], [])


# ---- what does not fit ------------------------------------------------------------------------


def test_missing_unexpected_and_other_shapes(path):
    model, state = Small(), _torch_state(classes=7)
    before = copy.deepcopy(model)
    state["norm1.weight"] = state.pop("norm.weight")
    state["extra"] = np.ones(3)
    message = r"""load: weights\.pth does not fit Small \(tried: its own names\)\.
missing in the file \(1\):
  norm\.weight  ~ norm1\.weight
unexpected in the file \(2\):
  norm1\.weight  ~ norm\.weight
  extra
other shape \(2\):
  fc\.weight \(7, 2\) becomes \(2, 7\), but fc\.weight is \(2, 4\)
  fc\.bias \(7,\) becomes \(7,\), but fc\.bias is \(4,\)
The file is of another network.*skip=\[.*strict=False.*names="""
    with pytest.raises(ValueError, match=message):
        load(model, _write(state, path))
    _check_same(model, before)


def test_long_lists_are_cut(path):
    _write({f"layer{i}.weight": np.ones(2) for i in range(33)}, path)
    with pytest.raises(ValueError, match=r"unexpected in the file \(33\)") as raised:
        load(Small(), path)
    assert "  ... and 13 more" in str(raised.value)
    assert len(str(raised.value).splitlines()) < 40


def test_names_are_those_of_the_nearest_scheme(path):
    """A VGG's file by torchvision with one name wrong is compared with torchvision's names."""
    save_for_torch(VGG(11, num_classes=3, width=1), path)
    state = dict(read(path))
    state["features.3.wieght"] = state.pop("features.3.weight")
    _write(state, path)
    message = r"""tried: torchvision's VGG\)\.
missing in the file \(1\):
  stages\.1\.0\.weight \(features\.3\.weight in the file\)
unexpected in the file \(1\):
  features\.3\.wieght"""
    with pytest.raises(ValueError, match=message):
        load(VGG(11, num_classes=3, width=1), path)


def test_not_strict(path):
    model, state = Small(), _torch_state()
    kept = model.fc.weight.numpy().copy()
    del state["fc.weight"]
    state["extra"] = np.ones(3)
    missing, unexpected = load(model, _write(state, path), strict=False)
    assert (missing, unexpected) == (["fc.weight"], ["extra"])
    np.testing.assert_array_equal(model.fc.weight.numpy(), kept)
    np.testing.assert_array_equal(model.fc.bias.numpy(), state["fc.bias"])


def test_other_shapes_are_an_error_even_if_not_strict(path):
    model, state = Small(), _torch_state(classes=7)
    before = copy.deepcopy(model)
    state["extra"] = np.ones(3)
    with pytest.raises(ValueError, match=r"\.\nother shape \(2\):") as raised:
        load(model, _write(state, path), strict=False)
    assert "strict=False" not in str(raised.value) and "extra" not in str(raised.value)
    _check_same(model, before)


@pytest.mark.parametrize("skip", ["fc", ("fc",), ["fc.weight", "fc.bias"]])
def test_layers_that_are_meant_to_differ(skip, path):
    model, state = Small(), _torch_state(classes=7)
    kept = model.fc.weight.numpy().copy()
    assert load(model, _write(state, path), skip=skip) == ([], [])
    np.testing.assert_array_equal(model.fc.weight.numpy(), kept)
    np.testing.assert_array_equal(model.norm.bias.numpy(), state["norm.bias"])


def test_complex_weights_are_no_weights(path):
    state = {"0.weight": np.ones((3, 2), np.complex64), "0.bias": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=r"not numbers: 0\.weight has dtype complex64"):
        load(nn.Sequential(nn.Linear(2, 3)), _write(state, path))


# ---- other names ------------------------------------------------------------------------------


OTHER = {"conv": "stem.0", "norm": "stem.1", "up": "decoder", "fc": "head"}


def _renamed_state():
    parts = ((name.partition("."), array) for name, array in _torch_state().items())
    return {f"{OTHER[layer]}.{rest}": array for (layer, _, rest), array in parts}


def test_names_by_layer(path):
    model = Small()
    back = {there: here for here, there in OTHER.items()}
    assert load(model, _write(_renamed_state(), path), names=back) == ([], [])
    _check_small(model, _torch_state())


def test_names_one_by_one(path):
    model, state = Small(), _torch_state()
    state["head.w"], state["head.b"] = state.pop("fc.weight"), state.pop("fc.bias")
    names = {"head.w": "fc.weight", "head.b": "fc.bias"}
    assert load(model, _write(state, path), names=names) == ([], [])
    _check_small(model, _torch_state())


def test_names_by_a_function(path):
    model, state = Small(), _torch_state() | {"junk": np.ones(3)}
    state = {f"x_{name}": array for name, array in state.items()}

    def name(there):
        return None if there == "x_junk" else there.removeprefix("x_")

    assert load(model, _write(state, path), names=name) == ([], [])
    _check_small(model, _torch_state())


def test_names_that_meet(path):
    with pytest.raises(ValueError, match=r"two arrays of the file the name same"):
        load(Small(), _write(_torch_state(), path), names=lambda name: "same")


def test_names_by_order(path):
    model = Small()
    assert load(model, _write(_renamed_state(), path), names="order") == ([], [])
    _check_small(model, _torch_state())


def test_order_is_not_tried_unasked(path):
    with pytest.raises(ValueError, match=r"missing in the file \(9\)"):
        load(Small(), _write(_renamed_state(), path))


def test_order_needs_as_many_layers(path):
    state = _renamed_state() | {"more.weight": np.ones(3)}
    with pytest.raises(ValueError, match="the model has 4 layers with weights, but the file has 5"):
        load(Small(), _write(state, path), names="order")


def test_order_of_other_shapes(path):
    state = dict(sorted(_renamed_state().items()))
    with pytest.raises(ValueError, match=r"decoder\.weight \(4, 2, 2, 2\) becomes \(2, 2, 2, 4\)"):
        load(Small(), _write(state, path), names="order")


def test_names_of_another_kind(path):
    with pytest.raises(ValueError, match="names must be a mapping, callable or 'order', not 'x'"):
        load(Small(), _write(_torch_state(), path), names="x")


# ---- layouts ----------------------------------------------------------------------------------


def test_our_own_layout_must_be_said(tmp_path):
    source, model = Small(seed=3), Small(seed=4)
    np.savez(tmp_path / "x.npz", **source.state_dict())
    with pytest.raises(ValueError, match="other shape"):
        load(model, tmp_path / "x.npz")
    assert load(model, tmp_path / "x.npz", layout="minidl") == ([], [])
    _check_same(model, source)
    with pytest.raises(ValueError, match="layout must be 'torch' or 'minidl', but is 'jax'"):
        load(model, tmp_path / "x.npz", layout="jax")


class Flattening(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(60, 2)


def test_how_maps_are_flattened_is_not_guessed(tmp_path, path):
    rng = np.random.default_rng(0)
    state = {"conv.weight": rng.normal(size=(4, 3, 3, 3)), "conv.bias": np.ones(4)}
    state |= {"fc.weight": rng.normal(size=(2, 60)), "fc.bias": np.ones(2)}
    model = Flattening()
    message = (
        r"fc has 60 inputs, 15 for each of the 4 channels.*flattened=\{'fc': \(height, width\)\}"
    )
    with pytest.raises(ValueError, match=message):
        load(model, _write(state, path))
    with pytest.raises(ValueError, match=message):
        save_for_torch(model, tmp_path / "x")
    load(model, path, flattened={"fc": (5, 3)})
    maps = rng.normal(size=(2, 4, 5, 3))
    expected = maps.reshape(2, 60) @ state["fc.weight"].T
    found = maps.transpose(0, 2, 3, 1).reshape(2, 60) @ model.fc.weight.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    save_for_torch(model, tmp_path / "x", flattened={"fc": (5, 3)})
    np.testing.assert_allclose(read(tmp_path / "x")["fc.weight"], state["fc.weight"], atol=1e-6)
    load(model, path, flattened={"fc": (1, 1)})
    np.testing.assert_allclose(model.fc.weight.numpy(), state["fc.weight"].T, atol=1e-6)
    load(model, path, skip="fc")


# ---- known networks, without PyTorch ------------------------------------------------------------


def _noise(model, seed=5):
    """Numbers everywhere, those of buffers too."""
    rng = np.random.default_rng(seed)
    state = model.state_dict()
    for name, array in state.items():
        noise = np.abs(rng.normal(size=array.shape)) + 0.5
        state[name] = noise if array.dtype.kind == "f" else array + 7
    model.load_state_dict(state)
    return model


NETWORKS = {
    "vgg": (lambda: VGG(13, 3, 5, True, 1), ("features.4.running_mean", (1,))),
    "alexnet": (lambda: AlexNet(3, 5, shrink=16), ("fc6.weight", (256, 576))),
    "alexnet of 2014": (lambda: AlexNet(3, 5, True, 16), ("features.10.weight", (16, 16, 3, 3))),
    "resnet for cifar": (lambda: CifarResNet(8, width=2), ("linear.weight", (10, 8))),
    "densenet": (
        lambda: DenseNet(121, 3, 5, 1),
        ("features.transition3.norm.bias", (32,)),
    ),
    "googlenet": (lambda: GoogLeNet(3, 5, shrink=8), ("aux2.fc1.weight", (128, 256))),
    "fcn": (lambda: FCN16s(3, 5, width=1), ("conv5_3.weight", (8, 8, 3, 3))),
    "segnet": (lambda: SegNet(3, 5, width=1), ("conv5_1_D_bn.running_var", (8,))),
    "unet": (lambda: UNet(3, 2, root=2), ("up4.conv.double_conv.3.weight", (2, 2, 3, 3))),
    "unet without norms": (
        lambda: UNet(3, 2, root=2, batch_norm=False),
        ("up.0.weight", (32, 16, 2, 2)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name, tmp_path):
    make, (known, shape) = NETWORKS[name]
    source, model = _noise(make()), make()
    save_for_torch(source, tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors")
    assert found[known].shape == shape
    assert len(found) == len(source.state_dict())
    assert load(model, tmp_path / "x.safetensors") == ([], [])
    _check_same(model, source)


@pytest.mark.parametrize("write", [archive, legacy])
def test_a_published_resnet_as_it_was_saved(write, tmp_path):
    """A network for CIFAR inside of DataParallel, beside an epoch and a score."""
    source, model = _noise(CifarResNet(8, width=2)), CifarResNet(8, width=2)
    save_for_torch(source, tmp_path / "x.safetensors")
    state = {f"module.{name}": tensor(a) for name, a in read(tmp_path / "x.safetensors").items()}
    whole = {"epoch": 200, "state_dict": state, "best_prec1": 91.7}
    (tmp_path / "x.th").write_bytes(write(whole))
    assert load(model, tmp_path / "x.th") == ([], [])
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(model.eval()(x).numpy(), source.eval()(x).numpy())


def test_older_densenets(tmp_path, path):
    source, model = _noise(DenseNet(121, 3, 5, 1)), DenseNet(121, 3, 5, 1)
    save_for_torch(source, tmp_path / "x")
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): array
        for name, array in read(tmp_path / "x").items()
    }
    assert "features.denseblock4.denselayer16.conv.2.weight" in state
    assert load(model, _write(state, path)) == ([], [])
    _check_same(model, source)


def test_biases_in_front_of_norms_go_into_their_means(tmp_path, path):
    """The first version of the usual U-Net: (conv + bias - mean) is (conv - (mean - bias))."""
    source, model = _noise(UNet(3, 2, depth=3, root=2)), UNet(3, 2, depth=3, root=2)
    save_for_torch(source, tmp_path / "x")
    state = dict(read(tmp_path / "x"))
    rng = np.random.default_rng(0)
    for name in [name for name in state if name.endswith(("conv.0.weight", "conv.3.weight"))]:
        bias = rng.normal(size=len(state[name])).astype(np.float32)
        state[name.replace("weight", "bias")] = bias
        norm = re.sub(r"(\d)\.weight", lambda match: f"{int(match[1]) + 1}.running_mean", name)
        state[norm] = state[norm] + bias
    old = {
        re.sub(r"^inc\.", "inc.conv.", name)
        .replace("double_conv", "conv")
        .replace("maxpool_conv", "mpconv"): array
        for name, array in state.items()
    }
    assert "down2.mpconv.1.conv.3.bias" in old
    for contents in (state, old):
        assert load(model, _write(contents, path)) == ([], [])
        _check_same(model, source, atol=1e-6)


def test_heads_for_training_may_be_absent(tmp_path):
    source, model = _noise(GoogLeNet(3, 5, True, True, 8)), GoogLeNet(3, 5, True, False, 8)
    save_for_torch(source, tmp_path / "x")
    assert load(model, tmp_path / "x") == ([], [])
    with pytest.raises(
        ValueError, match=r"missing in the file \(18\):\n  aux1\.conv\.conv\.weight"
    ):
        save_for_torch(model, tmp_path / "x")
        load(source, tmp_path / "x")


# ---- writing ----------------------------------------------------------------------------------


def test_files_are_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_for_torch(Small(seed=1), path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        save_for_torch(Small(seed=2), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_for_torch: there is no folder"):
        save_for_torch(Small(), tmp_path / "no" / "x")


def test_nothing_is_imported_before_it_is_asked_for():
    import minidl.pretrained

    assert dir(minidl.pretrained) == minidl.pretrained.__all__
    with pytest.raises(AttributeError, match="'minidl.pretrained' has no attribute 'store'"):
        minidl.pretrained.store  # noqa: B018
    script = "import minidl, sys; print(*(n for n in sys.modules if 'pretrained.' in n))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.split() == []
