"""The numbers in a model's table, each under the path by which it is reached from the model: to be shown and compared.

Nothing is made of the table. A part that is reached by several ways is told at the first.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

_MOST_SHOWN: Final = 16
_PIPELINE: Final = "river.compose.pipeline:Pipeline"
_WEIGHTS: Final = "river._river_rust.vectordict:VectorDict"


def parameters(table: list[list[Any]]) -> dict[str, Any]:
    """By path what a model holds: numbers, texts, truth values; of what is large a digest.  Cost O(table).

    >>> from river.linear_model import LogisticRegression
    >>> from streamproc.models.structure import table_of
    >>> model = LogisticRegression()
    >>> model.learn_one({"x": 1.0}, True)
    >>> {path: value for path, value in parameters(table_of(model)).items() if path.startswith("_weights")}
    {'_weights.x': 0.005}
    """
    return dict(_Walk(table).below([0], ""))


class _Walk:
    def __init__(self, table: list[list[Any]]) -> None:
        self.table = table
        self.seen: set[int] = set()

    def below(self, root: Any, path: str) -> Iterator[tuple[str, Any]]:
        """Leaves, depth first; a stack, because trees that were learned may be deep."""
        stack = [(root, path)]
        while stack:
            value, path = stack.pop()
            if not isinstance(value, list):
                yield path or "value", value
                continue
            (number,) = value
            if number in self.seen:
                continue
            self.seen.add(number)
            parts = self.parts(self.table[number])
            if isinstance(parts, dict):
                stack += [(part, f"{path}.{name}" if path else name) for name, part in reversed(parts.items())]
            else:
                yield path or "value", parts

    def parts(self, line: list[Any]) -> Any:
        """What a line holds by name, or its value where it is a leaf."""
        match line:
            case ["list" | "tuple" | "set" | "frozenset" | "deque", items, *_]:
                return {str(n): item for n, item in enumerate(items)}
            case ["dict" | "OrderedDict" | "Counter" | "defaultdict", pairs, *_]:
                return {self.word(name): item for name, item in pairs}
            case ["object", path, arguments, state, items, pairs]:
                return self.object(path, arguments, state, items, pairs)
            case ["array" | "number", dtype, shape, text, order]:
                data = base64.b64decode(text)
                if len(data) <= _MOST_SHOWN * np.dtype(dtype).itemsize:
                    return np.frombuffer(data, np.dtype(dtype)).reshape(shape, order=order).tolist()
                return f"{dtype} {shape} {hashlib.sha256(data).hexdigest()[:12]}"
            case ["name", path]:
                return path
        return f"{line[0]} {hashlib.sha256(repr(line).encode()).hexdigest()[:12]}"

    def object(self, path: str, arguments: Any, state: Any, items: Any, pairs: Any) -> Any:
        if path == _WEIGHTS and arguments and isinstance(arguments[0], list):
            return self.parts(self.table[arguments[0][0]])
        if state is None and not items and not pairs:
            return {str(n): argument for n, argument in enumerate(arguments)} or path
        held = self.parts(self.table[state[0]]) if isinstance(state, list) else {}
        if path == _PIPELINE and isinstance(held, dict) and isinstance(held.get("steps"), list):
            return self.parts(self.table[held["steps"][0]])  # what else it holds is made of its steps
        found = held if isinstance(held, dict) else {"state": state}
        found |= {str(n): item for n, item in enumerate(items or ())}
        return found | {self.word(name): item for name, item in pairs or ()}

    def word(self, name: Any) -> str:
        """A key of a dictionary as text."""
        if not isinstance(name, list):
            return str(name)
        line = self.table[name[0]]
        return ",".join(self.word(item) for item in line[1]) if line[0] == "tuple" else f"#{name[0]}"
