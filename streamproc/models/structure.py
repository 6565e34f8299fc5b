"""A model as a table of plain values, and back: no pickle, so that reading one runs nothing but River's own code.

The model's objects are walked once. Each becomes a line of the table: its class and its attributes, which are plain
values or point at other lines, so that what two parts share stays shared. River's parts in Rust give their state as
bytes. A reader looks every class up in the list of `allowed` before it makes the first object.
"""

from __future__ import annotations

import base64
import collections
import copyreg
import functools
import random
import sys
import types
from typing import Any, Final, Literal

import numpy as np

from streamproc.errors import StateError
from streamproc.models.allowed import PLAIN, found_at, is_allowed, path_of

Table = list[list[Any]]
_NEW: Final = getattr(copyreg, "__newobj__")  # noqa: B009 (the name is mangled inside a class otherwise)


def table_of(model: Any) -> Table:
    """The model as a table; line 0 is the model.  Raises StateError for what cannot be kept, naming it."""
    return _Writer().table(model)


class _Writer:
    def __init__(self) -> None:
        self.lines: Table = []
        self.known: dict[int, int] = {}
        self.alive: list[Any] = []  # a value that dies would give its address to another
        self.todo: collections.deque[tuple[int, Any]] = collections.deque()

    def table(self, model: Any) -> Table:
        self.value(model)
        while self.todo:
            line, value = self.todo.popleft()
            self.lines[line] = self.line(value)
        return self.lines

    def value(self, value: Any) -> Any:
        """A plain value as it is, any other as the number of its line."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) not in self.known:
            self.known[id(value)] = len(self.lines)
            self.alive.append(value)
            self.lines.append([])
            self.todo.append((self.known[id(value)], value))
        return [self.known[id(value)]]

    def pairs(self, items: Any) -> list[list[Any]]:
        return [[self.value(key), self.value(item)] for key, item in items]

    def line(self, value: Any) -> list[Any]:
        kind = type(value)
        if kind in (list, tuple):
            return [kind.__name__, [self.value(item) for item in value]]
        if kind in (set, frozenset):  # in a fixed order: a set of texts has another one in each process
            return [kind.__name__, [self.value(item) for item in sorted(value, key=repr)]]
        if kind is collections.deque:
            return ["deque", [self.value(item) for item in value], value.maxlen]
        if kind in (dict, collections.OrderedDict, collections.Counter):
            return [kind.__name__, self.pairs(value.items())]
        if kind is collections.defaultdict:
            return ["defaultdict", self.pairs(value.items()), self.value(value.default_factory)]
        if kind is bytes:
            return ["bytes", base64.b64encode(value).decode()]
        return self.special(value, kind)

    def special(self, value: Any, kind: type) -> list[Any]:
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.hasobject:
                raise StateError("a model holds an array of Python objects, which cannot be kept")
            # Products of matrices differ in their last bits between the two orders of memory.
            order: Literal["F", "C"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            text = base64.b64encode(value.tobytes(order)).decode()
            name = "array" if isinstance(value, np.ndarray) else "number"
            return [name, value.dtype.str, list(value.shape), text, order]
        if kind is random.Random:
            version, numbers, gauss = value.getstate()
            return ["random", version, list(numbers), gauss]
        if isinstance(value, np.random.RandomState):
            name, numbers, place, has_gauss, gauss = value.get_state(legacy=True)
            return ["RandomState", str(name), np.asarray(numbers).tolist(), place, has_gauss, gauss]
        if isinstance(value, np.random.Generator):
            return ["Generator", type(value.bit_generator).__name__, self.value(value.bit_generator.state)]
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            return ["name", path_of(value)]
        if isinstance(value, types.MethodType):
            return ["method", self.value(value.__self__), value.__func__.__name__]
        if isinstance(value, functools.partial):
            return ["partial", self.value(value.func), self.value(value.args), self.value(dict(value.keywords))]
        return self.object(value, kind)

    def object(self, value: Any, kind: type) -> list[Any]:
        path = path_of(kind)
        try:
            made = value.__reduce_ex__(2)
        except TypeError as problem:
            raise StateError(f"a model holds a {path}, which cannot be kept: {problem}") from None
        function, arguments, state, items, pairs = (*made, *[None] * 5)[:5]
        if function is kind:  # as River's parts in Rust are
            arguments = (kind, *arguments)
        elif function is not _NEW or arguments[0] is not kind:
            raise StateError(f"a model holds a {path}, which is made in a way that cannot be kept")
        if path.startswith("river.proba.") and isinstance(state, dict) and state.get("seed", 0) is None:
            # Distributions inside of trees have random sources without a seed, and never draw from them.
            fixed = random.Random(0)
            self.alive.append(fixed)
            state = {name: fixed if isinstance(item, random.Random) else item for name, item in state.items()}
        listed = None if items is None else [self.value(item) for item in items]
        paired = None if pairs is None else self.pairs(pairs)
        return ["object", path, [self.value(a) for a in arguments[1:]], self.value(state), listed, paired]


def check_names(table: Table) -> None:
    """Raises StateError if a table names anything that is not on the list; nothing is looked up."""
    for line in table:
        named = line[1] if line and line[0] in ("object", "name") else None
        if named is not None and not (isinstance(named, str) and is_allowed(named)):
            raise StateError(
                f"the saved model names '{named}', which is not on the list of classes that a model may hold",
                hint="use a file that streamproc wrote",
            )


def model_of(table: Table) -> Any:
    """The model of a table.  Every class is judged before anything is made; raises StateError with the reason."""
    check_names(table)
    try:
        return _Reader(table).value([0])
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as problem:
        raise StateError(f"the saved model cannot be read: {type(problem).__name__}: {problem}") from None


_CONTAINERS: Final[dict[str, Any]] = {
    "list": list, "dict": dict, "OrderedDict": collections.OrderedDict, "Counter": collections.Counter, "set": set,
}  # fmt: skip


class _Reader:
    def __init__(self, table: Table) -> None:
        self.table = table
        self.made: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        (number,) = value
        if number not in self.made:
            self.make(number)
        return self.made[number]

    def make(self, number: int) -> None:
        """Makes the object of a line empty, then fills it: its parts may point back at it."""
        line = self.table[number]
        kind = line[0]
        if kind in _CONTAINERS or kind in ("deque", "defaultdict"):
            self.container(number, line, kind)
        elif kind in ("tuple", "frozenset"):
            items = [self.value(item) for item in line[1]]
            self.made[number] = tuple(items) if kind == "tuple" else frozenset(items)
        elif kind == "object":
            self.object(number, line)
        else:
            self.made[number] = self.special(kind, line)

    def container(self, number: int, line: list[Any], kind: str) -> None:
        if kind == "deque":
            made: Any = collections.deque(maxlen=line[2])
        elif kind == "defaultdict":
            made = collections.defaultdict(self.value(line[2]))
        else:
            made = _CONTAINERS[kind]()
        self.made[number] = made
        if kind in ("list", "deque"):
            made.extend(self.value(item) for item in line[1])
        elif kind == "set":
            made.update(self.value(item) for item in line[1])
        else:
            for key, item in line[1]:
                made[self.key(key)] = self.value(item)

    def special(self, kind: str, line: list[Any]) -> Any:
        match kind:
            case "bytes":
                return base64.b64decode(line[1])
            case "array" | "number":
                flat = np.frombuffer(base64.b64decode(line[3]), np.dtype(line[1]))
                array = flat.reshape(line[2], order=line[4])
                return array.copy(line[4]) if kind == "array" else array[()]
            case "random":
                made = random.Random()
                made.setstate((line[1], tuple(line[2]), line[3]))
                return made
            case "RandomState":
                legacy = np.random.RandomState()
                legacy.set_state((line[1], np.array(line[2], np.uint32), *line[3:]))
                return legacy
            case "Generator":
                if line[1] not in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
                    raise StateError(f"the saved model has a random source '{line[1]}' that is not known")
                bits = getattr(np.random, line[1])()
                bits.state = self.value(line[2])
                return np.random.Generator(bits)
            case "name":
                return found_at(line[1])
            case "method":
                owner = self.value(line[1])
                path_of(type(owner))
                return types.MethodType(_function(type(owner), line[2]), owner)
            case "partial":
                function = self.value(line[1])
                if not (isinstance(function, type) and function in PLAIN.values()):
                    named = isinstance(function, type | types.FunctionType | types.BuiltinFunctionType)
                    path_of(function if named else type(getattr(function, "__self__", function)))
                return functools.partial(function, *self.value(line[2]), **self.value(line[3]))
        raise StateError(f"the saved model has a part of unknown kind '{kind}'")

    def object(self, number: int, line: list[Any]) -> None:
        _, path, arguments, state, items, pairs = line
        kind = found_at(path)
        made = kind.__new__(kind, *(self.value(argument) for argument in arguments))
        self.made[number] = made
        held = self.value(state)
        if held is not None:
            if hasattr(made, "__setstate__"):
                made.__setstate__(held)
            else:
                attributes, slots = held if isinstance(held, tuple) and len(held) == 2 else (held, None)
                for name, item in (attributes or {}).items():
                    if hasattr(getattr(kind, name, None), "__set__"):
                        made.__dict__[name] = item
                    else:  # as its own constructor does: a model whose __dict__ was written to is slower by a seventh
                        object.__setattr__(made, name, item)
                for name, item in (slots or {}).items():
                    object.__setattr__(made, name, item)
        for item in items or ():
            made.append(self.value(item))
        for key, item in pairs or ():
            made[self.key(key)] = self.value(item)

    def key(self, value: Any) -> Any:
        """A key as the interpreter holds names of attributes and inputs: one object each, found by identity."""
        return sys.intern(value) if type(value) is str else self.value(value)


def _function(kind: type, name: str) -> types.FunctionType:
    for base in kind.__mro__:
        found = vars(base).get(name)
        if isinstance(found, types.FunctionType):
            return found
    raise StateError(f"the saved model names a method '{name}' that {kind.__name__} does not have")
