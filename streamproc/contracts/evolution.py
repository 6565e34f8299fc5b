"""Whether one version of a contract can read what another one wrote, in the seven modes of schema registries.

`avro.compatibility` judges structure. It knows nothing of meaning, so this module adds it: logical types, decimal
scales, units, roles, and text that must be UTF-8. docs/decisions lists what the library gets wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from streamproc.contracts.avro_json import avro_schema, expand
from streamproc.contracts.avro_schema import MODES
from streamproc.contracts.columns import branch_name, kind_of, logical_of
from streamproc.contracts.model import Contract
from streamproc.errors import IncompatibleEvolution, InputError, did_you_mean

_PROMOTIONS: Final = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
}
"""Writer type to the reader types that take it. Not bytes to string, though Avro has it: bytes need not be UTF-8."""
_CHECKER: Final[Callable[[], ReaderWriterCompatibilityChecker]] = ReaderWriterCompatibilityChecker
_NEW_SUBJECT: Final = "add a field of the new kind and keep the old one, or start a new subject"


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One reason why `reader` cannot read what `writer` wrote: where, why, and how to mend it."""

    reader: str
    writer: str
    path: str
    why: str
    mend: str

    def __str__(self) -> str:
        return f"{self.reader} cannot read {self.writer} at {self.path or 'its top'}: {self.why}; {self.mend}"


def check_evolution(new: Contract, history: Sequence[Contract], *, mode: str | None = None) -> list[Incompatibility]:
    """What is wrong with `new` as the next version after `history` (any order; versions sort it); empty if nothing.

    mode   NONE; BACKWARD (new reads the last), FORWARD (the last reads new), FULL (both); with _TRANSITIVE for all of
           the history. Default: what the new contract declares, BACKWARD_TRANSITIVE unless it says otherwise, because
           a replay reads every version that was ever written.
    Reports are in version order, then field order. Raises InputError for an unknown mode.
    """
    mode = mode or new.compatibility
    if mode not in MODES:
        raise InputError(f"there is no compatibility mode '{mode}'", hint=did_you_mean(mode, MODES))
    kind, _, transitive = mode.partition("_")
    others = sorted(history, key=lambda contract: contract.version)
    found: list[Incompatibility] = []
    for old in others if transitive else others[-1:]:
        if kind in ("BACKWARD", "FULL"):
            found += incompatibilities(new, old)
        if kind in ("FORWARD", "FULL"):
            found += incompatibilities(old, new)
    return found


def require_evolution(new: Contract, history: Sequence[Contract], *, mode: str | None = None) -> None:
    """Raises IncompatibleEvolution with all that `check_evolution` finds."""
    if found := check_evolution(new, history, mode=mode):
        raise IncompatibleEvolution(
            f"{new} breaks {mode or new.compatibility}:\n" + "\n".join(f"  - {item}" for item in found)
        )


def incompatibilities(reader: Contract, writer: Contract) -> list[Incompatibility]:
    """Why `reader` cannot read what `writer` wrote: decoding would fail, or values would change their meaning."""
    wanted, written = expand(reader.avro), expand(writer.avro)
    reasons = [*_differences(wanted, written, ""), *_roles(reader, writer)]
    if not reasons:
        verdict = _CHECKER().get_compatibility(avro_schema(reader.avro), avro_schema(writer.avro))
        if verdict.compatibility is SchemaCompatibilityType.incompatible:
            places, why = ", ".join(sorted(verdict.locations)), ", ".join(sorted(verdict.messages))
            reasons = [_Reason(places, why, "see Avro's schema resolution")]
    return [Incompatibility(str(reader), str(writer), reason.path, reason.why, reason.mend) for reason in reasons]


@dataclass(frozen=True, slots=True)
class _Reason:
    path: str
    why: str
    mend: str


def _roles(reader: Contract, writer: Contract) -> Iterator[_Reason]:
    """A moved key or event time changes partitions, windows and state, though every byte can still be read."""
    old_names = {
        str(item["name"]): _old_name(item, written) for written in [_fields(writer)] for item in _fields(reader)
    }
    event_time = old_names.get(reader.event_time, "")
    if reader.event_time and writer.event_time and event_time != writer.event_time:
        yield _Reason(
            reader.event_time, f"the event time was '{writer.event_time}'", f"keep the role on it, or {_NEW_SUBJECT}"
        )
    key = tuple(old_names.get(name, "") for name in reader.key)
    if reader.key and writer.key and key != writer.key:
        yield _Reason(", ".join(reader.key), f"the key was ({', '.join(writer.key)})", f"keep it, or {_NEW_SUBJECT}")


def _fields(contract: Contract) -> list[Mapping[str, object]]:
    fields = contract.avro["fields"]
    assert isinstance(fields, list)
    return fields


def _old_name(item: Mapping[str, object], written: Sequence[Mapping[str, object]]) -> str:
    """The name under which the writer had a reader's field, or ""."""
    names = {str(field["name"]) for field in written}
    aliases = item.get("aliases", [])
    assert isinstance(aliases, list)
    return next((name for name in (str(item["name"]), *aliases) if name in names), "")


def _differences(reader: object, writer: object, path: str) -> Iterator[_Reason]:
    """Walks two expanded types side by side; the lint bounds the depth."""
    if isinstance(writer, list):
        for branch in writer:
            yield from _differences(reader, branch, path)
        return
    if isinstance(reader, list):
        yield from _branch(reader, writer, path)
        return
    kind, written = kind_of(reader), kind_of(writer)
    if kind != written and kind not in _PROMOTIONS.get(written, ()):
        yield _Reason(path, _mismatch(kind, written), _mend(kind, written))
        return
    meaning, meant = logical_of(reader), logical_of(writer)
    if meaning != meant and (meaning, meant, written) != ("", "uuid", "string"):
        yield _Reason(
            path, f"{meant or written} became {meaning or kind}: the same bytes, another meaning", _NEW_SUBJECT
        )
        return
    if meaning == "decimal":
        yield from _decimal(reader, writer, path)
    if kind == written and isinstance(reader, Mapping) and isinstance(writer, Mapping):
        yield from _COMPLEX.get(kind, _nothing)(reader, writer, path)


def _mismatch(kind: str, written: str) -> str:
    if written == "null":
        return f"null was allowed, {kind} has none"
    if (written, kind) == ("bytes", "string"):
        return "bytes became string, and not all bytes are UTF-8"
    return f"{written} cannot be read as {kind}"


def _mend(kind: str, written: str) -> str:
    return f'keep ["null", "{kind}"]' if written == "null" else _NEW_SUBJECT


def _branch(reader: list[object], writer: object, path: str) -> Iterator[_Reason]:
    """A union reads by one branch, as the codec picks it: the same type by name, by alias, or the first wider."""
    written = kind_of(writer)
    kin = [branch for branch in reader if kind_of(branch) == written and _same_name(branch, writer)]
    kin.sort(key=lambda branch: branch_name(branch) != branch_name(writer))
    wider = [branch for branch in reader if kind_of(branch) in _PROMOTIONS.get(written, ())]
    if kin or wider:
        yield from _differences((kin or wider)[0], writer, path)
    else:
        names = ", ".join(branch_name(branch) for branch in reader)
        why = "null was allowed" if written == "null" else f"no branch of ({names}) reads {branch_name(writer)}"
        yield _Reason(path, why, "keep the branch in the union")


def _same_name(reader: object, writer: object) -> bool:
    """Whether two named types match: by short name as Avro has it, or by an alias of the reader; others always do."""
    if not isinstance(reader, Mapping) or not isinstance(writer, Mapping) or "name" not in writer:
        return True
    aliases = reader.get("aliases", [])
    return branch_name(reader) == branch_name(writer) or writer["name"] in aliases


def _decimal(reader: object, writer: object, path: str) -> Iterator[_Reason]:
    assert isinstance(reader, Mapping)
    assert isinstance(writer, Mapping)
    scale, old_scale = reader.get("scale", 0), writer.get("scale", 0)
    if scale != old_scale:
        yield _Reason(path, f"the decimal scale was {old_scale}, now {scale}: every value would change", _NEW_SUBJECT)
    elif reader["precision"] < writer["precision"]:
        why = f"the decimal had {writer['precision']} digits, now {reader['precision']}"
        yield _Reason(path, why, "keep at least as many digits")


_Complex = Callable[[Mapping[str, object], Mapping[str, object], str], Iterator[_Reason]]


def _nothing(reader: Mapping[str, object], writer: Mapping[str, object], path: str) -> Iterator[_Reason]:
    yield from ()


def _array(reader: Mapping[str, object], writer: Mapping[str, object], path: str) -> Iterator[_Reason]:
    yield from _differences(reader["items"], writer["items"], f"{path}.items")


def _map(reader: Mapping[str, object], writer: Mapping[str, object], path: str) -> Iterator[_Reason]:
    yield from _differences(reader["values"], writer["values"], f"{path}.values")


def _named(reader: Mapping[str, object], writer: Mapping[str, object], path: str) -> Iterator[_Reason]:
    if not _same_name(reader, writer):
        why = f"the type '{writer['name']}' became '{reader['name']}'"
        yield _Reason(path, why, f'add "aliases": ["{writer["name"]}"] to it')


def _fixed(reader: Mapping[str, object], writer: Mapping[str, object], path: str) -> Iterator[_Reason]:
    yield from _named(reader, writer, path)
    if reader["size"] != writer["size"]:
        yield _Reason(path, f"the fixed size was {writer['size']}, now {reader['size']}", _NEW_SUBJECT)


def _enum(reader: Mapping[str, object], writer: Mapping[str, object], path: str) -> Iterator[_Reason]:
    yield from _named(reader, writer, path)
    symbols, old_symbols = reader["symbols"], writer["symbols"]
    assert isinstance(symbols, list)
    assert isinstance(old_symbols, list)
    gone = [symbol for symbol in old_symbols if symbol not in symbols]
    if gone and "default" not in reader:
        mend = 'keep the symbols, or give the enum a "default" symbol'
        yield _Reason(path, f"the enum has no symbol {', '.join(gone)}", mend)


def _record(reader: Mapping[str, object], writer: Mapping[str, object], path: str) -> Iterator[_Reason]:
    yield from _named(reader, writer, path)
    fields, written = reader["fields"], writer["fields"]
    assert isinstance(fields, list)
    assert isinstance(written, list)
    old = {item["name"]: item for item in written}
    for item in fields:
        name = str(item["name"])
        below = f"{path}.{name}" if path else name
        before = _old_name(item, written)
        aliases = item.get("aliases", [])
        assert isinstance(aliases, list)
        if twice := [alias for alias in aliases if alias in old and alias != before]:
            why = f"'{before}' and '{twice[0]}' were both written, and both are its names"
            yield _Reason(below, why, f"drop the alias '{twice[0]}'")
        elif before:
            yield from _differences(item["type"], old[before]["type"], below)
            unit, old_unit = item.get("sp:unit", ""), old[before].get("sp:unit", "")
            if unit and old_unit and unit != old_unit:
                yield _Reason(below, f"the unit was '{old_unit}', now '{unit}': every value would lie", _NEW_SUBJECT)
        elif "default" not in item:
            mend = 'give it a "default", or an alias if it was renamed'
            yield _Reason(below, f"{writer['name']} has no such field, and there is no default", mend)


_COMPLEX: Final[dict[str, _Complex]] = {
    "array": _array,
    "map": _map,
    "fixed": _fixed,
    "enum": _enum,
    "record": _record,
}
