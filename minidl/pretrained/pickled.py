"""Pickles of tensors, read by a machine that can do nothing else.

A pickle is a program for a stack machine. Python's own machine imports what the program names, and
calls it; taming it means closing every way that leads out: ``find_class``, the cache of copyreg's
extensions, attributes set by BUILD, a memo as long as an index says. Here it is the other way
round. The machine below knows the few instructions that lists, dicts, numbers and tensors are made
of, and a name never becomes more than a string: there is no import, no ``getattr``, no ``setattr``
and no call of anything but the functions of described.py. What it does not know, it refuses.

`pickletools.genops` splits the bytes into instructions; it interprets none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from minidl.pretrained.described import (
    INERT,
    Name,
    Refusal,
    Storage,
    StoredTensor,
    Unused,
    call,
    fill,
    named,
    stored,
)

MOST = 5_000_000  # instructions: an empty dict takes a byte in the file, and 64 in memory


def interpret(file: BinaryIO) -> tuple[Any, list[Storage]]:
    """The value of the pickle that begins where `file` stands; behind it stands the file then.

    Parameters
    ----------
    file : binary file
        Or anything with its read, readline and tell.

    Returns
    -------
    value : dict, list, tuple, str, bytes, number, None, StoredTensor or Unused
        However deep; lists and dicts may contain themselves.
    storages : list of Storage
        All it refers to.

    Raises
    ------
    ValueError
        If the pickle is cut off or damaged, or asks for anything else.
    """
    import pickletools

    machine = _Machine()
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
            if count == MOST:
                raise Refusal(f"its pickle has more than {MOST} instructions, which no model needs")
            machine.do(instruction.name, argument)
        return machine.result(), machine.storages
    except Refusal:
        raise
    # An instruction finds the stack empty, a name in the memo missing, a text that is none ...
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"its pickle is cut off or damaged ({error})") from error


class _Machine:
    """The stack, and what each instruction does to it."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under a mark
        self.memo: dict[int, Any] = {}
        self.storages: list[Storage] = []
        self.stopped = False

    def do(self, instruction: str, argument: Any) -> None:
        if instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction]())
        elif instruction in _LITERALS:
            self.stack.append(argument)
        elif instruction in _INSTRUCTIONS:
            _INSTRUCTIONS[instruction](self, argument)
        else:
            raise Refusal(f"it contains the instruction {instruction}, of which no tensor is made")

    def result(self) -> Any:
        if not self.stopped or self.below or len(self.stack) != 1:
            raise ValueError("it does not end with one value")
        return self.stack[0]

    # ---- nothing, or the memo -----------------------------------------------------------------

    def skip(self, argument: Any) -> None:
        pass

    def stop(self, argument: Any) -> None:
        self.stopped = True

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    # ---- lists, tuples, dicts -----------------------------------------------------------------

    def mark(self, argument: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop_mark(self, argument: Any) -> None:
        self.marked()

    def make_tuple(self, argument: Any) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        items = self.stack[-count:]
        if len(items) < count:
            raise ValueError("a tuple of too few values")
        self.stack[-count:] = [tuple(items)]

    def make_list(self, argument: Any) -> None:
        items = self.marked()
        self.stack.append(items)

    def make_dict(self, argument: Any) -> None:
        items = self.marked()
        self.stack.append({})
        fill(self.stack[-1], items)

    def append(self, argument: Any) -> None:
        self.extend([self.stack.pop()])

    def appends(self, argument: Any) -> None:
        self.extend(self.marked())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refusal("it appends to what is no list")
        self.stack[-1].extend(items)

    def set_item(self, argument: Any) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        fill(self.stack[-1], [key, value])

    def set_items(self, argument: Any) -> None:
        items = self.marked()
        fill(self.stack[-1], items)

    # ---- names and calls: nothing is imported, nothing of others called -----------------------

    def name(self, argument: str) -> None:
        self.stack.append(named(*argument.split(" ", 1)))

    def stack_name(self, argument: Any) -> None:
        attribute = self.stack.pop()
        self.stack.append(named(self.stack.pop(), attribute))

    def reduce(self, argument: Any) -> None:
        arguments = self.stack.pop()
        self.stack.append(call(self.stack.pop(), arguments))

    def new(self, argument: Any) -> None:
        self.stack.pop()
        made = self.stack.pop()
        if not isinstance(made, Name) or made.full not in INERT:
            raise Refusal("it makes an object that is no tensor")
        self.stack.append(Unused())

    def build(self, argument: Any) -> None:
        """Attributes of what is on the stack are taken off, and forgotten."""
        self.stack.pop()
        if type(self.stack[-1]) not in (dict, StoredTensor, Unused):
            raise Refusal("it sets attributes of what is no tensor")

    def storage(self, argument: Any) -> None:
        storage = stored(self.stack.pop())
        self.storages.append(storage)
        self.stack.append(storage)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.skip,
    "FRAME": _Machine.skip,
    "STOP": _Machine.stop,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "MARK": _Machine.mark,
    "POP_MARK": _Machine.pop_mark,
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
