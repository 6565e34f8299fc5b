"""Where the checker says no, there is a record that shows why: written by the old schema, the new one cannot read it,
or reads something else. fastavro, which the checker does not know, writes and reads.

A change is put anywhere into a record: in a field of its own, of a record inside, in an array, a map or a union.
"""

from __future__ import annotations

import ast
import inspect
import io
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamproc.contracts import evolution
from streamproc.contracts.avro_schema import contract_of_avro
from streamproc.contracts.evolution import check_evolution, incompatibilities

Node = Any
Change = tuple[Node, Node, Any]
"""The type before, the type after, and a value of the first that shows what is wrong."""
RELAXED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(), "int": st.integers(-(2**31), 2**31 - 1), "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32, allow_nan=False), "double": st.floats(allow_nan=False),
    "bytes": st.binary(max_size=8), "string": st.text(max_size=8),
}  # fmt: skip
WIDER = {"int": ("long", "float", "double"), "long": ("float", "double"), "float": ("double",), "string": ("bytes",)}
"""Promotions of the Avro specification, written down here again; bytes to string is a case of its own."""
NO_TEXT = st.binary(min_size=1, max_size=6).map(lambda some: some + b"\xff")
MOMENTS = st.integers(631_152_000, 2_524_608_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
TIME: dict[str, Node] = {
    f"{local}{unit}": {"type": "long", "logicalType": f"{local}timestamp-{unit}"}
    for local in ("", "local-") for unit in ("millis", "micros")
}  # fmt: skip


@st.composite
def other_type(draw: st.DrawFn) -> Change:
    allowed = {(a, b) for a in VALUES for b in (a, *WIDER.get(a, ()))} | {("bytes", "string")}
    pairs = [(a, b) for a in VALUES for b in VALUES if (a, b) not in allowed]
    before, after = draw(st.sampled_from(pairs))
    return before, after, draw(VALUES[before])


@st.composite
def other_shape(draw: st.DrawFn) -> Change:
    before = draw(st.sampled_from(["long", {"type": "array", "items": "long"}, {"type": "map", "values": "long"}]))
    after = draw(st.sampled_from([one for one in ({"type": "array", "items": "long"}, {"type": "map", "values": "long"},
                                                  "string") if one != before]))  # fmt: skip
    return before, after, 7 if before == "long" else [7] if before["type"] == "array" else {"k": 7}


@st.composite
def null_goes(draw: st.DrawFn) -> Change:
    kind = draw(st.sampled_from(sorted(VALUES)))
    return ["null", kind], draw(st.sampled_from([kind, [kind]])), None


@st.composite
def branch_goes(draw: st.DrawFn) -> Change:
    gone, stays = draw(st.sampled_from([("string", "long"), ("boolean", "string"), ("double", "boolean")]))
    return ["null", stays, gone], ["null", stays], draw(VALUES[gone])


@st.composite
def bytes_become_text(draw: st.DrawFn) -> Change:
    return "bytes", "string", draw(NO_TEXT)


@st.composite
def other_meaning(draw: st.DrawFn) -> Change:
    day = {"type": "int", "logicalType": "date"}
    clock = {"type": "int", "logicalType": "time-millis"}
    before, after = draw(st.permutations([*TIME.values(), "long"]))[:2]
    if draw(st.booleans()):
        before, after = draw(st.permutations([day, clock, "int"]))[:2]
        number = draw(st.integers(1, 20_000))
        return before, after, number if before == "int" else _of_int(before, number)
    if before == "long":
        return before, after, draw(st.integers(1, 10**12))
    local = before["logicalType"].startswith("local-")
    at = draw(MOMENTS)
    return before, after, at.replace(tzinfo=None) if local else at


def _of_int(node: Node, number: int) -> Any:
    if node["logicalType"] == "date":
        return date.fromordinal(719_163 + number)
    return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=number)).time()


@st.composite
def text_becomes_uuid(draw: st.DrawFn) -> Change:
    return "string", {"type": "string", "logicalType": "uuid"}, draw(st.text("xyz", max_size=6))


def decimal(precision: int, scale: int) -> Node:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


@st.composite
def other_scale(draw: st.DrawFn) -> Change:
    before, after = draw(st.permutations(range(4)))[:2]
    return decimal(9, before), decimal(9, after), Decimal(draw(st.integers(1, 10**6))).scaleb(-before)


@st.composite
def fewer_digits(draw: st.DrawFn) -> Change:
    digits = draw(st.integers(3, 8))
    number = draw(st.integers(10 ** (digits - 1), 10**digits - 1).filter(lambda n: n % 10 not in (0,)))
    return decimal(digits, 2), decimal(draw(st.integers(2, digits - 1)), 2), Decimal(number).scaleb(-2)


NAMED: dict[str, tuple[dict[str, Any], Any]] = {
    "enum": ({"type": "enum", "symbols": ["A", "B"]}, "A"), "fixed": ({"type": "fixed", "size": 2}, b"ab"),
    "record": ({"type": "record", "fields": [{"name": "in", "type": "long"}]}, {"in": 1}),
}  # fmt: skip


@st.composite
def other_name(draw: st.DrawFn) -> Change:
    node, value = NAMED[draw(st.sampled_from(sorted(NAMED)))]
    return {**node, "name": "before"}, {**node, "name": "after"}, value


@st.composite
def other_size(draw: st.DrawFn) -> Change:
    before, after = draw(st.permutations(range(1, 6)))[:2]
    made = [{"type": "fixed", "name": "code", "size": size} for size in (before, after)]
    return made[0], made[1], draw(st.binary(min_size=before, max_size=before))


@st.composite
def symbol_goes(draw: st.DrawFn) -> Change:
    symbols = draw(st.permutations("ABCD"))
    made = [{"type": "enum", "name": "kind", "symbols": some} for some in (symbols, symbols[1:])]
    return made[0], made[1], symbols[0]


@st.composite
def field_without_default(draw: st.DrawFn) -> Change:
    fields = [{"name": "in", "type": "long"}]
    more = {"name": "new", "type": draw(st.sampled_from(sorted(VALUES)))}
    wide = draw(st.permutations([*fields, more]))
    made = [{"type": "record", "name": "inner", "fields": some} for some in (fields, wide)]
    return made[0], made[1], {"in": draw(VALUES["long"])}


@st.composite
def one_field_for_two(draw: st.DrawFn) -> Change:
    names = draw(st.permutations(["a", "b"]))
    a, b = draw(st.integers(0, 99)), draw(st.integers(100, 199))
    before = {"type": "record", "name": "inner", "fields": [{"name": name, "type": "long"} for name in names]}
    after = {"type": "record", "name": "inner", "fields": [{"name": "a", "type": "long", "aliases": ["b"]}]}
    return before, after, {"a": a, "b": b}


KINDS: dict[str, tuple[Callable[[], st.SearchStrategy[Change]], str]] = {
    "another type": (other_type, "cannot be read as"), "another shape": (other_shape, "cannot be read as"),
    "null is gone": (null_goes, "null was allowed"), "a branch is gone": (branch_goes, "no branch of"),
    "bytes become text": (bytes_become_text, "not all bytes are UTF-8"),
    "another meaning": (other_meaning, "the same bytes, another meaning"),
    "text becomes a uuid": (text_becomes_uuid, "the same bytes, another meaning"),
    "another scale": (other_scale, "the decimal scale was"), "fewer digits": (fewer_digits, "the decimal had"),
    "another name": (other_name, "the type 'before' became 'after'"),
    "another size": (other_size, "the fixed size was"),
    "a symbol is gone": (symbol_goes, "the enum has no symbol"),
    "a field without default": (field_without_default, "there is no default"),
    "one field for two": (one_field_for_two, "were both written"),
}  # fmt: skip


@st.composite
def somewhere(draw: st.DrawFn, change: Change) -> Change:
    """The change somewhere inside of a record, beside other fields."""
    before, after, value = change
    for depth in range(draw(st.integers(0, 2))):
        where = draw(st.sampled_from(["record", "array", "map"]))
        if where == "record":
            before, after = (
                {"type": "record", "name": f"outer{depth}", "fields": [{"name": "x", "type": node}]}
                for node in (before, after)
            )
            value = {"x": value}
        else:
            inner = {"array": "items", "map": "values"}[where]
            before, after = ({"type": where, inner: node} for node in (before, after))
            value = [value] if where == "array" else {"k": value}
    return before, after, value


def schema(node: Node, *, first: bool) -> dict[str, Any]:
    fields = [{"name": "it", "type": node}]
    beside = [{"name": "n", "type": "long"}]
    return {"type": "record", "name": "top", "fields": fields + beside if first else beside + fields}


def shown(before: dict[str, Any], after: dict[str, Any], record: dict[str, Any]) -> str:
    """How the new schema fails on a record of the old one, or "" where it reads just what was written."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(before), record)
    try:
        # Whoever resolves: by both schemas.
        resolved = fastavro.schemaless_reader(io.BytesIO(buffer.getvalue()), before, after)
        if resolved != record:
            return f"{record} is read as {resolved}"
        # fastavro takes the meaning of a number from the writer. Whoever goes by the new contract finds another one.
        meant = fastavro.schemaless_reader(io.BytesIO(buffer.getvalue()), after)
    except (fastavro.read.SchemaResolutionError, ArithmeticError, ValueError, KeyError, EOFError) as problem:
        return f"{type(problem).__name__}: {problem}"
    return "" if meant == record else f"{record} means {meant}"


@pytest.mark.parametrize("kind", KINDS)
@RELAXED
@given(drawn=st.data())
def test_a_refused_change_has_a_record_that_cannot_be_read_or_is_read_otherwise(
    kind: str, drawn: st.DataObject
) -> None:
    made, why = KINDS[kind]
    before, after, value = drawn.draw(somewhere(drawn.draw(made())))
    first = drawn.draw(st.booleans())
    old, new = schema(before, first=first), schema(after, first=first)
    found = incompatibilities(contract_of_avro(new), contract_of_avro(old))
    assert [item for item in found if why in item.why], found
    assert shown(old, new, {"it": value, "n": 5})
    # And what did not change reads as it was: the record alone is not to blame.
    assert shown(old, old, {"it": value, "n": 5}) == ""


AT = {"type": "long", "logicalType": "timestamp-micros"}


def paid(unit: str = "EUR", event_time: str = "at", key: str = "card") -> dict[str, Any]:
    roles = {event_time: {"sp:role": "event_time"}, key: {"sp:role": "key"}, "amount": {"sp:unit": unit}}
    types = {"amount": "long", "card": "string", "shop": "string", "at": AT, "booked": AT}
    fields = [{"name": name, "type": node, **roles.get(name, {})} for name, node in types.items()]
    return {"type": "record", "name": "paid", "sp:version": 1, "fields": fields}


@RELAXED
@given(
    changed=st.sampled_from([{"unit": "USD"}, {"event_time": "booked"}, {"key": "shop"}]),
    record=st.fixed_dictionaries({"amount": st.integers(1, 10**9), "card": st.text("ab", max_size=4),
                                  "shop": st.text("cd", min_size=1, max_size=4), "at": MOMENTS, "booked": MOMENTS}),
)  # fmt: skip
def test_a_refused_change_of_meaning_has_a_record_that_says_something_else(
    changed: dict[str, str], record: dict[str, Any]
) -> None:
    """Every byte is read as it was, and yet the amount, the moment or the key of the record is another one."""
    record["booked"] += timedelta(days=40_000)
    old, new = paid(), paid(**changed)
    before, after = contract_of_avro(old), contract_of_avro(new)
    (item,) = incompatibilities(after, before)
    wanted = {"unit": "every value would lie", "event_time": "the event time was", "key": "the key was"}
    assert wanted[next(iter(changed))] in item.why
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(old), record)
    read = fastavro.schemaless_reader(io.BytesIO(buffer.getvalue()), old, new)
    assert read == record
    said = [
        (f"{read['amount']} {contract.schema['amount'].unit}", read[contract.event_time], read[contract.key[0]])
        for contract in (before, after)
    ]
    assert said[0] != said[1]


@pytest.mark.parametrize("mode", ["BACKWARD", "FORWARD", "FULL", "NONE"])
def test_a_mode_refuses_where_its_own_direction_has_a_counter_example(mode: str) -> None:
    """A field that comes without a default hurts who reads old records, one that goes hurts who reads new ones."""
    narrow = {"type": "record", "name": "top", "fields": [{"name": "n", "type": "long"}]}
    wide = {**narrow, "fields": [*narrow["fields"], {"name": "m", "type": "long"}]}
    one, two = {"n": 1}, {"n": 1, "m": 2}
    for old, new, record, more in ((narrow, wide, one, two), (wide, narrow, two, one)):
        backward = "Error" in shown(old, new, record)
        forward = "Error" in shown(new, old, more)
        contracts = [contract_of_avro({**node, "sp:version": n}) for n, node in enumerate((old, new), 1)]
        refused = bool(check_evolution(contracts[1], contracts[:1], mode=mode))
        assert refused == {"BACKWARD": backward, "FORWARD": forward, "FULL": backward or forward, "NONE": False}[mode]


def test_no_kind_of_refusal_is_without_a_counter_example() -> None:
    """Each place at which the checker makes a reason of its own is reached by a kind of change above.

    What it takes over from Avro's library is that one's reason, and is reached by none of them.
    """
    made = [node for node in ast.walk(ast.parse(inspect.getsource(evolution))) if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name) and node.func.id == "_Reason"]  # fmt: skip
    lines = {node.lineno for node in made if "see Avro's schema resolution" not in ast.unparse(node)}
    assert len(lines) == len(made) - 1
    reached: set[int] = set()
    own = evolution._Reason

    def noted(*args: str) -> Any:
        reached.add(inspect.stack()[1].lineno)
        return own(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evolution, "_Reason", noted)
        for before, after in (*((schema(b, first=True), schema(a, first=True)) for b, a in EXAMPLES),
                              *((paid(), paid(**one)) for one in ({"unit": "USD"}, {"event_time": "booked"},
                                                                  {"key": "shop"}))):  # fmt: skip
            assert incompatibilities(contract_of_avro(after), contract_of_avro(before))
    assert lines - reached == set(), "a kind of refusal that no counter-example stands behind"


def _example(made: Callable[[], st.SearchStrategy[Change]]) -> tuple[Node, Node]:
    found: list[Change] = []

    @settings(max_examples=1, database=None, derandomize=True, deadline=None)
    @given(made())
    def one(change: Change) -> None:
        found.append(change)

    one()
    return found[0][0], found[0][1]


EXAMPLES = [_example(made) for made, _ in KINDS.values()]
