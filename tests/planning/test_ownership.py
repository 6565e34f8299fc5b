"""Every topic and field has one owner, and nobody writes another's without an approval of that change."""

from __future__ import annotations

from pathlib import Path

import orjson
import polars as pl
import pytest

import streamproc as sp
from connectors.registry import FolderRegistry
from streamproc.cli.app import run as command
from streamproc.contracts.approvals import Approval, parse_approvals
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import InputError, InvalidSchema, NotOwned
from streamproc.runtime.binding import plan_topology


def contract(name: str, owner: str, *fields: str, version: int = 1, **owners: str) -> Contract:
    """A contract of int columns and an event time; `owners` names those of single fields."""
    columns: list[dict[str, object]] = [{"name": field, "type": "long"} for field in fields]
    for column in columns:
        column |= {"sp:owner": owners[str(column["name"])]} if column["name"] in owners else {}
    at = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}
    record: dict[str, object] = {"type": "record", "name": name, "sp:version": version, "fields": [*columns, at]}
    return parse_contract(orjson.dumps(record | ({"sp:owner": owner} if owner else {})).decode())


ORDER = contract("order", "sales", "amount", "discount")
SCORE = contract("score", "risk", "amount", "level", amount="sales")
"""Of risk, but the amount in it is sales'."""


def scored(
    *, owner: str = "risk", of: Contract = ORDER, to: Contract = SCORE, amount: pl.Expr | None = None
) -> sp.Topology:
    """Reads orders, writes scores."""
    orders = sp.source("orders", contract=of)
    made = {"level": pl.col("amount") * 2} | ({} if amount is None else {"amount": amount})
    rows = orders | sp.with_columns(**made) | sp.select("amount", "level", "at")
    return sp.Topology("scoring", owner=owner, sinks={"scores": sp.sink(rows, contract=to)})


def refused(topology: sp.Topology, *known: Contract, approvals: tuple[Approval, ...] = ()) -> str:
    """What the plan says against it, nothing if it is sound."""
    try:
        plan_topology(topology, MemoryRegistry(known, approvals=approvals))
    except NotOwned as error:
        return str(error)
    return ""


def test_the_clean_twin_is_planned() -> None:
    assert refused(scored()) == ""
    nobodys = scored(owner="", of=contract("order", "", "amount"), to=contract("score", "", "amount", "level"))
    assert refused(nobodys) == ""


def test_a_topic_without_an_owner_is_an_orphan() -> None:
    assert refused(scored(of=contract("order", "", "amount"), to=contract("score", "risk", "amount", "level"))) == (
        "topic 'orders' has no owner: contract 'order.v1' names none; add \"sp:owner\" to the contract"
    )
    assert refused(scored(to=contract("score", "", "amount", "level"))) == (
        "topic 'scoring.scores' of sink 'scores' has no owner: contract 'score.v1' names none; "
        'add "sp:owner" to the contract: "risk", if it is theirs'
    )


def test_a_topic_read_under_contracts_of_two_owners_is_refused() -> None:
    a, b = (sp.source("orders", contract=one) for one in (ORDER, contract("bill", "finance", "amount", "discount")))
    topology = sp.Topology("both", owner="risk", sinks={"out": a | sp.union(b)})
    assert refused(topology) == (
        "topic 'orders' has two owners: 'sales' by contract 'order.v1', 'finance' by 'bill.v1'; "
        "read it under one contract"
    )


def test_a_version_that_takes_a_topic_from_its_owner_needs_the_owners_approval() -> None:
    taken = contract("order", "risk", "amount", version=2)
    said = refused(scored(of=taken, to=contract("score", "risk", "amount", "level")), ORDER, taken)
    change = said.partition('change = "')[2].partition('"')[0]
    assert said == (
        "'order' has two owners: 'sales' by 'order.v1', 'risk' by 'order.v2'; keep the owner, or have 'sales' approve "
        f'it in approvals.toml: {{contract = "order.v2", owner = "sales", to = "risk", change = "{change}"}}'
    )
    yes = Approval("order.v2", "sales", "risk", change, by="a", reason="moved")
    topology = scored(of=taken, to=contract("score", "risk", "amount", "level"))
    assert refused(topology, ORDER, taken, approvals=(yes,)) == ""
    # It was this version that they approved, and no other one of the same number.
    other = contract("order", "risk", "amount", "more", version=2)
    topology = scored(of=other, to=contract("score", "risk", "amount", "level"))
    assert f"is for change '{change}'" in refused(topology, ORDER, other, approvals=(yes,))


def test_a_version_that_takes_a_field_from_its_owner_needs_approval_too() -> None:
    taken = contract("order", "sales", "amount", version=2, amount="risk")
    said = refused(scored(of=taken, to=contract("score", "risk", "amount", "level")), ORDER, taken)
    assert said.startswith("field 'amount' of 'order' has two owners: 'sales' by 'order.v1', 'risk' by 'order.v2';")


def test_a_sink_of_another_owners_contract_is_refused() -> None:
    said = refused(scored(owner="marketing"))
    assert said.startswith(
        "sink 'scores' writes contract 'score.v1', which 'risk' owns, for 'marketing', who owns 'scoring'; write a "
        "contract of your own, or have 'risk' approve it in approvals.toml: {contract = \"score.v1\", owner = \"risk\""
    )
    assert refused(scored(owner="")) == (
        "sink 'scores' writes contract 'score.v1', which 'risk' owns, for 'scoring', which names no owner (and 1 more "
        "of the kind); say whose it is: sp.Topology(..., owner='risk')"
    )


@pytest.mark.parametrize(
    "amount",
    [pl.col("amount") + 1, pl.col("discount"), pl.lit(1, pl.Int64), pl.col("amount").fill_null(0)],
    ids=["another value", "discount, of sales too, under another name", "a constant", "an expression of it"],
)
def test_a_field_of_another_owner_passes_as_it_is_or_not_at_all(amount: pl.Expr) -> None:
    passed = amount.meta.eq(pl.col("discount"))  # What sales wrote, wherever it stands.
    said = refused(scored(amount=amount))
    assert bool(said) == (not passed)
    if said:
        assert said.startswith(
            "sink 'scores' writes 'amount' of contract 'score.v1', which 'sales' owns, for 'risk', who owns 'scoring'; "
            "pass the owner's column as it is, or have 'sales' approve it in approvals.toml: "
        )


def test_a_field_that_passes_from_somebody_else_is_a_foreign_write() -> None:
    theirs = contract("order", "sales", "amount", amount="finance")
    assert "writes 'amount' of contract 'score.v1', which 'sales' owns" in refused(scored(of=theirs))


def test_an_approval_holds_for_one_change() -> None:
    doubled = scored(amount=pl.col("amount") * 2)
    change = refused(doubled).rpartition('change = "')[2].partition('"')[0]
    yes = Approval("score.v1", "sales", "risk", change, by="a", reason="in pence", field="amount")
    assert refused(doubled, approvals=(yes,)) == ""
    said = refused(scored(amount=pl.col("amount") * 3), approvals=(yes,))
    assert f"the approval in approvals.toml is for change '{change}', this one is '" in said
    # Of another's, for somebody else, or of another field it says nothing.
    for name, value in {"owner": "risk", "to": "finance", "field": "level", "contract": "score.v2"}.items():
        assert refused(doubled, approvals=(Approval(**{**{n: getattr(yes, n) for n in yes.__slots__}, name: value}),))


def test_records_that_leave_as_they_came_are_their_owners_words() -> None:
    orders = sp.source("orders", contract=ORDER) | sp.where(pl.col("amount") > 0)
    assert refused(sp.Topology("copy", owner="risk", sinks={"kept": orders})) == ""


def test_the_command_refuses_and_the_file_lets_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "schemas_avro"
    folder.mkdir()
    for one in (ORDER, SCORE):
        (folder / f"{one}.avsc").write_bytes(orjson.dumps(one.avro))
    Path("scoring.py").write_text(
        "import polars as pl\nimport streamproc as sp\n"
        "rows = sp.source('orders', contract='order') | sp.select('at', amount=pl.col('amount') * 2, "
        "level=pl.col('discount'))\n"
        "scoring = sp.Topology('scoring', owner='risk', sinks={'scores': sp.sink(rows, contract='score')})\n"
    )
    assert command(["check", "scoring.py"]) != 0
    said = capsys.readouterr().err
    assert "writes 'amount' of contract 'score.v1', which 'sales' owns" in said
    change = said.rpartition('change = "')[2].partition('"')[0]
    (folder / "approvals.toml").write_text(
        f'[[approval]]\ncontract = "score.v1"\nfield = "amount"\nowner = "sales"\nto = "risk"\nchange = "{change}"\n'
        'by = "a"\nreason = "in pence"\n'
    )
    assert command(["check", "scoring.py"]) == 0
    assert [a.by for a in FolderRegistry((folder,)).approvals()] == ["a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[approval", "f is not TOML"),
        ("[[aproval]]\n", "f has an entry 'aproval'; it holds"),
        ("[approval]\n", "f: 'approval' is no list; write [[approval]]"),
        ('[[approval]]\nowned = "x"\n', "f, approval 1 has an entry 'owned'; did you mean 'owner'?"),
        ("[[approval]]\nowner = 1\n", "f, approval 1: 'owner' is 1; write a text"),
        ('[[approval]]\nowner = "x"\n', "f, approval 1 does not say 'contract'"),
    ],
)
def test_a_file_of_approvals_that_cannot_be_read_says_where(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_approvals(text, "f")
    assert said in str(caught.value)


def test_a_field_inside_another_one_has_no_owner_of_its_own() -> None:
    inner = {"type": "record", "name": "r", "fields": [{"name": "b", "type": "int", "sp:owner": "x"}]}
    with pytest.raises(InvalidSchema, match=r"an owner of a field inside another one"):
        parse_contract(
            orjson.dumps({"type": "record", "name": "t", "fields": [{"name": "a", "type": inner}]}).decode()
        )
