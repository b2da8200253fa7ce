"""Summaries: numbers against the networks themselves, and lines that fit."""

import json

import numpy as np
import pytest

import minidl as md
from minidl import functional as F
from minidl import models, nn
from minidl.summary import Summary, summary
from minidl.trace import trace


def arrays_of(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from arrays_of(part)


def owner(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def really_kept(net, shape):
    """Bytes of all arrays that the functions of a recorded forward pass hold on to."""
    x = md.Tensor(np.ones(shape, np.float32))
    waiting, seen, arrays = [net(x)._node], set(), {}
    while waiting:
        node = waiting.pop()
        if node in seen or not hasattr(node, "function"):
            continue
        seen.add(node)
        waiting += [source for source in node.sources if source is not None]
        for value in vars(node.function).values():
            arrays |= {id(owner(array)): owner(array) for array in arrays_of(value)}
    own = [x._storage.array, *(p._storage.array for p in net.parameters())]
    own += list(net.buffers())
    for array in own:
        arrays.pop(id(owner(array)), None)
    return sum(array.nbytes for array in arrays.values())


NETWORKS = {
    "unet": lambda: models.UNet(1, 2, depth=3, root=8),
    "plain unet": lambda: models.UNet(1, 2, depth=3, root=8, batch_norm=False),
    "resnet": lambda: models.ResNet(18, in_channels=1, num_classes=3, width=8),
    "segnet": lambda: models.SegNetBasic(1, 3, width=8),
    "dense": lambda: models.FCDenseNet(1, 3, block_config=(2, 2, 2), growth_rate=4, dropout=0.0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_is_what_recorded_functions_hold(name):
    net = NETWORKS[name]()
    for part in net.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.p = 0.0
    shape = (1, 128, 128, 1)
    assert summary(net, shape).memory == pytest.approx(really_kept(net.train(), shape), rel=0.04)


EACH = {
    "relu": lambda x: F.relu(x),
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "power": lambda x: x**2.0,
    "product": lambda x: x * (x + 1),
    "quotient": lambda x: x / (x + 1),
    "size": lambda x: abs(x),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "clip": lambda x: x.clip(0, 1),
    "leaky": lambda x: F.leaky_relu(x),
    "elu": lambda x: F.elu(x),
    "gelu": lambda x: F.gelu(x),
    "gelu tanh": lambda x: F.gelu(x, "tanh"),
    "softplus": lambda x: F.softplus(x),
    "softmax": lambda x: F.softmax(x),
    "group norm": lambda x: F.group_norm(x, 2),
    "neighbours": lambda x: F.local_response_norm(x, 3),
    "max": lambda x: x.max(axis=1),
    "sum": lambda x: x.sum(axis=1),
    "pool": lambda x: F.max_pool2d(x, 2),
    "mean": lambda x: F.avg_pool2d(x, 2),
    "resize": lambda x: F.interpolate(x, (40, 41), mode="bilinear"),
    "pad": lambda x: F.pad(x, 1),
    "join": lambda x: F.concatenate([x, x + 1]),
    "crop": lambda x: x[:, 1:],
    "matmul": lambda x: x @ x.transpose(0, 1, 3, 2),
}


class Between(nn.Module):
    """An operation between a product with a parameter and a sum."""

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(np.ones(8, np.float32))
        self.function = function

    def forward(self, x):
        return self.function(x + self.weight) + 1


@pytest.mark.parametrize("name", EACH)
def test_memory_of_each_operation(name):
    net, shape = Between(EACH[name]), (1, 32, 32, 8)
    expected = really_kept(net, shape)
    assert summary(net, shape).memory == pytest.approx(expected, rel=0.03, abs=4000)


def test_dropout_is_counted_as_in_training():
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4))
    assert [row.memory for row in summary(net, (10, 4)).rows] == [320, 160, 160, 0]


def test_frozen_layers_keep_nothing():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    for parameter in net.parameters():
        parameter.requires_grad = False
    assert summary(net, (1, 9, 9, 1)).memory == 0


@pytest.mark.parametrize(
    ("layer", "shape", "products"),
    [
        (nn.Conv2d(4, 6, (3, 5), padding="same"), (2, 8, 9, 4), 2 * 8 * 9 * 15 * 4 * 6),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), (1, 8, 9, 4), 6 * 7 * 9 * 2 * 6),
        (nn.Conv2d(4, 4, 3, stride=2, groups=4, padding=1), (1, 8, 8, 4), 4 * 4 * 9 * 4),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 8, 9, 4), 8 * 9 * 4 * 4 * 6),
        (nn.Conv3d(1, 2, 3), (1, 4, 4, 4, 1), 8 * 27 * 2),
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.MaxPool2d(2), (1, 4, 4, 1), 0),
    ],
)
def test_multiply_adds(layer, shape, products):
    assert summary(layer, shape).multiply_adds == products


def test_multiply_adds_of_matrices_and_maps_beside():
    net = lambda x: x @ np.ones((4, 5), np.float32)  # noqa: E731
    assert summary(net, (2, 3, 4)).multiply_adds == 2 * 3 * 5 * 4
    conv = nn.Conv2d(5, 2, 3, padding=1)

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(x, F.concatenate([x, x], axis=-1)[..., :3])

    assert summary(Beside(), (1, 4, 4, 2)).multiply_adds == 16 * 9 * 5 * 2


@pytest.mark.parametrize(("make", "giga"), [(models.vgg16, 15.5), (models.resnet50, 4.1)])
def test_published_multiply_adds(make, giga, monkeypatch):
    """15.5 G for VGG-16, 4.1 G for ResNet-50 (3.8 in the paper, without stride on the 3x3)."""
    for name in ("normal", "uniform"):
        monkeypatch.setattr(nn.init, name, lambda shape, *_, **__: np.zeros(shape, np.float32))
    assert summary(make(), (1, 224, 224, 3)).multiply_adds / 1e9 == pytest.approx(giga, abs=0.05)


@pytest.fixture
def unet():
    return summary(models.UNet(3, 2, depth=3, root=4), (2, 32, 48, 3))


def test_rows_say_what_layers_are(unet):
    rows = {row.path: row for row in unet.rows if row.name}
    conv = rows["down.1.conv1"]
    assert (conv.level, conv.name, conv.kind) == (2, "conv1", "Conv2d 3x3")
    assert (conv.output, conv.parameters) == ((2, 16, 24, 8), 9 * 4 * 8)
    assert conv.field.fields[0].size == 10
    assert conv.leaf and not rows["down.1"].leaf
    assert rows["up.0"].kind == "ConvTranspose2d 2x2 /2"
    assert rows["pool"].output == (2, 8, 12, 8)


def test_sums_are_those_of_what_is_inside(unet):
    net = models.UNet(3, 2, depth=3, root=4)
    assert unet.parameters == unet.rows[0].parameters == sum(p.size for p in net.parameters())
    leaves = [row for row in unet.rows if row.leaf]
    for key in ("parameters", "multiply_adds", "memory"):
        assert getattr(unet, key) == sum(getattr(row, key) for row in leaves), key
    block = next(row for row in unet.rows if row.path == "down.1")
    inside = [row for row in leaves if row.path.startswith("down.1.")]
    assert block.multiply_adds == sum(row.multiply_adds for row in inside) > 0
    assert block.memory == sum(row.memory for row in inside) > 0


def test_what_a_network_does_itself_has_rows():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return F.relu(self.conv(x) + x)

    kinds = [(row.name, row.kind, row.level) for row in summary(Residual(), (1, 4, 4, 2)).rows]
    assert kinds == [
        ("", "Residual", 0), ("conv", "Conv2d 3x3", 1), ("", "add", 1), ("", "relu", 1),
    ]  # fmt: skip


def test_shared_layers_are_counted_once():
    conv = nn.Conv1d(2, 2, 3, padding=1)
    found = summary(nn.Sequential(conv, conv), (1, 5, 2))
    assert found.parameters == found.rows[0].parameters == 14
    assert [row.parameters for row in found.rows[1:]] == [14, 0]
    assert found.multiply_adds == 2 * 5 * 3 * 4


@pytest.mark.parametrize("width", [80, 100, 120])
def test_lines_fit_and_columns_stand_below_each_other(unet, width):
    head, _, titles, *lines = unet.text(width).splitlines()
    assert head == "UNet, input 2 images of 32 × 48 × 3"
    assert titles.split() == [
        "layer", "kind", "output", "parameters", "mult-adds", "sees", "jump", "MB",
    ]  # fmt: skip
    table = lines[: lines.index("")]
    assert all(len(line) <= width for line in [titles, *table, *lines])
    assert len(table) == len([row for row in unet.rows if row.level])
    end = titles.index("output") + len("output")
    assert all(line[end - 1] != " " and line[end : end + 2] in ("", "  ") for line in table)


def test_long_names_are_cut():
    layer = nn.Conv2d(1, 1, 3, stride=2, dilation=3, padding=4)
    assert summary(layer, (1, 9, 9, 1)).rows[0].kind == "Conv2d 3x3 /2 d3"
    deep = nn.Sequential(*[nn.Sequential(nn.Sequential(nn.ReLU()))] * 2)
    assert all(len(line) <= 80 for line in summary(deep, (1, 10**5, 10**5, 1024)).text(80).split())


def test_depth_folds_layers(unet):
    folded = summary(models.UNet(3, 2, depth=3, root=4), (2, 32, 48, 3), depth=1)
    assert folded.parameters == unet.parameters
    lines = folded.text(100).splitlines()
    assert not any("conv1" in line for line in lines)
    block = next(line for line in lines if line.startswith("down.1"))
    assert "DoubleConv" in block and "896" in block
    with pytest.raises(ValueError, match="summary: depth must be 1 or more, but is 0"):
        summary(nn.ReLU(), (1, 2), depth=0)


def test_totals_in_words(unet):
    words = unet.text(100).splitlines()[-2:]
    assert words[0].startswith(f"{unet.parameters:,} parameters, ")
    assert words[0].endswith(" M multiply-adds, each output sees 44 pixels")
    assert words[1].startswith("training on 2 images: ")


def test_unknown_operations_are_question_marks():
    class Own(md.Function):
        def forward(self, x):
            return x + 1

        def backward(self, gy):
            return (gy,)

    found = summary(lambda x: md.apply(Own(), x), (1, 4, 1))
    assert found.rows[0].field is None
    assert "each output" not in str(found)


def test_fields_that_differ_in_words():
    net = nn.Sequential(nn.Conv2d(1, 1, (3, 5)), nn.ConvTranspose2d(1, 1, 3, stride=2))
    lines = summary(net, (1, 9, 9, 1)).text().splitlines()
    assert lines[3].split()[-3:-1] == ["3x5", "1"]
    assert "3-4x5-6" in lines[4]
    irregular = lambda x: F.interpolate(F.avg_pool1d(x, 2), (9,)) + x  # noqa: E731
    assert "each output sees ≤3 pixels" in str(summary(irregular, (1, 9, 1)))


def test_as_json(unet):
    data = json.loads(json.dumps(unet.to_dict()))
    assert data["input"] == [2, 32, 48, 3]
    assert len(data["rows"]) == len(unet.rows)
    row = data["rows"][2]
    assert (row["path"], row["field"], row["jump"]) == ("down.0.conv1", [[3], [3]], ["1", "1"])


def test_is_found_in_the_package():
    assert isinstance(md.summary(nn.ReLU(), (1, 2, 2, 1)), Summary)


def test_nothing_that_depends_on_the_input():
    with pytest.raises(ValueError, match="summary: .* returns nothing that depends on its input"):
        summary(lambda x: None, (1, 2))


def test_trace_is_kept_for_drawing(unet):
    assert unet.trace.input.shape == trace(nn.ReLU(), (2, 32, 48, 3)).input.shape
