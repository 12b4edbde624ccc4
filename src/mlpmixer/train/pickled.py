"""Parser of pickles as data: nothing in them is imported, called or hashed.

A pickle is a program, and Python's own reader runs it. This one goes through its steps and builds
numbers, texts, tuples and lists; a class or function stays a name, and a call stays that name with its arguments. So it
takes time and memory in proportion to the pickle's length, whoever wrote it.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any


class Name(str):
    """A class or a function: its module, a blank, its name there."""

    __slots__ = ()


class Pairs(list[tuple[Any, Any]]):
    """A dictionary, in the order in which it was filled."""

    __slots__ = ()


@dataclass
class Call:
    """A call that the pickle asks for: function, arguments, and the state that would be set afterwards."""

    function: Any
    arguments: Any
    state: Any = None


PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINUNICODE", "BINUNICODE"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": Pairs}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUT, GET = ("MEMOIZE", "BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")


def parse(content: bytes) -> Any:
    """The object that a pickle describes.

    Raises:
        ValueError: It is cut short, or has an opcode that no record of numbers and names needs.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        begin = marks.pop()
        parts = stack[begin:]
        del stack[begin:]
        return parts

    try:
        for step, argument, _ in pickletools.genops(content):
            name = step.name
            if name in PUT:
                memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            elif name in GET:
                stack.append(memo[argument])
            elif name in PLAIN:
                stack.append(argument)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in EMPTY:
                stack.append(EMPTY[name]())
            elif name in TUPLES:
                parts = stack[-TUPLES[name] :]
                del stack[-TUPLES[name] :]
                stack.append(tuple(parts))
            elif name == "MARK":
                marks.append(len(stack))
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name in ("APPEND", "APPENDS"):
                parts = since_mark() if name == "APPENDS" else [stack.pop()]
                _required(stack[-1], list).extend(parts)
            elif name in ("SETITEM", "SETITEMS"):
                parts = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                _required(stack[-1], Pairs).extend(zip(parts[::2], parts[1::2], strict=True))
            elif name == "GLOBAL":
                stack.append(Name(argument))
            elif name == "STACK_GLOBAL":
                what, module = stack.pop(), stack.pop()
                stack.append(Name(f"{_required(module, str)} {_required(what, str)}"))
            elif name in ("REDUCE", "NEWOBJ"):
                arguments = stack.pop()
                stack.append(Call(stack.pop(), arguments))
            elif name == "BUILD":
                state = stack.pop()
                _required(stack[-1], Call).state = state
            elif name == "BINPERSID":
                stack.append(Call(Name("persistent"), stack.pop()))
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"a pickle with the step {name}")
    except (IndexError, KeyError) as error:
        raise ValueError("a pickle that takes what is not there") from error
    raise ValueError("a pickle without an end")


def _required(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a pickle that takes a {type(value).__name__} for a {kind.__name__}")
    return value
