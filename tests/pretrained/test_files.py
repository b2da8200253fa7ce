"""Reading .safetensors, .npz and MatConvNet's .mat; telling all kinds of files apart."""

import json
import struct
import sys

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.models import VGG, FCNSlides
from minidl.pretrained import average_image, load, read

from .torch_files import archive, legacy, tensor

ARRAYS = {
    "half": np.array([1.5, -2.0], np.float16),
    "single": np.arange(6, dtype=np.float32).reshape(2, 3),
    "double": np.array(3.25),
    "long": np.array([[2**40]]),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
}


def _same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


# ---- kinds of files --------------------------------------------------------------------------


def _safetensors(header, numbers=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


KINDS = {
    "a letter": (b"Dear reader", "of no known kind"),
    "nothing": (b"", "is empty"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5.*-v7"),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file" + bytes(600), "HDF5.*-v7"),
    "a single array": (b"\x93NUMPY\x01\x00" + bytes(600), "numpy.load reads it"),
    "a tar archive": (bytes(257) + b"ustar" + bytes(300), "PyTorch wrote before 0.2"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_files(kind, tmp_path):
    contents, message = KINDS[kind]
    path = tmp_path / "weights.pth"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"{message}.*Readable are files of torch\.save"):
        read(path)


def test_the_name_does_not_matter(tmp_path):
    from safetensors.numpy import save_file

    array = np.arange(3.0)
    path = tmp_path / "weights.xyz"
    for contents in (archive({"x": tensor(array)}), legacy({"x": tensor(array)})):
        path.write_bytes(contents)
        _same(read(path), {"x": array})
    save_file({"x": array}, path)
    _same(read(path), {"x": array})


def test_files_that_do_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*x.pth"):
        read(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is a folder. Name the file"):
        read(tmp_path)


def test_key_is_for_files_of_torch(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones(2))
    with pytest.raises(ValueError, match=r"has no parts; key is for files of torch\.save"):
        read(tmp_path / "x.npz", key="model")


# ---- .safetensors ----------------------------------------------------------------------------


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path, metadata={"format": "pt"})
    found = read(path)
    _same(found, ARRAYS)
    assert not found["single"].flags.writeable


def test_safetensors_of_bfloat16(tmp_path):
    numbers = np.array([1.0, -2.5, 0.15625], np.float32)
    upper = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = {"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    (tmp_path / "x").write_bytes(_safetensors(header, upper))
    _same(read(tmp_path / "x"), {"x": numbers})


def test_safetensors_of_other_dtypes(tmp_path):
    header = {"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    (tmp_path / "x").write_bytes(_safetensors(header, bytes(2)))
    with pytest.raises(ValueError, match="x is of dtype F8_E4M3.*float32 where it comes from"):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
    ],
)
def test_safetensors_that_lie(entry, tmp_path):
    (tmp_path / "x").write_bytes(_safetensors({"x": entry}, bytes(8)))
    with pytest.raises(ValueError, match="cut off or damaged"):
        read(tmp_path / "x")


def test_checkpoints_of_our_own(tmp_path):
    md.save(tmp_path / "x", {"model": nn.Linear(2, 3).state_dict()})
    with pytest.raises(ValueError, match=r"written by minidl\.save. Read it with minidl\.load"):
        read(tmp_path / "x")


# ---- .npz ------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz(write, tmp_path):
    write(tmp_path / "x.npz", **ARRAYS)
    _same(read(tmp_path / "x.npz"), ARRAYS)


def test_npz_of_objects(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    np.savez(tmp_path / "x.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="Python objects, which are not read"):
        read(tmp_path / "x.npz")
    assert not (tmp_path / "executed").exists()


def test_npz_that_is_cut_off(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones(1000))
    contents = (tmp_path / "x.npz").read_bytes()
    for length in (40, 400, 4000, len(contents) - 1):
        (tmp_path / "y").write_bytes(contents[:length])
        with pytest.raises(ValueError, match="cut off or damaged"):
            read(tmp_path / "y")


def test_npz_with_a_wrong_byte(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones(1000))
    contents = bytearray((tmp_path / "x.npz").read_bytes())
    contents[4000] ^= 1
    (tmp_path / "y").write_bytes(contents)
    with pytest.raises(ValueError, match="is damaged"):
        read(tmp_path / "y")


# ---- .mat ------------------------------------------------------------------------------------


def _cell(values):
    """A row of values as a MATLAB cell."""
    cell = np.empty((1, len(values)), dtype=object)
    for i, value in enumerate(values):
        cell[0, i] = value
    return cell


def _conv(name, kernel, bias, older=False):
    bias = bias.reshape(1, -1)
    fields = {"filters": kernel, "biases": bias} if older else {"weights": _cell([kernel, bias])}
    return {"name": name, "type": "conv", **fields, "stride": [[1.0, 1.0]]}


def _save_network(path, layers, **others):
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(path, {"layers": _cell(layers), **others})


def _vgg_layers(model, older=False):
    """A VGG of ours as MatConvNet has it: everything is a convolution, named as in Caffe."""
    layers = []
    for number, stage in enumerate(model.stages, 1):
        for i, conv in enumerate(stage, 1):
            name = f"conv{number}_{i}"
            layers.append(_conv(name, conv.weight.numpy(), conv.bias.numpy(), older))
            layers.append({"name": f"relu{number}_{i}", "type": "relu"})
        layers.append({"name": f"pool{number}", "type": "pool", "method": "max"})
    linear = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
    for name, side, layer in zip(("fc6", "fc7", "fc8"), (7, 1, 1), linear, strict=True):
        weight = layer.weight.numpy()
        kernel = weight.reshape(side, side, -1, weight.shape[-1])
        layers.append(_conv(name, kernel, layer.bias.numpy(), older))
    return [*layers, {"name": "prob", "type": "softmax"}]


def _random_vgg(seed=0, **settings):
    model = VGG(19, num_classes=5, width=2, rng=np.random.default_rng(seed), **settings)
    rng = np.random.default_rng(seed + 1)
    for parameter in model.parameters():
        if len(parameter.shape) == 1:
            parameter.data[...] = rng.normal(size=parameter.shape)
    return model.eval()


@pytest.mark.parametrize("older", [False, True], ids=["beta 9 and later", "before"])
def test_vgg_of_matconvnet(older, tmp_path):
    source, model = _random_vgg(), VGG(19, num_classes=5, width=2).eval()
    mean = np.full((4, 4, 3), (123.7, 116.8, 103.9))
    normalization = {"averageImage": mean, "imageSize": [[224.0, 224.0, 3.0]]}
    others = (
        {"normalization": normalization} if older else {"meta": {"normalization": normalization}}
    )
    _save_network(tmp_path / "vgg.mat", _vgg_layers(source, older), **others)
    assert load(model, tmp_path / "vgg.mat") == ([], [])
    x = np.random.default_rng(2).normal(size=(1, 64, 80, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(x).numpy(), source(x).numpy())
    np.testing.assert_allclose(average_image(tmp_path / "vgg.mat"), mean)


def test_networks_inside_of_a_structure(tmp_path):
    source, model = _random_vgg(), VGG(19, num_classes=5, width=2)
    scipy_io = pytest.importorskip("scipy.io")
    net = {
        "layers": _cell(_vgg_layers(source)),
        "meta": {"normalization": {"averageImage": [[[1.0, 2.0, 3.0]]]}},
    }
    scipy_io.savemat(tmp_path / "vgg.mat", {"net": net})
    assert load(model, tmp_path / "vgg.mat") == ([], [])
    np.testing.assert_array_equal(average_image(tmp_path / "vgg.mat"), [1, 2, 3])


def test_the_fcn_of_the_slides_begins_with_it(tmp_path):
    source, model = _random_vgg(), FCNSlides(num_classes=3, width=2)
    before = model.W6.weight.numpy().copy()
    _save_network(tmp_path / "vgg.mat", _vgg_layers(source))
    missing, unexpected = load(model, tmp_path / "vgg.mat", strict=False)
    assert {name.partition(".")[0] for name in missing} == {
        "W6", "W7", "W8", "W_t1", "W_t2", "W_t3",
    }  # fmt: skip
    assert {name.partition(".")[0] for name in unexpected} == {"conv5_4", "fc6", "fc7", "fc8"}
    for stage, original in zip(model.stages, source.stages, strict=True):
        for conv, other in zip(stage, original, strict=False):
            np.testing.assert_array_equal(conv.weight.numpy(), other.weight.numpy())
    np.testing.assert_array_equal(model.W6.weight.numpy(), before)


def test_swapping_axes_as_the_slides_do(tmp_path):
    source, model = _random_vgg(), VGG(19, num_classes=5, width=2)
    _save_network(tmp_path / "vgg.mat", _vgg_layers(source))
    load(model, tmp_path / "vgg.mat", swap_axes=True)
    for conv, other in zip(model.stages[2], source.stages[2], strict=True):
        np.testing.assert_array_equal(
            conv.weight.numpy(), np.transpose(other.weight.numpy(), (1, 0, 2, 3))
        )
    swapped = source.classifier[0].weight.numpy().reshape(7, 7, 16, -1).swapaxes(0, 1)
    np.testing.assert_array_equal(model.classifier[0].weight.numpy(), swapped.reshape(784, -1))


def test_swapping_axes_is_for_matconvnet(tmp_path):
    np.savez(tmp_path / "x.npz", weight=np.ones((3, 2)), bias=np.ones(3))
    with pytest.raises(ValueError, match="swap_axes is for kernels"):
        load(nn.Linear(2, 3), tmp_path / "x.npz", swap_axes=True)


def test_single_filters_keep_four_axes(tmp_path):
    """MATLAB drops axes of length 1 at the end."""
    kernel = np.arange(18.0).reshape(3, 3, 2)
    _save_network(tmp_path / "x.mat", [_conv("one", kernel, np.ones(1))])
    found = read(tmp_path / "x.mat")
    np.testing.assert_array_equal(found["one.weight"], kernel[..., None])
    assert found["one.bias"].shape == (1,)


def test_matlab_files_of_other_kinds(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(tmp_path / "x.mat", {"mean": np.ones(3)})
    with pytest.raises(ValueError, match="no layers of MatConvNet"):
        read(tmp_path / "x.mat")
    with pytest.raises(ValueError, match="no average image of three channels"):
        average_image(tmp_path / "x.mat")
    savemat(
        tmp_path / "x.mat", {"layers": _cell([{"name": "a"}]), "params": _cell([{"name": "b"}])}
    )
    with pytest.raises(ValueError, match="DagNN.*Only SimpleNN"):
        read(tmp_path / "x.mat")
    _save_network(tmp_path / "x.mat", [{"name": "relu", "type": "relu"}])
    with pytest.raises(ValueError, match="none of them has weights"):
        read(tmp_path / "x.mat")
    norm = {"name": "bn1", "type": "bnorm", "weights": _cell([np.ones((3, 1))] * 2)}
    _save_network(tmp_path / "x.mat", [norm])
    with pytest.raises(ValueError, match="bn1 has weights of unknown kind, bnorm"):
        read(tmp_path / "x.mat")
    with pytest.raises(FileNotFoundError, match="average_image: there is no file"):
        average_image(tmp_path / "y.mat")


def test_matlab_files_that_are_damaged(tmp_path):
    _save_network(tmp_path / "x.mat", [_conv("one", np.ones((3, 3, 2, 2)), np.ones(2))])
    contents = (tmp_path / "x.mat").read_bytes()
    for length in (60, 130, len(contents) // 2, len(contents) - 1):
        (tmp_path / "y.mat").write_bytes(contents[:length])
        with pytest.raises(ValueError, match="read: "):
            read(tmp_path / "y.mat")


def test_matlab_files_need_scipy(tmp_path, monkeypatch):
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(600))
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"SciPy.*pip install \"minidl\[mat\]\""):
        read(tmp_path / "x.mat")
