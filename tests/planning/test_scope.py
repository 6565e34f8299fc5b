"""What a topology reads, writes and does is locked; a change of it is told, a change of layout is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import polars as pl
import pytest

import streamproc as sp
from connectors.registry import FolderRegistry
from streamproc.cli.app import run as command
from streamproc.cli.workspace import load_topology
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import StreamprocError, UndeclaredRead
from streamproc.planning.scope import scope_changes, scope_of
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing import drive

ORDER = """{"type": "record", "name": "order", "sp:version": 1, "sp:owner": "sales", "fields": [
  {"name": "amount", "type": "long"}, {"name": "email", "type": "string", "sp:pii": "direct"},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
CONTRACT = parse_contract(ORDER)
TOPOLOGY = """
import polars as pl
import streamproc as sp

def doubled(frame):
    return pl.DataFrame({"twice": frame["amount"] * 2})

class Running:
    def schema(self, rows):
        return rows.with_fields([])
    def open(self):
        return {"seen": 0}
    def process(self, state, frame):
        return {"seen": state["seen"] + len(frame)}, frame.drop("_event_time")

orders = sp.source("orders", contract="order")
big = (orders | sp.where(pl.col("amount") > 10, name="big") | sp.stateless(doubled, reads=("amount",), name="double")
       | sp.custom(Running(), reads=("amount", "twice"), name="running"))
scoped = sp.Topology("scoped", owner="risk", scope="fraud", sinks={"out": big})
"""


class Project:
    """A folder with the contract and a topology, and the command in it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.number = folder, capsys, 0
        (folder / "schemas_avro").mkdir()
        (folder / "schemas_avro" / "order.v1.avsc").write_text(ORDER)

    def scope(self, text: str = TOPOLOGY, *options: str) -> tuple[int, list[str]]:
        """Exit code, and the lines on stdout; a file of its own each time, so that Python loads it."""
        self.number += 1
        (self.folder / f"scoped_{self.number}.py").write_text(text)
        code = command(["scope", f"scoped_{self.number}.py", *options])
        return code, self.capsys.readouterr().out.splitlines()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Project:
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path, capsys)
    assert made.scope(TOPOLOGY, "--lock")[0] == 0
    return made


def test_the_lock_says_what_is_read_and_written(project: Project) -> None:
    (locked,) = orjson.loads(Path("scope.lock").read_bytes()).items()
    name, scope = locked
    assert (name, scope["owner"], scope["purpose"]) == ("scoped", "risk", "fraud")
    # The e-mail address is in the topic, and nobody reads it.
    assert scope["inputs"] == {"orders": {"contract": "order.v1", "fields": ["amount", "at"]}}
    assert scope["outputs"] == {"scoped.out": {"contract": "scoped_out.v1", "fields": ["amount", "twice"]}}
    assert sorted(scope["rules"]) == ["big", "double", "running"]
    assert project.scope() == (0, [f"the scope of 'scoped' is as locked: {scope['hash'][:12]}"])


def reformatted(text: str) -> str:
    """The same topology, laid out otherwise: comments, line breaks, quotes, brackets, order of imports."""
    text = text.replace('frame["amount"] * 2', '(  # twice\n        frame[ \'amount\' ]\n        * 2\n    )')
    text = text.replace("    def open(self):\n", "    # nothing yet\n\n    def open( self ):\n")
    text = text.replace('sp.where(pl.col("amount") > 10,', "sp.where(\n  (pl.col('amount')) > (10),\n  ")
    imports = ("import polars as pl\n", "import streamproc as sp\n")
    return "# A topology.\n" + text.replace("".join(imports), "".join(reversed(imports)))


def test_a_change_of_layout_is_no_change(project: Project) -> None:
    assert reformatted(TOPOLOGY) != TOPOLOGY
    assert project.scope(reformatted(TOPOLOGY))[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('pl.col("amount") > 10', 'pl.col("amount") >= 10', ["~ rule 'big' changed: "]),
        ('frame["amount"] * 2', 'frame["amount"] * 3', ["~ rule 'double' changed: "]),
        ('state["seen"] + len(frame)', 'state["seen"] + 1', ["~ rule 'running' changed: "]),
        (' | sp.where(pl.col("amount") > 10, name="big")', "", ["- rule 'big'"]),
        ('contract="order")', 'contract="order") | sp.where(pl.col("email") != "", name="mail")',
         ["+ field 'email' of input 'orders'", "+ rule 'mail'"]),
        ('sp.source("orders"', 'sp.source("bills"', ["+ input 'bills': amount, at", "- input 'orders'"]),
        ('{"out": big}', '{"out": big, "all": orders}', ["+ output 'scoped.all': amount, at, email"]),
        ('scope="fraud"', 'scope="marketing"', ["~ purpose changed: 'fraud', now 'marketing'"]),
        ('owner="risk"', 'owner="sales"', ["~ owner changed: 'risk', now 'sales'"]),
    ],
    ids=["a condition", "a function", "a method", "a step less", "a field more", "another topic", "one more output",
         "another purpose", "another owner"],
)  # fmt: skip
def test_every_change_is_told_and_fails(project: Project, old: str, new: str, said: list[str]) -> None:
    assert old in TOPOLOGY
    code, lines = project.scope(TOPOLOGY.replace(old, new))
    assert code == 1 and len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True)), lines
    assert project.scope(TOPOLOGY.replace(old, new), "--lock")[0] == 0
    assert project.scope(TOPOLOGY.replace(old, new))[0] == 0


def test_a_step_that_does_not_say_what_it_reads_is_not_locked(project: Project) -> None:
    silent = TOPOLOGY.replace('reads=("amount", "twice"), ', "")
    before = Path("scope.lock").read_bytes()
    for options in ((), ("--lock",)):
        code, lines = project.scope(silent, *options)
        assert code == 1 and "step 'running' does not say what it reads; give it reads=(...)" in lines
    assert Path("scope.lock").read_bytes() == before


def test_without_a_lock_the_command_says_how_to_make_one(project: Project) -> None:
    Path("scope.lock").unlink()
    assert project.scope()[0] == 2
    Path("scope.lock").write_text("[]")
    assert project.scope()[0] == 2


HIDDEN: dict[str, Callable[[pl.DataFrame], object]] = {
    "an item": lambda frame: frame["email"],
    "an expression": lambda frame: frame.select(pl.col("amount") + pl.col("email").str.len_bytes()),
    "a filter": lambda frame: frame.filter(pl.col("email") != ""),
    "a lazy frame": lambda frame: frame.lazy().select("email").collect(),
    "only where an amount is large": lambda frame: frame["email"] if (frame["amount"] > 5).any() else None,
}


class Peeping:
    """Gives its rows back, and looks at something on the way."""

    def __init__(self, look: Callable[[pl.DataFrame], object]) -> None:
        self.look = look

    def schema(self, rows: Schema) -> Schema:
        return Schema((Field("amount", pl.Int64()),))

    def open(self) -> dict[str, int]:
        return {}

    def process(self, state: dict[str, int], frame: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
        self.look(frame)
        return state, frame.select("amount")


ROWS = pl.DataFrame({
    "amount": [1, 9], "email": ["a@b", "c@d"], "at": pl.Series([0, 1], dtype=pl.Datetime("us", "UTC")),
})  # fmt: skip


@pytest.mark.parametrize("look", HIDDEN.values(), ids=HIDDEN)
def test_a_hidden_read_inside_a_custom_step_is_caught_when_it_runs(look: Callable[[pl.DataFrame], object]) -> None:
    orders = sp.source("orders", contract=CONTRACT)
    # The e-mail address is read by another sink: it is there, and still this step does not get it.
    sinks = {"out": orders | sp.custom(Peeping(look), reads=("amount",)), "mail": orders | sp.select("email")}
    topology = sp.Topology("peeping", sinks=sinks)
    plan_topology(topology, MemoryRegistry([CONTRACT]))  # No plan can see it.
    with pytest.raises(StreamprocError) as caught:
        drive(topology, {"orders": ROWS})
    assert "Peeping.process reads 'email', and declares amount; add it to reads=..." in str(caught.value)
    honest = sp.custom(Peeping(lambda frame: frame["amount"]), reads=["amount"])
    fine = sp.Topology("fine", sinks={"out": orders | honest})
    assert drive(fine, {"orders": ROWS})["out"]["amount"].to_list() == [1, 9]


TWICE = Schema((Field("twice", pl.Int64()),))


@pytest.mark.parametrize("look", HIDDEN.values(), ids=HIDDEN)
def test_a_hidden_read_inside_a_function_is_caught_too(look: Callable[[pl.DataFrame], object]) -> None:
    def function(frame: pl.DataFrame) -> pl.DataFrame:
        if frame.height:  # Hidden from the plan's look at an empty frame, not from that at awkward rows.
            look(frame)
        return frame.select(twice=pl.col("amount"))

    orders = sp.source("orders", contract=CONTRACT)
    topology = sp.Topology("peeping", sinks={"out": orders | sp.stateless(function, reads=("amount",))})
    with pytest.raises(UndeclaredRead, match=r"function' reads 'email', and declares amount"):
        drive(topology, {"orders": ROWS})


def test_a_read_that_only_a_rare_row_brings_is_caught_when_the_row_comes() -> None:
    def function(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(twice=pl.col("email" if 7_654_321 in frame["amount"] else "amount"))

    orders = sp.source("orders", contract=CONTRACT)
    sinks = {"out": orders | sp.stateless(function, reads=("amount",), schema=TWICE), "mail": orders}
    topology = sp.Topology("peeping", sinks=sinks)
    assert drive(topology, {"orders": ROWS})["out"]["twice"].to_list() == [1, 9]
    with pytest.raises(StreamprocError) as caught:
        drive(topology, {"orders": ROWS.with_columns(amount=pl.lit(7_654_321))})
    assert "function' reads 'email', and declares amount" in str(caught.value)


def test_a_custom_step_that_declares_an_unknown_column_is_refused() -> None:
    orders = sp.source("orders", contract=CONTRACT)
    topology = sp.Topology("t", sinks={"out": orders | sp.custom(Peeping(len), reads=("amont",))})
    with pytest.raises(StreamprocError, match=r"reads 'amont'; did you mean 'amount'"):
        plan_topology(topology, MemoryRegistry([CONTRACT]))
    with pytest.raises(StreamprocError, match="reads no column"):
        sp.custom(Peeping(len), reads=())


SHIPPED = {"retail": "topologies.retail", "refunds": "topologies.refunds",
           "customer_value": "topologies.customer_value", "people": "topologies.people.topology:topology"}  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_topologies_keep_their_scope(name: str) -> None:
    """Where this fails: look at the lines, then `streamproc scope TOPOLOGY --lock --file topologies/scope.lock`."""
    plan = plan_topology(load_topology(SHIPPED[name]), FolderRegistry((shipped_contracts(),)))
    locked = orjson.loads((Path(__file__).parents[2] / "topologies" / "scope.lock").read_bytes())
    assert list(scope_changes(locked[plan.topology.name], scope_of(plan))) == []
