"""Saving and loading: everything comes back, nothing is half written, damage is noticed."""

import os
import pickle

import numpy as np
import pytest

from minidl import Tensor, checkpoint, nn, optim
from minidl.checkpoint import load, save

STATE = {
    "model": {
        "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "empty": np.empty((0, 3)),
    },
    "step": 7,
    "rate": 1e-3,
    "big": 2**127 + 1,
    "best": float("inf"),
    "name": "U-Net \N{SNOWMAN}",
    "done": False,
    "nothing": None,
    "list": [1, [np.float64([2.5]), None], ()],
    "pair": (1, np.array([True, False])),
    "scalars": [np.array(3.5), np.array(True), np.array(-4)],
    5: {"six": np.array([2**60])},
}


def _same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            _same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
        assert b.flags.writeable
    else:
        assert a == b


def test_everything_comes_back(tmp_path):
    save(tmp_path / "state", STATE)
    _same(STATE, load(tmp_path / "state"))
    _same(STATE, load(str(tmp_path / "state")))


@pytest.mark.parametrize("dtype", checkpoint.DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 1)])
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    save(tmp_path / "state", array)
    _same(array, load(tmp_path / "state"))


def test_arrays_of_any_layout(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4)
    state = [array.T, array[:, ::2], array[..., ::-1], np.asfortranarray(array)]
    save(tmp_path / "state", state)
    for before, after in zip(state, load(tmp_path / "state"), strict=True):
        np.testing.assert_array_equal(before, after)
    save(tmp_path / "state", array.astype(">f8"))
    _same(array, load(tmp_path / "state"))


def test_scalars_of_numpy_become_numbers(tmp_path):
    save(tmp_path / "state", [np.float32(0.1), np.int64(3), np.bool_(True)])
    _same([float(np.float32(0.1)), 3, True], load(tmp_path / "state"))


def test_names_that_run_together_are_kept_apart(tmp_path):
    state = {"a/b": np.array([1.0]), "a": {"b": np.array([2.0])}, "a/b'": np.array([3.0])}
    save(tmp_path / "state", state)
    _same(state, load(tmp_path / "state"))


def test_other_programs_can_read_the_arrays(tmp_path):
    from safetensors.numpy import load_file

    save(tmp_path / "state", {"model": {"conv.weight": np.ones(2)}, "step": 3})
    np.testing.assert_array_equal(load_file(tmp_path / "state")["model/conv.weight"], [1, 1])


def test_a_training_run_continues(tmp_path):
    def make():
        model = nn.Linear(3, 2, rng=np.random.default_rng(0))
        return model, optim.Adam(model.parameters(), lr=0.1)

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (model(np.ones((1, 3), np.float32)) ** 2).sum().backward()
            optimizer.step()

    model, optimizer = make()
    steps(model, optimizer, 2)
    rng = np.random.default_rng(3)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": rng.bit_generator.state,
    }
    save(tmp_path / "state", state)
    steps(model, optimizer, 2)

    resumed, optimizer = make()
    state = load(tmp_path / "state")
    resumed.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    steps(resumed, optimizer, 2)
    np.testing.assert_array_equal(resumed.weight.numpy(), model.weight.numpy())
    again = np.random.default_rng()
    again.bit_generator.state = state["rng"]
    assert again.random() == rng.random()


def test_an_existing_file_is_replaced(tmp_path):
    save(tmp_path / "state", [1])
    save(tmp_path / "state", [2])
    assert load(tmp_path / "state") == [2]
    assert os.listdir(tmp_path) == ["state"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    save(tmp_path / "state", [1])

    def fail(handle):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path / "state", [np.ones(1000)])
    assert load(tmp_path / "state") == [1]
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_permissions_are_those_of_any_new_file(tmp_path):
    save(tmp_path / "state", [1])
    (tmp_path / "other").write_text("")
    assert (tmp_path / "state").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"model": {"w": Tensor([1.0])}},
            r"model/w is of Tensor, which cannot be saved.*numpy\(\)",
        ),
        ([1, {2}], "1 is of set"),
        (object(), "the state is of object"),
        ({"a": np.array(["x"])}, "a is of dtype <U1"),
        ({"a": np.array([1j])}, "a is of dtype complex128"),
        ({1.5: 1}, r"key 1\.5 in the state is no string or int"),
        ({"a": {True: 1}}, "key True in a is no string"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, state, message):
    with pytest.raises(TypeError, match=f"^save: {message}"):
        save(tmp_path / "state", state)
    assert not os.listdir(tmp_path)


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"save: there is no folder .*nowhere to write x to"
    ):
        save(tmp_path / "nowhere" / "x", [])
    with pytest.raises(FileNotFoundError, match="load: there is no file .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="load: .* is a folder"):
        load(tmp_path)


def test_every_cut_is_noticed(tmp_path):
    save(tmp_path / "state", STATE)
    whole = (tmp_path / "state").read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1]:
        (tmp_path / "state").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"load: .*state is cut off, damaged"):
            load(tmp_path / "state")


def test_every_changed_byte_is_noticed(tmp_path):
    save(tmp_path / "state", {"w": np.arange(4.0), "history": [0.5, "text"], "step": 3})
    whole = (tmp_path / "state").read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0b00010100
        (tmp_path / "state").write_bytes(changed)
        try:
            result = load(tmp_path / "state")
        except ValueError as error:
            assert "load: " in str(error)
            assert str(tmp_path / "state") in str(error)
        else:  # blanks that pad the header may change, content may not
            _same(result, {"w": np.arange(4.0), "history": [0.5, "text"], "step": 3})


def test_foreign_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "state"
    path.write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(ValueError, match="not written by minidl.save"):
        load(path)
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="not written by minidl.save"):
        load(tmp_path / "arrays.npz")
    save_file({"weight": np.ones(2)}, path)
    with pytest.raises(
        ValueError, match=r"safetensors file, but not.*safetensors\.numpy\.load_file"
    ):
        load(path)
