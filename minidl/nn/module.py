"""Module: a part of a network that owns parameters, and knows the parts it is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minidl.tensor import Tensor

# Called, where there is one, as listener(module, forward, ...) in place of forward(...); it must
# return what that does. `minidl.profile` listens here.
listener: Callable[..., Any] | None = None


class Parameter(Tensor):
    """A tensor that is learned: an attribute of a module, found by `Module.parameters`.

    Parameters
    ----------
    data : array_like
        Copied. Floating.
    requires_grad : bool
        Whether it is learned; False freezes it.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)

    def __repr__(self) -> str:
        return f"Parameter({super().__repr__()})"

    def __reduce__(self) -> tuple:
        return type(self), (self.numpy(), self.requires_grad)


class Mismatch(NamedTuple):
    """Names that `Module.load_state_dict` passed over, for ``strict=False``."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A layer, or a network of layers.

    Subclasses create parameters and other modules as attributes in ``__init__``, after
    ``super().__init__()``, and compute in `forward`::

        class Twice(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.conv = nn.Conv2d(channels, channels, 3, padding="same")

            def forward(self, x):
                return self.conv(self.conv(x))

    A name is the path of attributes that leads there, such as ``conv.weight``. A parameter or
    module in several places counts once, under its first name.

    Attributes
    ----------
    training : bool
        Whether layers that behave differently during training, such as dropout, do so. Changed by
        `train` and `eval`.
    absorbs : tuple of classes
        Layers that may be given as `after` when the module is called: it then computes them and
        itself, in one if it can.
    """

    training: bool
    absorbs: tuple[type, ...] = ()

    def __init__(self) -> None:
        self._buffers: list[str] = []
        self.training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes. Call the module itself rather than this."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(self, x).")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`; a ValueError or TypeError from inside names the layer by its path."""
        self._check_initialised()
        try:
            if (heard := listener) is not None:
                return heard(self, self.forward, *args, **kwargs)
            return self.forward(*args, **kwargs)
        except (ValueError, TypeError) as error:
            _name_layer(error, self)
            raise

    # ---- what it is made of -----------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module | Parameter):
            self._check_initialised()
        if isinstance(value, list | tuple | dict):
            parts = value.values() if isinstance(value, dict) else value
            if any(isinstance(part, Module | Parameter) for part in parts):
                raise TypeError(
                    f"{type(self).__name__}.{name}: modules and parameters in a plain "
                    f"{type(value).__name__} would not be found and so not be trained. "
                    "Use nn.ModuleList or nn.Sequential, or one attribute for each."
                )
        super().__setattr__(name, value)

    def _check_initialised(self) -> None:
        if "_buffers" not in vars(self):
            raise AttributeError(
                f"{type(self).__name__}: call super().__init__() first thing in __init__, before "
                "parameters and modules are created."
            )

    def register_buffer(self, name: str, value: Any) -> None:
        """Make the array `value` the attribute `name`, which is saved along with the parameters.

        For state that is not learned, such as running statistics.
        """
        self._check_initialised()
        if not name.isidentifier() or (hasattr(self, name) and name not in self._buffers):
            raise ValueError(
                f"{type(self).__name__}.register_buffer: {name!r} is not free to be used as the "
                "name of an attribute."
            )
        setattr(self, name, None if value is None else np.array(value))
        if name not in self._buffers:
            self._buffers.append(name)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Name and module of each module that is directly an attribute."""
        self._check_initialised()
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        """Modules that are directly attributes, in the order they were created."""
        return (module for _, module in self.named_children())

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Path and module, from this one, whose path is empty, to the smallest part."""
        return self._walk("", set())

    def _walk(self, path: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield path, self
        for name, child in self.named_children():
            yield from child._walk(f"{path}.{name}" if path else name, seen)

    def modules(self) -> Iterator[Module]:
        """All that the module is made of, itself first."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Path and parameter: those of a module, then those of its parts, in order of creation."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once: what an optimiser takes."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        """Path and array of each buffer."""
        for path, module in self.named_modules():
            for name in module._buffers:
                if (value := getattr(module, name)) is not None:
                    yield (f"{path}.{name}" if path else name), value

    def buffers(self) -> Iterator[np.ndarray]:
        """All buffers."""
        return (buffer for _, buffer in self.named_buffers())

    # ---- saving -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by name, as plain arrays."""
        state = {name: parameter.numpy() for name, parameter in self.named_parameters()}
        return state | {name: buffer.copy() for name, buffer in self.named_buffers()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Mismatch:
        """Copy the arrays of `state` into the parameters and buffers of these names.

        Parameters and buffers stay the objects they are, so optimisers go on working, and keep
        their dtype.

        Parameters
        ----------
        state : mapping from name to array
            As `state_dict` gives it.
        strict : bool
            Whether names that are missing in `state`, or unexpected, are an error. Otherwise they
            are passed over.

        Returns
        -------
        Mismatch
            The names passed over: ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        ValueError
            Listing all names that are missing, unexpected or of another shape, before anything
            was changed. Other shapes are an error even if not `strict`.
        """
        parameters, buffers = dict(self.named_parameters()), dict(self.named_buffers())
        arrays = {name: np.asarray(value) for name, value in state.items()}
        shapes = {name: target.shape for name, target in (parameters | buffers).items()}
        mismatch = Mismatch(
            [name for name in shapes if name not in arrays],
            [name for name in arrays if name not in shapes],
        )
        self._check_state(arrays, shapes, mismatch, strict)
        for name, array in arrays.items():
            if name in parameters:
                parameters[name].data[...] = array
            elif name in buffers:
                buffers[name][...] = array
        return mismatch

    def _check_state(self, arrays: dict, shapes: dict, mismatch: Mismatch, strict: bool) -> None:
        problems = []
        if strict:
            problems += [f"missing: {name} {shapes[name]}" for name in mismatch.missing_keys]
            problems += [f"unexpected: {name}" for name in mismatch.unexpected_keys]
        for name in shapes.keys() & arrays.keys():
            if arrays[name].dtype.kind not in "fiub":
                problems.append(f"not numbers: {name} has dtype {arrays[name].dtype}")
            elif arrays[name].shape != shapes[name]:
                problems.append(
                    f"other shape: {name} is {arrays[name].shape}, needed is {shapes[name]}"
                )
        if problems:
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: the state does not fit this model:\n  "
                + "\n  ".join(problems)
                + "\nIt comes from a model built with other arguments."
                + (" strict=False passes over missing and unexpected names." if strict else "")
            )

    # ---- modes ------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Set `training` here and in all parts; returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Behave as for predicting: ``train(False)``."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call `function` with every part, the smallest first, and the module itself at last."""
        for module in reversed(list(self.modules())):
            function(module)
        return self

    def to(self, dtype: Any) -> Module:
        """Make all parameters and floating buffers float32 or float64, and forget gradients."""
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"{type(self).__name__}.to: expected float32 or float64, got {dtype}.")
        for parameter in self.parameters():
            parameter.data = parameter.numpy().astype(dtype)
            parameter.grad = None
        for module in self.modules():
            for name in module._buffers:
                value = getattr(module, name)
                if value is not None and value.dtype.kind == "f":
                    setattr(module, name, value.astype(dtype))
        return self

    # ---- description ------------------------------------------------------------------------

    def __repr__(self) -> str:
        shapes = [
            f"{name} {value.shape}"
            for name, value in vars(self).items()
            if isinstance(value, Parameter)
        ]
        line = f"{type(self).__name__}({', '.join(_settings(self))})"
        if shapes:
            line += "  # " + ", ".join(shapes)
        parts = [
            f"\n  {name}: " + repr(child).replace("\n", "\n  ")
            for name, child in self.named_children()
        ]
        return line + "".join(parts)


def _settings(module: Module) -> list[str]:
    """Arguments of ``__init__`` that were kept as plain attributes and are not the default."""
    settings = []
    for name, argument in inspect.signature(type(module).__init__).parameters.items():
        value = vars(module).get(name)
        plain = isinstance(value, bool | int | float | str | tuple)
        if plain and value != argument.default:
            settings.append(f"{name}={value!r}")
    return settings


def _name_layer(error: Exception, module: Module) -> None:
    """Put the path of the layer that raised `error` in front of its message.

    Called on the way up by every module that the error passes; each of them, knowing a longer
    path, writes the message anew.
    """
    if len(error.args) != 1 or not isinstance(error.args[0], str):
        return
    if not hasattr(error, "_layer"):
        error._layer, error._message = module, error.args[0]  # type: ignore[attr-defined]
    layer, message = error._layer, error._message  # type: ignore[attr-defined]
    path = next((path for path, part in module.named_modules() if part is layer), "")
    if path:
        error.args = (f"{path}: {message}",)


# ---- containers -----------------------------------------------------------------------------


class _Numbered(Module):
    """Modules in a row, whose names are their numbers."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, module: Module) -> _Numbered:
        """Add `module` at the end."""
        if not isinstance(module, Module):
            raise TypeError(
                f"{type(self).__name__}: expected modules, but got {module!r}. A function becomes "
                "one as the forward of a class derived from nn.Module."
            )
        setattr(self, str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> _Numbered:
        """Add all `modules` at the end."""
        for module in modules:
            self.append(module)
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int | slice) -> Any:
        parts = list(self.children())
        if isinstance(index, slice):
            chosen = type(self)()
            chosen.extend(parts[index])
            return chosen
        return parts[index]

    def __setitem__(self, index: int, module: Module) -> None:
        name = range(len(self))[index]
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: expected a module, but got {module!r}.")
        setattr(self, str(name), module)


class ModuleList(_Numbered):
    """A list of modules whose parameters are found.

    Parameters
    ----------
    modules : iterable of Module
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        if isinstance(modules, Module):
            raise TypeError("ModuleList: expected an iterable of modules; write ModuleList([...]).")
        super().__init__(modules)


class Sequential(_Numbered):
    """Modules that are applied one after the other; see `Module.absorbs`.

    Parameters
    ----------
    *modules : Module
    """

    def __init__(self, *modules: Module) -> None:
        if len(modules) == 1 and isinstance(modules[0], list | tuple):
            raise TypeError("Sequential: pass the modules one by one, Sequential(*modules).")
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        """The result of the last module."""
        modules = list(self.children())
        while modules:
            module = modules.pop(0)
            if modules and isinstance(module, modules[0].absorbs):
                x = modules.pop(0)(x, after=module)
            else:
                x = module(x)
        return x


class Identity(Module):
    """Hands on what it is given."""

    def forward(self, x: Any) -> Any:
        """`x` itself."""
        return x


class Flatten(Module):
    """Merges all axes from `start_dim` on into one.

    Parameters
    ----------
    start_dim : int
    """

    def __init__(self, start_dim: int = 1) -> None:
        super().__init__()
        self.start_dim = start_dim

    def forward(self, x: Any) -> Any:
        """`x` of shape (N, ...) as (N, all the rest)."""
        return x.flatten(self.start_dim)
