"""Which edits of a contract pass in which mode, and what a person is told about the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamproc.contracts.avro_schema import MODES, parse_contract
from streamproc.contracts.evolution import check_evolution, incompatibilities, require_evolution
from streamproc.contracts.model import Contract
from streamproc.errors import IncompatibleEvolution, InputError

MICROS = {"type": "long", "logicalType": "timestamp-micros"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
UUID = {"type": "string", "logicalType": "uuid"}
CENTS = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
NEW = {"default": None}


def version(number: int, *fields: dict[str, Any], **attributes: Any) -> Contract:
    renamed = {key.replace("sp_", "sp:", 1): value for key, value in attributes.items()}
    record = {"type": "record", "name": "pay", "namespace": "shop", "sp:version": number, "fields": fields}
    return parse_contract(json.dumps(record | renamed))


def field(name: str, kind: Any, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **{key.replace("sp_", "sp:", 1): value for key, value in attributes.items()}}


def enum(*symbols: str, **attributes: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "kind", "symbols": list(symbols), **attributes}


def reads(new: Any, old: Any) -> bool:
    """Whether a field of the new type reads data of the old type."""
    return not incompatibilities(version(2, field("x", new)), version(1, field("x", old)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int", "long"), ("int", "float"), ("int", "double"), ("long", "float"), ("long", "double"),
        ("float", "double"),
        ("string", "bytes"), (UUID, "string"), ("int", ["null", "long"]), (["null", "int"], ["double", "null"]),
        (enum("A"), enum("A", "B")), (MICROS, ["null", MICROS]),
        (CENTS, {**CENTS, "precision": 12}), ({"type": "array", "items": "int"}, {"type": "array", "items": "long"}),
        (["int", "string"], ["null", "string", "long"]),
        (["long", {"type": "int", "logicalType": "date"}], ["long", {"type": "int", "logicalType": "date"}]),
    ],
)  # fmt: skip
def test_wider_types_read_narrower_ones_and_not_the_reverse(old: Any, new: Any) -> None:
    assert reads(new, old)
    assert old == new or not reads(old, new)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (MILLIS, MICROS, "timestamp-millis became timestamp-micros"),
        ("long", MICROS, "long became timestamp-micros"),
        (MICROS, "long", "timestamp-micros became long"),
        (
            {"type": "int", "logicalType": "time-millis"},
            {"type": "long", "logicalType": "time-micros"},
            "another meaning",
        ),
        ("string", UUID, "string became uuid"),
        (UUID, CENTS, "uuid became decimal"),
        (CENTS, {**CENTS, "scale": 3}, "the decimal scale was 2, now 3"),
        (CENTS, {**CENTS, "precision": 8}, "the decimal had 9 digits, now 8"),
        ("bytes", "string", "not all bytes are UTF-8"),
        ("string", "int", "string cannot be read as int"),
        (["null", "int"], "int", "null was allowed"),
        (["null", "int"], ["int", "string"], "null was allowed"),
        ("boolean", ["null", "int"], r"no branch of \(null, int\) reads boolean"),
        (enum("A", "B"), enum("A"), "the enum has no symbol B"),
        (
            {"type": "fixed", "name": "f", "size": 4},
            {"type": "fixed", "name": "f", "size": 5},
            "the fixed size was 4, now 5",
        ),
        ({"type": "map", "values": "long"}, {"type": "map", "values": "int"}, "long cannot be read as int"),
        (enum("A"), {**enum("A"), "name": "sort"}, "the type 'shop.kind' became 'shop.sort'"),
    ],
)
def test_what_cannot_be_read_or_would_lie_is_refused_with_field_reason_and_remedy(old: Any, new: Any, why: str) -> None:
    found = incompatibilities(version(2, field("x", new)), version(1, field("x", old)))
    assert found
    with pytest.raises(IncompatibleEvolution, match=why):
        require_evolution(version(2, field("x", new)), [version(1, field("x", old))])
    assert all((item.reader, item.writer) == ("pay.v2", "pay.v1") and item.path.startswith("x") for item in found)
    assert all(item.mend for item in found)


def test_a_default_symbol_reads_symbols_that_are_gone() -> None:
    assert reads(enum("B", default="B"), enum("A", "B"))
    assert reads(enum("A", "B"), enum("B", default="B"))


A = field("a", "int")
B = field("b", "int")


def test_a_new_field_needs_a_default_and_a_lost_one_nothing() -> None:
    assert not check_evolution(version(2, A, field("b", "int", default=0)), [version(1, A)])
    assert not check_evolution(version(2, A), [version(1, A, B)])
    assert not check_evolution(version(2, B, A), [version(1, A, B)])
    found = check_evolution(version(2, A, B), [version(1, A)])
    assert [(item.path, item.mend) for item in found] == [("b", 'give it a "default", or an alias if it was renamed')]


def test_a_renamed_field_needs_an_alias() -> None:
    assert check_evolution(version(2, field("c", "int")), [version(1, A)])
    assert not check_evolution(version(2, field("c", "int", aliases=["a"])), [version(1, A)])


def test_an_alias_of_a_type_may_leave_out_the_namespace() -> None:
    old = {"type": "fixed", "name": "f", "size": 4}
    assert reads({**old, "name": "g", "aliases": ["f"]}, old)
    assert reads({**old, "name": "g", "aliases": ["shop.f"]}, old)
    assert not reads({**old, "name": "g", "aliases": ["other.f"]}, old)


def test_two_written_fields_for_one_column_are_refused() -> None:
    found = check_evolution(version(3, field("b", "int", aliases=["a"])), [version(2, A, B)])
    assert "'b' and 'a' were both written" in found[0].why


def test_a_unit_may_be_added_and_never_changed() -> None:
    euro, dollar = (version(2, field("x", "double", sp_unit=unit)) for unit in ("EUR", "USD"))
    plain = version(1, field("x", "double"))
    assert not check_evolution(euro, [plain], mode="FULL")
    assert "the unit was 'EUR', now 'USD'" in check_evolution(dollar, [euro])[0].why


def test_a_unit_inside_a_nested_record_counts_too() -> None:
    def money(unit: str) -> dict[str, Any]:
        return {"type": "record", "name": "money", "fields": [field("amount", "double", sp_unit=unit)]}

    found = incompatibilities(version(2, field("m", ["null", money("USD")])), version(1, field("m", money("EUR"))))
    assert [item.path for item in found] == ["m.amount"]


def test_key_and_event_time_stay_where_they_are_under_any_name() -> None:
    old = version(1, field("at", "long", sp_role="event_time"), field("k", "int", sp_role="key"), B)
    renamed = version(2, field("time", "long", sp_role="event_time", aliases=["at"]),
                      field("id", "int", sp_role="key", aliases=["k"]), B)  # fmt: skip
    assert not check_evolution(renamed, [old])
    moved = version(2, field("at", "long"), field("k", "int"), field("b", "int", sp_role="key"),
                    field("t", "long", sp_role="event_time", default=0))  # fmt: skip
    assert [item.why for item in check_evolution(moved, [old])] == ["the event time was 'at'", "the key was (k)"]


V1 = version(1, A)
V2 = version(2, A, field("b", "int", default=0))
V3_NARROW = version(3, A, field("b", "string", default=""))


@pytest.mark.parametrize(
    ("mode", "passes"),
    [
        ("NONE", True),
        ("BACKWARD", False), ("BACKWARD_TRANSITIVE", False), ("FORWARD", False), ("FORWARD_TRANSITIVE", False),
        ("FULL", False), ("FULL_TRANSITIVE", False),
    ],
)  # fmt: skip
def test_only_the_mode_none_lets_a_changed_type_pass(mode: str, passes: bool) -> None:
    assert (not check_evolution(V3_NARROW, [V1, V2], mode=mode)) == passes


@pytest.mark.parametrize(
    ("new", "passing"),
    [
        (version(3, A, B), {"NONE", "BACKWARD", "FORWARD", "FORWARD_TRANSITIVE", "FULL"}),
        (version(3, field("a", "long"), field("b", "int", default=0)), {"NONE", "BACKWARD", "BACKWARD_TRANSITIVE"}),
        (version(3, A), set(MODES)),
        (version(3, field("b", "int", default=0)), {"NONE", "BACKWARD", "BACKWARD_TRANSITIVE"}),
    ],
)
def test_each_mode_asks_its_own_question(new: Contract, passing: set[str]) -> None:
    history = [V1, V2]
    assert {mode for mode in MODES if not check_evolution(new, history, mode=mode)} == passing
    assert {mode for mode in MODES if not check_evolution(new, history[::-1], mode=mode)} == passing


def test_the_default_mode_reads_all_of_history_unless_the_contract_says_otherwise() -> None:
    assert check_evolution(version(3, A, B), [V1, V2])
    assert not check_evolution(version(3, A, B, sp_compatibility="BACKWARD"), [V1, V2])


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'FORWARD'"):
        check_evolution(V2, [V1], mode="FORWARDS")


def test_the_message_names_both_versions_the_place_and_the_remedy() -> None:
    with pytest.raises(IncompatibleEvolution) as caught:
        require_evolution(version(2, A, B), [V1])
    assert str(caught.value) == (
        "pay.v2 breaks BACKWARD_TRANSITIVE:\n  - pay.v2 cannot read pay.v1 at b: shop.pay has no such field, "
        'and there is no default; give it a "default", or an alias if it was renamed'
    )
