"""Modules: finding parameters, saving them, switching modes, describing, naming errors."""

import copy
import pickle

import numpy as np
import pytest

from minidl import Tensor, nn, optim


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding="same")
        self.norm = nn.BatchNorm2d(channels)
        self.scale = nn.Parameter(np.ones(channels, np.float32))

    def forward(self, x):
        return self.norm(self.conv(x)) * self.scale


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Block(2)
        self.blocks = nn.ModuleList([Block(2), Block(2)])
        self.last = nn.Linear(2, 3)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


NAMES = [
    f"{block}.{name}"
    for block in ("first", "blocks.0", "blocks.1")
    for name in ("scale", "conv.weight", "conv.bias", "norm.weight", "norm.bias")
] + ["last.weight", "last.bias"]


class TestParts:
    def test_parameters_are_named_by_path_in_order(self):
        assert [name for name, _ in Net().named_parameters()] == NAMES

    def test_order_is_that_of_pytorch(self):
        torch = pytest.importorskip("torch")

        class Theirs(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = torch.nn.Conv2d(2, 2, 3)
                self.norm = torch.nn.BatchNorm2d(2)
                self.scale = torch.nn.Parameter(torch.ones(2))

        expected = [name for name, _ in Theirs().named_parameters()]
        assert [name for name, _ in Block(2).named_parameters()] == expected

    def test_parameters_require_gradients(self):
        assert all(p.requires_grad and isinstance(p, Tensor) for p in Net().parameters())

    def test_shared_parameters_count_once(self):
        net = Net()
        net.last.weight = net.last.bias = net.first.scale
        names = [name for name, _ in net.named_parameters()]
        assert names == NAMES[:-2]
        net.again = net.first
        assert [name for name, _ in net.named_parameters()] == names

    def test_buffers(self):
        names = [name for name, _ in Net().named_buffers()]
        assert names[:3] == [
            "first.norm.running_mean", "first.norm.running_var", "first.norm.num_batches_tracked"
        ]  # fmt: skip
        assert len(names) == 9

    def test_modules(self):
        net = Net()
        paths = dict(net.named_modules())
        assert paths[""] is net
        assert paths["blocks.1.norm"] is net.blocks[1].norm
        assert [name for name, _ in net.named_children()] == ["first", "blocks", "last"]
        assert list(net.children()) == [net.first, net.blocks, net.last]
        assert len(list(net.modules())) == 12

    def test_a_module_that_contains_itself_is_walked_once(self):
        net = Net()
        net.first.parent = net
        assert len(list(net.modules())) == 12

    def test_gradients_are_forgotten(self):
        net = Net()
        net(np.ones((2, 4, 4, 2), np.float32)).sum().backward()
        assert all(p.grad is not None for p in net.parameters())
        net.zero_grad()
        assert all(p.grad is None for p in net.parameters())

    def test_register_buffer(self):
        module = nn.Module()
        module.register_buffer("count", 3)
        module.register_buffer("nothing", None)
        assert dict(module.named_buffers()) == {"count": 3}
        module.count = np.array(5)
        assert module.state_dict() == {"count": 5}
        with pytest.raises(ValueError, match="'forward' is not free"):
            module.register_buffer("forward", 3)


class TestMistakes:
    def test_forgotten_super_init(self):
        class Forgetful(nn.Module):
            def __init__(self):
                self.layer = nn.ReLU()

        with pytest.raises(AttributeError, match=r"Forgetful: call super\(\).__init__\(\) first"):
            Forgetful()

    def test_forgotten_super_init_without_parameters(self):
        class Forgetful(nn.Module):
            def __init__(self):
                self.size = 3

            def forward(self, x):
                return x

        with pytest.raises(AttributeError, match=r"Forgetful: call super\(\).__init__\(\) first"):
            Forgetful()(1)
        with pytest.raises(AttributeError, match=r"Forgetful: call super\(\).__init__\(\) first"):
            list(Forgetful().parameters())

    @pytest.mark.parametrize("container", [list, tuple, lambda parts: dict(enumerate(parts))])
    def test_modules_in_a_plain_container(self, container):
        module = nn.Module()
        with pytest.raises(TypeError, match=r"Module\.layers: .* not be trained.*nn\.ModuleList"):
            module.layers = container([nn.ReLU()])

    def test_no_forward(self):
        with pytest.raises(NotImplementedError, match="ModuleList has no forward"):
            nn.ModuleList()(1)

    def test_function_in_place_of_a_module(self):
        with pytest.raises(TypeError, match="Sequential: expected modules, but got <built-in"):
            nn.Sequential(abs)
        with pytest.raises(TypeError, match=r"Sequential\(\*modules\)"):
            nn.Sequential([nn.ReLU()])
        with pytest.raises(TypeError, match=r"ModuleList\(\[\.\.\.\]\)"):
            nn.ModuleList(nn.ReLU())

    def test_errors_name_the_layer(self):
        net = Net()
        net.blocks[1].conv = nn.Conv2d(5, 2, 3)
        with pytest.raises(ValueError, match=r"^blocks\.1\.conv: conv2d: .*takes 5 input channels"):
            net(np.ones((1, 4, 4, 2), np.float32))
        with pytest.raises(ValueError, match=r"^0\.blocks\.1\.conv: conv2d:"):
            nn.Sequential(net)(np.ones((1, 4, 4, 2), np.float32))

    def test_errors_of_the_outermost_module_are_left_alone(self):
        with pytest.raises(ValueError, match=r"^conv2d: "):
            nn.Conv2d(5, 2, 3)(np.ones((1, 4, 4, 2), np.float32))


class TestStateDict:
    def test_round_trip(self):
        source, target = Net(), Net()
        x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
        source(x)  # moves the running statistics
        result = target.load_state_dict(source.state_dict())
        assert result == ([], [])
        np.testing.assert_array_equal(source.eval()(x).numpy(), target.eval()(x).numpy())
        assert target.first.norm.num_batches_tracked == 1

    def test_holds_copies(self):
        net = Net()
        state = net.state_dict()
        assert list(state) == NAMES + [name for name, _ in net.named_buffers()]
        state["last.bias"][:] = 7
        state["first.norm.running_mean"][:] = 7
        assert (net.last.bias.numpy() == 0).all()
        assert (net.first.norm.running_mean == 0).all()

    def test_loading_keeps_tensors_and_dtype(self):
        net = Net()
        optimizer = optim.SGD(net.parameters(), lr=1.0)
        bias, buffer = net.last.bias, net.first.norm.running_mean
        state = {
            name: np.asarray(value, np.float64) + 1 for name, value in Net().state_dict().items()
        }
        net.load_state_dict(state)
        assert net.last.bias is bias
        assert net.first.norm.running_mean is buffer
        assert bias.dtype == np.float32
        bias.grad = np.ones(3, np.float32)
        optimizer.step()
        np.testing.assert_array_equal(net.last.bias.numpy(), 0)

    def test_all_problems_are_reported_together(self):
        net, state = Net(), Net().state_dict()
        del state["last.weight"], state["first.norm.running_var"]
        state["head.weight"] = np.ones(2)
        state["last.bias"] = np.ones(5)
        state["first.scale"] = np.array(["a", "b"])
        before = net.state_dict()
        with pytest.raises(ValueError, match="^Net.load_state_dict: the state does not") as caught:
            net.load_state_dict(state)
        for line in (
            "missing: last.weight (2, 3)",
            "missing: first.norm.running_var (2,)",
            "unexpected: head.weight",
            "other shape: last.bias is (5,), needed is (3,)",
            "not numbers: first.scale has dtype <U1",
            "strict=False",
        ):
            assert line in str(caught.value)
        for name, value in net.state_dict().items():
            np.testing.assert_array_equal(value, before[name])

    def test_not_strict(self):
        net, state = Net(), Net().state_dict()
        del state["last.weight"]
        state["head.weight"] = np.ones(2)
        state["last.bias"] = np.arange(3.0)
        result = net.load_state_dict(state, strict=False)
        assert result.missing_keys == ["last.weight"]
        assert result.unexpected_keys == ["head.weight"]
        np.testing.assert_array_equal(net.last.bias.numpy(), [0, 1, 2])
        state["last.bias"] = np.ones(5)
        with pytest.raises(ValueError, match=r"other shape: last\.bias"):
            net.load_state_dict(state, strict=False)

    @pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies_are_independent(self, clone):
        net = Net()
        net.last.bias.data[:] = 1  # a view has been handed out
        net.first.scale.requires_grad = False
        other = clone(net)
        other.last.bias.data[:] = 2
        np.testing.assert_array_equal(net.last.bias.numpy(), 1)
        np.testing.assert_array_equal(other.last.bias.numpy(), 2)
        assert isinstance(other.last.bias, nn.Parameter)
        assert not other.first.scale.requires_grad


class TestModes:
    def test_train_and_eval_reach_every_part(self):
        net = Net()
        assert net.eval() is net
        assert not any(module.training for module in net.modules())
        assert net.train() is net
        assert all(module.training for module in net.modules())

    def test_apply_visits_parts_first(self):
        net, seen = Net(), []
        assert net.apply(seen.append) is net
        assert seen[-1] is net
        assert seen.index(net.first.conv) < seen.index(net.first)
        assert len(seen) == 12

    def test_to_changes_the_dtype(self):
        net = Net()
        bias = net.last.bias
        assert net.to(np.float64) is net
        assert net.last.bias is bias
        assert {p.dtype for p in net.parameters()} == {np.dtype(np.float64)}
        assert net.first.norm.running_var.dtype == np.float64
        assert net.first.norm.num_batches_tracked.dtype == np.int64
        assert net(np.ones((2, 4, 4, 2))).dtype == np.float64
        with pytest.raises(TypeError, match="Net.to: expected float32 or float64, got int64"):
            net.to(int)


class TestDescription:
    def test_tree_with_shapes(self):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same", bias=False), Block(8), nn.ReLU())
        assert repr(net) == (
            "Sequential()\n"
            "  0: Conv2d(in_channels=3, out_channels=8, kernel_size=(3, 3), padding='same')"
            "  # weight (3, 3, 3, 8)\n"
            "  1: Block()  # scale (8,)\n"
            "    conv: Conv2d(in_channels=8, out_channels=8, kernel_size=(3, 3), padding='same')"
            "  # weight (3, 3, 8, 8), bias (8,)\n"
            "    norm: BatchNorm2d(num_features=8)  # weight (8,), bias (8,)\n"
            "  2: ReLU()"
        )

    def test_parameter(self):
        assert repr(nn.Parameter([1.0])).startswith("Parameter(Tensor([1.]")


class TestContainers:
    def test_sequential_applies_one_after_the_other(self):
        net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        x = np.array([[1.0, -1.0]], np.float32)
        expected = np.maximum(x @ net[0].weight.numpy() + net[0].bias.numpy(), 0)
        np.testing.assert_allclose(net(x).numpy(), expected, rtol=1e-6)

    @pytest.mark.parametrize("make", [nn.ModuleList, lambda parts: nn.Sequential(*parts)])
    def test_is_a_list(self, make):
        parts = [nn.ReLU(), nn.Tanh(), nn.ELU()]
        modules = make(parts)
        assert len(modules) == 3
        assert list(modules) == parts
        assert modules[-1] is parts[2]
        assert list(modules[1:]) == parts[1:]
        assert type(modules[1:]) is type(modules)
        modules[-1] = new = nn.Sigmoid()
        modules.append(parts[0]).extend([parts[1]])
        assert list(modules) == [parts[0], parts[1], new, parts[0], parts[1]]
        with pytest.raises(IndexError):
            modules[5]

    def test_identity_and_flatten(self):
        x = Tensor(np.arange(24.0).reshape(2, 3, 4))
        assert nn.Identity()(x) is x
        assert nn.Flatten()(x).shape == (2, 12)
        assert nn.Flatten(start_dim=0)(x).shape == (24,)
