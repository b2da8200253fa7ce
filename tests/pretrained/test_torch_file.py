"""Reading files of torch.save without PyTorch: what they may hold, and what is refused."""

import io
import mmap
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest

from minidl.pretrained import pickled, read

from .torch_files import (
    STORAGE_OF,
    Called,
    Named,
    Raw,
    Storage,
    Stored,
    Tensor,
    Writer,
    archive,
    legacy,
    rebuilt,
    tensor,
)

each_format = pytest.mark.parametrize("write", [archive, legacy])


@pytest.fixture
def read_bytes(tmp_path):
    def read_from(contents, **settings):
        path = tmp_path / "weights.pth"
        path.write_bytes(contents)
        return read(path, **settings)

    return read_from


def _arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "conv.bias": rng.normal(size=4),
        "norm.num_batches_tracked": np.array(7),
    }


def _same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(found[name], array)


# ---- what they may hold ---------------------------------------------------------------------


@each_format
def test_a_state_dict(write, read_bytes):
    arrays = _arrays()
    _same(read_bytes(write({name: tensor(array) for name, array in arrays.items()})), arrays)


@each_format
@pytest.mark.parametrize("dtype", STORAGE_OF)
def test_dtypes(write, dtype, read_bytes):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    _same(read_bytes(write({"x": tensor(array)})), {"x": array})


@each_format
def test_bfloat16_is_the_upper_half_of_float32(write, read_bytes):
    exact = np.array([1.0, -2.5, 3.140625, 0.0, np.inf, -1e-38], np.float32)
    exact = (exact.view(np.uint32) & 0xFFFF0000).view(np.float32)
    upper = (exact.view(np.uint32) >> 16).astype(np.uint16)
    kept = Storage(np.zeros(6, np.uint16), "BFloat16Storage")
    kept.numbers = upper
    _same(read_bytes(write({"x": Tensor(kept, 0, (6,), (1,))})), {"x": exact})


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_dtypes_that_the_tensor_names(dtype, read_bytes):
    array = np.arange(5).astype(dtype)
    kept = Storage(array.view(np.uint8), "UntypedStorage")
    hooks = Called(Named("collections", "OrderedDict"), ())
    arguments = (
        Stored(("storage", Named("torch.storage", "UntypedStorage"), "0", "cpu", array.nbytes)),
        *(1, (4,), (1,), False, hooks, Named("torch", dtype)),
    )
    made = Called(Named("torch._utils", "_rebuild_tensor_v3"), arguments)
    contents = io.BytesIO(archive({"x": made, "y": tensor(np.zeros(2, np.uint8))}))
    with zipfile.ZipFile(contents) as old:  # the storage comes from outside of the writer
        entries = {name: old.read(name) for name in old.namelist()}
    entries["archive/data/0"] = kept.numbers.tobytes()
    entries["archive/data.pkl"] = Writer().pickle({"x": made})
    _same(read_bytes(_zipped(entries)), {"x": array[1:]})


def test_big_endian_archives(read_bytes):
    arrays = _arrays()
    contents = archive({name: tensor(array) for name, array in arrays.items()}, byte_order="big")
    found = read_bytes(contents)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@each_format
def test_windows_on_one_storage(write, read_bytes):
    numbers = np.arange(24, dtype=np.float32)
    kept = Storage(numbers)
    state = {
        "whole": Tensor(kept, 0, (24,), (1,)),
        "transposed": Tensor(kept, 0, (4, 6), (1, 4)),
        "part": Tensor(kept, 7, (2, 3), (8, 2)),
        "one": Tensor(kept, 23, (), ()),
        "none": Tensor(kept, 24, (0, 5), (5, 1)),
    }
    expected = {
        "whole": numbers,
        "transposed": numbers.reshape(6, 4).T,
        "part": np.array([[7, 9, 11], [15, 17, 19]], np.float32),
        "one": np.float32(23),
        "none": np.zeros((0, 5), np.float32),
    }
    _same(read_bytes(write(state)), expected)


@each_format
def test_arrays_are_windows_on_the_file(write, read_bytes):
    array = read_bytes(write({"x": tensor(np.ones((3, 3)))}))["x"]
    assert not array.flags.writeable
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


@each_format
@pytest.mark.parametrize("nest", ["state_dict", "model", "net"])
def test_state_dicts_beside_other_things(write, nest, read_bytes):
    state = {"x": tensor(np.ones(3))}
    whole = {
        "epoch": 3,
        "best": tensor(np.array(0.5)),
        "arch": "resnet",
        "optimizer": {
            "state": {0: {"exp_avg": tensor(np.zeros(3))}},
            "param_groups": [{"lr": 0.1}],
        },
        nest: state,
    }
    _same(read_bytes(write(whole)), {"x": np.ones(3)})


def test_numbers_and_texts_among_tensors_are_passed_over(read_bytes):
    state = {"x": tensor(np.ones(3)), "mask_values": [0, 255], "note": "hello", "n": None}
    _same(read_bytes(archive(state)), {"x": np.ones(3)})


def test_key_chooses_one_of_several(read_bytes):
    whole = {"generator": {"x": tensor(np.ones(3))}, "critic": {"x": tensor(np.zeros(3))}}
    _same(read_bytes(archive(whole), key="critic"), {"x": np.zeros(3)})
    with pytest.raises(ValueError, match=r"several state_dicts, 'generator', 'critic'.*key="):
        read_bytes(archive(whole))
    with pytest.raises(ValueError, match=r"no 'x', but 'generator' \(a dict of 1\), 'critic'"):
        read_bytes(archive(whole), key="x")


def test_a_single_other_dict_needs_no_key(read_bytes):
    _same(read_bytes(archive({"epoch": 1, "unet": {"x": tensor(np.ones(2))}})), {"x": np.ones(2)})


@each_format
def test_parameters_ordered_dicts_and_their_metadata(write, read_bytes):
    array = np.ones((2, 2), np.float32)
    parameter = Called(
        Named("torch._utils", "_rebuild_parameter"),
        (tensor(array), True, Called(Named("collections", "OrderedDict"), ())),
    )
    with_state = Called(
        Named("torch._utils", "_rebuild_parameter_with_state"),
        (tensor(array), True, Called(Named("collections", "OrderedDict"), ()), {"note": 1}),
    )
    of_type = Called(
        Named("torch._tensor", "_rebuild_from_type_v2"),
        (
            Named("torch._utils", "_rebuild_tensor_v2"),
            Named("torch.nn.parameter", "Parameter"),
            rebuilt(tensor(array)).arguments,
            {"note": 1},
        ),
    )
    state = {"a": parameter, "b": with_state, "c": of_type}
    writer = Writer(legacy=write is legacy)
    items = b"".join(writer.code(name) + writer.code(value) for name, value in state.items())
    code = b"ccollections\nOrderedDict\n)R(" + items + b"u"
    code += writer.code({"_metadata": {"": {"version": 1}}}) + b"b"
    _same(read_bytes(_with_code(writer, code, write)), dict.fromkeys("abc", array))


def _with_code(writer, code, write):
    """A file whose pickle is `code`, made by `writer`, which met the storages."""
    contents = write(Raw(code))
    if write is archive:
        with zipfile.ZipFile(io.BytesIO(contents)) as old:
            entries = {name: old.read(name) for name in old.namelist()}
        entries |= {f"archive/data/{s.key}": s.numbers.tobytes() for s in writer.storages}
        return _zipped(entries)
    plain = Writer(legacy=True)
    contents = contents.removesuffix(plain.pickle([]))
    contents += plain.pickle([s.key for s in writer.storages])
    for kept in writer.storages:
        contents += struct.pack("<q", kept.numbers.size) + kept.numbers.tobytes()
    return contents


def _zipped(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, contents in entries.items():
            made.writestr(name, contents)
    return file.getvalue()


def test_harmless_things_beside_weights_are_passed_over(read_bytes):
    dtype = Called(Named("numpy", "dtype"), ("f8", False, True))
    bytes_of = Called(Named("_codecs", "encode"), ("abcdefgh", "latin1"))
    namespace = b"cargparse\nNamespace\n)\x81" + Writer().code({"lr": 0.1}) + b"b"
    whole = {
        "best": Called(Named("numpy.core.multiarray", "scalar"), (dtype, bytes_of)),
        "args": Raw(namespace),
        "milestones": Called(Named("collections", "Counter"), ({30: 1, 60: 1},)),
        "state_dict": {"x": tensor(np.ones(2))},
    }
    _same(read_bytes(archive(whole)), {"x": np.ones(2)})


PLAIN = {
    "nested": {"a": [1, 2.5, (True, None, "text")], "b": {"c": {}}, 3: [[], ()]},
    "numbers": [0, -1, 255, 256, 65536, -(2**31), 2**40, -(2**70), 1e300, float("inf")],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), tuple(range(300))),
    "text": ["", "ü" * 300, "\n'\\"],
    "ordered": OrderedDict([("x", 1), ("y", [2])]),
    "counted": Counter("aabc"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN)
def test_plain_values_as_python_pickles_them(value, protocol):
    found, storages = pickled.interpret(io.BytesIO(pickle.dumps(value, protocol)))
    assert found == value and storages == []


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_shared_stays_shared(protocol):
    inner = [1]
    endless = [inner, inner, {"again": inner}]
    endless.append(endless)
    found, _ = pickled.interpret(io.BytesIO(pickle.dumps(endless, protocol)))
    assert found[0] is found[1] is found[2]["again"] and found[3] is found


def test_ordered_dicts_of_python_2(read_bytes):
    pairs = [["a", tensor(np.ones(2))], ["b", tensor(np.zeros(3))]]
    state = Called(Named("collections", "OrderedDict"), (pairs,))
    _same(read_bytes(legacy(state)), {"a": np.ones(2), "b": np.zeros(3)})


# ---- programs -------------------------------------------------------------------------------


def _text(value):
    return Writer().code(value)


def _hostile(sentinel):
    """Pickles that would leave a file behind, or do other damage, if they were executed."""
    command = _text(f"touch {sentinel}")
    code = _text(f"open({str(sentinel)!r}, 'w')")
    return {
        "reduce": (b"cposix\nsystem\n(" + command + b"tR", r"posix\.system to be imported"),
        "os": (b"cos\nsystem\n(" + command + b"tR", r"os\.system"),
        "windows": (b"cnt\nsystem\n(" + command + b"tR", r"nt\.system"),
        "eval": (b"cbuiltins\neval\n(" + code + b"tR", r"builtins\.eval"),
        "exec": (b"c__builtin__\nexec\n(" + code + b"tR", r"__builtin__\.exec"),
        "stack global": (
            _text("builtins") + _text("eval") + b"\x93(" + code + b"tR",
            r"builtins\.eval",
        ),
        "stack global of no text": (b"K\x01K\x02\x93", "names something by what is no text"),
        "inst": (b"(" + command + b"iposix\nsystem\n", "instruction INST"),
        "obj": (b"(cposix\nsystem\n" + command + b"o", r"posix\.system"),
        "obj of a known name": (b"(ccollections\nOrderedDict\no", "instruction OBJ"),
        "newobj": (b"csubprocess\nPopen\n(" + command + b"t\x81", r"subprocess\.Popen"),
        "newobj of a known name": (b"ctorch._utils\n_rebuild_tensor_v2\n)\x81", "makes an object"),
        "newobj_ex": (b"ctorch\nSize\n)}\x92", "instruction NEWOBJ_EX"),
        "extension": (b"\x82\x01)R", "instruction EXT1|unregistered|damaged"),
        "build of a name": (
            b"ccollections\nOrderedDict\n" + _text({"fromkeys": 1}) + b"b",
            "sets attributes of what is no tensor",
        ),
        "build of a storage type": (
            b"ctorch\nFloatStorage\n" + _text({"__class__": 1}) + b"b",
            "sets attributes",
        ),
        "call of a text": (_text("eval") + b"(" + code + b"tR", "calls what is no function"),
        "call of a storage type": (b"ctorch\nFloatStorage\n)R", r"calls torch\.FloatStorage"),
        "attribute of a known name": (
            _text("torch._utils") + _text("_rebuild_tensor_v2.__globals__") + b"\x93",
            r"_rebuild_tensor_v2\.__globals__",
        ),
        "method of a known name": (
            b"ccollections\nOrderedDict.fromkeys\n",
            r"OrderedDict\.fromkeys",
        ),
        "getattr": (b"cbuiltins\ngetattr\n", r"builtins\.getattr"),
        "partial": (b"cfunctools\npartial\n", r"functools\.partial"),
        "loading": (b"ctorch\nload\n", r"torch\.load"),
        "hub": (b"ctorch.hub\nload\n", r"torch\.hub\.load"),
        "ours": (b"cminidl\nload\n", r"minidl\.load"),
        "numpy": (b"cnumpy.testing._private.utils\nruntests\n", r"numpy\.testing"),
        "rebuild through another": (
            b"ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\n",
            r"posix\.system",
        ),
        "rebuild by calling a text": (
            b"ctorch._tensor\n_rebuild_from_type_v2\n("
            + _text("posix.system")
            + b"N("
            + command
            + b"tNtR",
            "calls what is no function",
        ),
        "rebuild of itself": (
            b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nN)NtR",
            "tensor of a tensor of a tensor",
        ),
        "persistent text": (b"Pposix.system\n", "instruction PERSID"),
        "persistent other": (_text(("code", "x", "0", "cpu", 1)) + b"Q", "no storage"),
        "persistent class": (_text(("module", "x", "file", "code")) + b"Q", "whole model"),
        "persistent short": (_text(("storage", "x")) + b"Q", "no storage"),
        "persistent kind": (_text(("storage", "x", "0", "cpu", 1)) + b"Q", "storage wrongly"),
        "a whole model": (b"ctorch.nn.modules.container\nSequential\n)\x81", "a whole model"),
        "their whole model": (b"cmycode.models\nNet\n)\x81", "whole model or settings"),
        "sparse": (b"ctorch._utils\n_rebuild_sparse_tensor\n", r"a sparse tensor.*to_dense"),
        "quantised": (b"ctorch._utils\n_rebuild_qtensor\n", r"a quantised tensor.*dequantize"),
        "quantised storage": (b"ctorch\nQInt8Storage\n", "a quantised tensor"),
        "float8": (b"ctorch\nfloat8_e4m3fn\n", "8-bit floats"),
        "meta": (b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n", "a tensor without data"),
    }


HOSTILE = list(_hostile(""))


@each_format
@pytest.mark.parametrize("trick", HOSTILE)
def test_programs_are_refused(trick, write, tmp_path, read_bytes):
    sentinel = tmp_path / "executed"
    code, message = _hostile(sentinel)[trick]
    whole = {"state_dict": {"x": tensor(np.ones(2)), "y": Raw(code)}}
    with pytest.raises(ValueError, match=message):
        read_bytes(write(whole))
    assert not sentinel.exists()


def test_the_tricks_would_work_elsewhere(tmp_path):
    """Or the test above would show nothing."""
    sentinel = tmp_path / "executed"
    for trick in ("eval", "stack global"):
        code, _ = _hostile(sentinel)[trick]
        pickle.loads(b"\x80\x04" + code + b".").close()
        assert sentinel.exists()
        sentinel.unlink()


BOMBS = {
    "an index into a long memo": (b"Nr\xff\xff\xff\xff0", "instruction POP"),
    "a memo that is missing": (b"h\x05", "damaged"),
    "a key that takes forever": (
        b"}()" + b"q\x00h\x00\x86" * 60 + b"Nu",
        "neither text nor number",
    ),
    "a key that is a list": (b"}(]Nu", "neither text nor number"),
    "items of no dict": (b"](K\x01Nu", "sets items of what is no dict"),
    "appending to a dict": (b"}K\x01a", "appends to what is no list"),
    "a key without a value": (b"}(K\x01u", "sets items of what is no dict"),
    "a number of any length": (b"\x8b\xff\xff\xff\x7f", "damaged"),
    "a long number": (b"\x8b\x01\x00\x00\x00\x05", "instruction LONG4"),
    "digits without end": (b"I" + b"9" * 5000 + b"\n", "damaged"),
    "a text that is longer than the file": (b"\x8d" + b"\xff" * 7 + b"\x00", "damaged"),
    "a dict of no pairs": (b"ccollections\nOrderedDict\n(](K\x01eteR", "damaged|no pairs"),
    "a dict of a number": (b"ccollections\nOrderedDict\n(K\x01tR", "dict of what is none"),
    "too many arguments": (b"ccollections\nOrderedDict\n(NNNtR", "damaged"),
    "a shape of a list": (b"ctorch\nSize\n(]tR", "shape wrongly"),
    "nothing on the stack": (b"R", "damaged"),
    "no mark": (b"t", "damaged"),
    "an unknown instruction": (b"\xff", "damaged"),
    "two values": (b"NN", "does not end with one value"),
    "a mark left over": (b"N(", "does not end with one value"),
}


@pytest.mark.parametrize("trick", BOMBS)
def test_pickles_that_are_none(trick):
    code, message = BOMBS[trick]
    with pytest.raises(ValueError, match=message):
        pickled.interpret(io.BytesIO(b"\x80\x02" + code + b"."))


def test_pickles_cannot_be_endless(monkeypatch):
    monkeypatch.setattr(pickled, "MOST", 1000)
    fine = b"\x80\x02](" + b"N" * 900 + b"e."
    assert pickled.interpret(io.BytesIO(fine))[0] == [None] * 900
    with pytest.raises(ValueError, match="more than 1000 instructions"):
        pickled.interpret(io.BytesIO(b"\x80\x02](" + b"}" * 2000 + b"e."))


def test_copies_of_copies_do_not_pile_up():
    """A dict named again and again is one dict, not many."""
    ordered = b"ccollections\nOrderedDict\n"
    pairs = b"](](" + _text("k") + b"Neeq\x02"
    code = b"](" + ordered + b"(" + pairs + b"tR" + (ordered + b"(h\x02tR") * 3 + b"e"
    found, _ = pickled.interpret(io.BytesIO(b"\x80\x02" + code + b"."))
    assert found == [{"k": None}, {}, {}, {}]


def test_structures_without_end_are_no_state_dict(read_bytes):
    endless = Raw(b"}q\x00(" + _text("model") + b"h\x00u")
    with pytest.raises(ValueError, match="nested too deep"):
        read_bytes(archive(endless))


@pytest.mark.parametrize(
    "value, message",
    [
        ({}, "no state_dict, but nothing at all"),
        ({"epoch": 3}, r"no state_dict, but 'epoch' \(a int\)"),
        (tensor(np.ones(3)), "holds a single tensor, where a dict"),
        ([tensor(np.ones(3))], "holds a list of 1, where a dict"),
        ({0: tensor(np.ones(3))}, "numbers for names"),
    ],
)
def test_other_things_than_a_state_dict(value, message, read_bytes):
    with pytest.raises(ValueError, match=message):
        read_bytes(archive(value))


# ---- numbers that are not there -------------------------------------------------------------


WRONG = {
    "beyond the storage": ((1, (2, 3), (3, 1)), "beyond its storage"),
    "strides beyond": ((0, (2, 3), (4, 1)), "beyond its storage"),
    "far beyond": ((2**62, (1,), (1,)), "beyond its storage"),
    "huge strides": ((0, (2, 2), (2**62, 1)), "beyond its storage"),
    "a number repeated for ever": ((0, (10**9, 10**9), (0, 0)), "repeats it"),
    "before the storage": ((-1, (2,), (1,)), "natural numbers"),
    "negative strides": ((5, (6,), (-1,)), "natural numbers"),
    "a negative shape": ((0, (-1,), (1,)), "natural numbers"),
    "a shape that is true": ((0, (True,), (1,)), "natural numbers"),
    "a shape of texts": ((0, ("a",), (1,)), "natural numbers"),
    "an offset that is none": ((None, (1,), (1,)), "natural numbers"),
    "a fraction": ((0, (1.5,), (1,)), "natural numbers"),
    "too few strides": ((0, (2, 3), (1,)), "do not fit each other"),
    "too many axes": ((0, (1,) * 100, (1,) * 100), "do not fit each other"),
    "a shape that is a list": ((0, [2, 3], (3, 1)), "describes a tensor wrongly"),
}


@each_format
@pytest.mark.parametrize("trick", WRONG)
def test_windows_outside_of_the_storage(trick, write, read_bytes):
    settings, message = WRONG[trick]
    with pytest.raises(ValueError, match=message):
        read_bytes(write({"x": Tensor(Storage(np.arange(6.0)), *settings)}))


@pytest.mark.parametrize("count", [0, 5, 7, 10**15])
def test_archives_that_lie_about_a_storage(count, read_bytes):
    storage = Storage(np.arange(6.0), count=count)
    with pytest.raises(ValueError, match=f"48 bytes, but is described as {count} numbers of 8"):
        read_bytes(archive({"x": Tensor(storage, 0, (1,), (1,))}))


@pytest.mark.parametrize("count", [0, 5, 7, 10**15])
def test_older_files_that_lie_about_a_storage(count, read_bytes):
    storage = Storage(np.arange(6.0), count=count)
    with pytest.raises(ValueError, match="not as long as it is described"):
        read_bytes(legacy({"x": Tensor(storage, 0, (1,), (1,))}))


@pytest.mark.parametrize("count", [-1, True, 2.0, None])
def test_storages_without_a_count(count, read_bytes):
    identity = ("storage", Named("torch", "FloatStorage"), "0", "cpu", count)
    with pytest.raises(ValueError, match="describes a storage wrongly"):
        read_bytes(archive({"x": Stored(identity)}))


def test_views_of_older_files(read_bytes):
    storage = Storage(np.arange(6.0))
    writer = Writer(legacy=True)

    def viewed(start, length):
        identity = (*writer.identity(storage)[:5], ("view", start, length))
        arguments = (Stored(identity), 1, (2,), (1,))
        return writer.code({"x": Called(Named("torch._utils", "_rebuild_tensor"), arguments)})

    found = read_bytes(_with_code(writer, viewed(2, 3), legacy))
    _same(found, {"x": np.array([3.0, 4.0])})
    with pytest.raises(ValueError, match="view that reaches beyond its storage"):
        read_bytes(_with_code(writer, viewed(4, 3), legacy))
    with pytest.raises(ValueError, match="a tensor reaches beyond"):
        read_bytes(_with_code(writer, viewed(2, 2), legacy))


def test_one_storage_described_in_two_ways(read_bytes):
    array = np.arange(6.0)
    one, other = Storage(array, key="0"), Storage(array, "FloatStorage", key="0")
    state = {"x": Tensor(one, 0, (6,), (1,)), "y": Tensor(other, 0, (6,), (1,))}
    with pytest.raises(ValueError, match="describes a storage in two ways"):
        read_bytes(legacy(state))


def test_archives_without_a_storage(read_bytes):
    contents = _changed(archive({"x": tensor(np.ones(3))}), {"archive/data/0": None})
    with pytest.raises(ValueError, match="has no data/0, which its tensors need"):
        read_bytes(contents)


def _changed(contents, changes, compression=zipfile.ZIP_STORED):
    """The archive with some of its files replaced, or left out."""
    with zipfile.ZipFile(io.BytesIO(contents)) as old:
        entries = {name: old.read(name) for name in old.namelist()} | changes
    kept = {name: value for name, value in entries.items() if value is not None}
    return _zipped(kept, compression)


def test_compressed_archives(read_bytes):
    state = {"x": tensor(np.zeros(1000))}
    with pytest.raises(ValueError, match="is compressed, which"):
        read_bytes(archive(state, compression=zipfile.ZIP_DEFLATED))


def test_archives_of_programs(read_bytes):
    contents = _changed(
        archive({"x": tensor(np.ones(1))}), {"archive/constants.pkl": b"\x80\x02)."}
    )
    with pytest.raises(ValueError, match=r"TorchScript.*save only the tensors"):
        read_bytes(contents)


def test_other_zip_files(read_bytes):
    with pytest.raises(ValueError, match=r"not one of torch\.save"):
        read_bytes(_zipped({"letter.txt": b"hello"}))
    two = _changed(archive({"x": tensor(np.ones(1))}), {"other/data.pkl": b"\x80\x02}."})
    with pytest.raises(ValueError, match=r"not one of torch\.save"):
        read_bytes(two)


def _central(contents, name):
    """Where the central directory describes a file of an archive."""
    at = contents.rindex(name.encode())
    assert contents[at - 46 : at - 42] == b"PK\1\2"
    return at - 46


def test_sums_are_checked(read_bytes):
    array = np.arange(6.0)
    contents = bytearray(archive({"x": tensor(array)}))
    at = contents.index(array.tobytes())
    contents[at] ^= 1
    with pytest.raises(ValueError, match="data/0 is damaged: the checksum differs"):
        read_bytes(bytes(contents))
    # PyTorch writes 0 if it was told not to compute them.
    place = _central(contents, "archive/data/0") + 16
    contents[place : place + 4] = bytes(4)
    assert read_bytes(bytes(contents))["x"].shape == (6,)


@pytest.mark.parametrize("offset", [10**6, 2**32 - 2])
def test_archives_whose_files_lie_outside(offset, read_bytes):
    contents = bytearray(archive({"x": tensor(np.arange(6.0))}))
    place = _central(contents, "archive/data/0") + 42
    contents[place : place + 4] = struct.pack("<I", offset)
    with pytest.raises(ValueError, match="outside of the file|cut off or damaged"):
        read_bytes(bytes(contents))


def test_archives_whose_files_are_elsewhere(read_bytes):
    contents = bytearray(archive({"x": tensor(np.arange(6.0))}))
    place = _central(contents, "archive/data/0") + 42
    contents[place : place + 4] = struct.pack("<I", 5)
    with pytest.raises(ValueError, match="data/0 lies outside of the file"):
        read_bytes(bytes(contents))


def test_archives_whose_files_are_too_long(read_bytes):
    contents = bytearray(archive({"x": tensor(np.arange(6.0))}))
    place = _central(contents, "archive/data/0") + 20
    contents[place : place + 8] = struct.pack("<II", 10**6, 10**6)
    with pytest.raises(ValueError, match="data/0 lies outside of the file"):
        read_bytes(bytes(contents))
    contents[place : place + 8] = struct.pack("<II", 48, 56)
    with pytest.raises(ValueError, match="data/0 is compressed"):
        read_bytes(bytes(contents))


@each_format
def test_files_that_are_cut_off(write, read_bytes):
    contents = write({name: tensor(array) for name, array in _arrays().items()})
    for length in [*range(0, len(contents), 23), len(contents) - 1]:
        with pytest.raises(ValueError, match="read: "):
            read_bytes(contents[:length])


@each_format
def test_files_with_a_wrong_byte(write, read_bytes):
    """They are refused, or hold other numbers: nothing else happens."""
    rng = np.random.default_rng(3)
    contents = write({name: tensor(array) for name, array in _arrays().items()})
    refused = 0
    for place in rng.integers(0, len(contents), 600):
        damaged = bytearray(contents)
        damaged[place] ^= 1 << rng.integers(8)
        try:
            found = read_bytes(bytes(damaged))
            assert all(np.asarray(array).size <= 48 for array in found.values())
        except ValueError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("seed", range(4))
def test_pickles_with_wrong_bytes(seed):
    """Whatever the instructions, the answer is a value or a ValueError."""
    rng = np.random.default_rng(seed)
    code = Writer().pickle({name: tensor(array) for name, array in _arrays().items()})
    refused = 0
    for _ in range(1500):
        damaged = np.frombuffer(code, np.uint8).copy()
        places = rng.integers(0, len(code), rng.integers(1, 4))
        damaged[places] = rng.choice(list(b"(.tRcbQqh]}eu\x81\x93\x85\x8a0N"), places.size)
        try:
            pickled.interpret(io.BytesIO(damaged.tobytes()))
        except ValueError:
            refused += 1
    assert refused > 1000


def test_other_pickles_are_not_read(read_bytes):
    for protocol in (2, 4):
        with pytest.raises(ValueError, match=r"a pickle, but not one of torch\.save.*numpy\.savez"):
            read_bytes(pickle.dumps({"x": 1}, protocol))


def test_older_files_of_big_endian_machines(read_bytes):
    with pytest.raises(ValueError, match="big-endian machine. Save it anew"):
        read_bytes(legacy({"x": tensor(np.ones(2))}, little_endian=False))
