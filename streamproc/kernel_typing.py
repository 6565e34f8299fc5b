"""Which of Numba's functions an operation of a kernel is: asked once for each combination of types.

For each `a + b` Numba tries all that it knows of `+`, for sets, texts and dates too, and compares the settings of the
compiler word for word at each try: most of what finding the types of a kernel takes. Nearly all of our operations are
on numbers and arrays, of which there are few combinations; what was found for one holds for the next.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined,misc"
# (Numba's own classes have no types)

from __future__ import annotations

import operator
from types import MappingProxyType
from typing import Any, Final

from numba.core import types
from numba.core.compiler import Flags

_types: Any = types
_PLAIN: Final[Any] = (_types.Number, _types.Boolean, _types.NoneType, _types.SliceType, _types.Array)


class Settings(Flags):
    """A compiler's settings that nobody can change: equal ones are one object, and their hash is known."""

    def __init__(self, flags: Any) -> None:
        super().__init__(flags)
        self.hash: int = super().__hash__()
        self._values: Any = MappingProxyType(dict(self._values))

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other or bool(super().__eq__(other))

    def copy(self) -> Any:
        """Settings that can be changed."""
        return Flags(self)


class Given(Flags):
    """What a compiler gets as its settings: its copy, which Numba compares and looks up from then on, is settled."""

    def copy(self) -> Settings:
        """The one object of settings equal to these."""
        return settled(self)


_SETTINGS: Final[dict[str, Settings]] = {}
_FOUND: Final[dict[Any, Any]] = {}


def settled(flags: Any) -> Settings:
    """The one object of settings equal to these."""
    key = str(flags._summary_args())  # What differs from the defaults; `summary` has the name of the class too.
    if key not in _SETTINGS:
        _SETTINGS[key] = Settings(flags)
    return _SETTINGS[key]


class KnownOperations:
    """Numba's typing context, asked for an operation on plain types once."""

    def __init__(self, context: Any, settings: Settings) -> None:
        self._context = context
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        """The signature of a function for these types."""
        if kws or not isinstance(func, _types.Function) or not all(map(_is_plain, args)):
            return self._context.resolve_function_type(func, args, kws)
        key = (func, args, self._settings)
        found = _FOUND.get(key)
        if found is None:
            found = self._context.resolve_function_type(func, args, kws)
            if found is not None:
                _FOUND[key] = found
        return found

    def resolve_setitem(self, target: Any, index: Any, value: Any) -> Any:
        """The signature of `target[index] = value`."""
        setting = self._context.resolve_value_type(operator.setitem)
        return self.resolve_function_type(setting, (target, index, value), {})


def _is_plain(kind: Any) -> bool:
    if isinstance(kind, _types.BaseTuple):
        return all(map(_is_plain, kind))
    return isinstance(kind, _PLAIN)
