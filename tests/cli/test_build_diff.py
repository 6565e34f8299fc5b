"""Two builds over the same offsets: what differs, from which event on, and whether logic or world changed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import CommandLine

Write = Callable[[str, str], str]

SOURCE = 'payments = sp.source("payments", contract="payment", lateness="1m")\n'
FEATURES = SOURCE + """
per_card = payments | sp.key_by("card_id") | sp.ordered("payment_id") | sp.features(
    n=sp.count().over("1h"), spend=sp.total("amount").over("{span}"), share=pl.col("spend") / pl.col("n"),
    name="known")
build = sp.Topology("cards", version={version}, sinks={{"scored": per_card, "large": payments | sp.where(
    pl.col("amount") > {above}, name="large")}})
"""


def build(span: str = "1h", version: int = 1, above: float = 500) -> str:
    return FEATURES.format(span=span, version=version, above=above)


def test_one_constant_that_changed_is_found_at_the_first_event_that_it_changes(
    filled: Path, topology: Write, command: CommandLine
) -> None:
    a, b = topology("a.py", build()), topology("b.py", build(span="2h", version=2))
    answer = command("diff", a, b, "--topic", "scored", "--json")
    assert answer.code == 1
    told = answer.json
    assert (told["rows_a"], told["rows_b"], told["missing"], told["extra"]) == (200, 200, 0, 0)
    assert told["same"] + told["mismatch"] == 200 and told["mismatch"] > 0
    # A payment a minute, a card every fifth: at minute 60 the payment of minute 0 is an hour old.
    first = told["first"]
    assert (first["kind"], first["row"]["payment_id"], first["column"]) == ("mismatch", "p60", "spend")
    assert first["b"] - first["a"] == 700.5
    columns = told["columns"]
    assert {name for name, one in columns.items() if one["verdict"] == "logic changed"} == {"spend", "share"}
    assert columns["n"]["version_a"] == columns["n"]["version_b"]
    assert columns["spend"]["version_a"] != columns["spend"]["version_b"]
    assert columns["share"]["version_a"] != columns["share"]["version_b"]
    text = command("diff", a, b, "--topic", "cards.scored")
    assert (text.code, text.err) == (1, "")
    assert "first difference: column 'spend' is " in text.out and "payment_id=p60" in text.out


def test_builds_that_give_the_same_are_equal_whatever_their_code(
    filled: Path, topology: Write, command: CommandLine
) -> None:
    a, b = topology("a.py", build()), topology("b.py", build(span="60m", version=3))
    assert command.fine("diff", a, b, "--topic", "scored").out.endswith("equal: the builds give the same rows\n")
    other = topology("c.py", build().replace('sp.total("amount")', 'sp.total("amount").where(pl.lit(True))'))
    told = command.fine("diff", a, other, "--topic", "scored", "--json").json
    assert told["columns"]["spend"]["verdict"] == "other code, same values"
    assert told["columns"]["n"]["verdict"] == told["columns"]["amount"]["verdict"] == "same"


def test_rows_of_one_build_alone_are_missing_or_extra_and_the_first_of_them_is_named(
    filled: Path, topology: Write, command: CommandLine
) -> None:
    a, b = topology("a.py", build()), topology("b.py", build(above=5))
    told = command("diff", a, b, "--topic", "large", "--json").json
    assert told["mismatch"] == told["missing"] == 0 and told["same"] == told["rows_a"]
    assert told["extra"] == told["rows_b"] - told["rows_a"] > 0
    assert (told["first"]["kind"], told["first"]["row"]["payment_id"]) == ("extra", "p1")
    assert "p1" in command("diff", b, a, "--topic", "large").out
    turned = command("diff", b, a, "--topic", "large", "--json").json
    assert (turned["missing"], turned["first"]["kind"]) == (told["extra"], "missing")
    part = command.fine("diff", a, b, "--topic", "large", "--until", "payments:0=0,payments:1=0", "--json").json
    assert part["rows_a"] == part["rows_b"] == 0
    # A range is replayed as if nothing else were there: halves of the offsets give the rows of the whole, once.
    half = "payments:0=50,payments:1=50"
    halves = [command("diff", a, b, "--topic", "large", end, half, "--json").json for end in ("--until", "--since")]
    for name in ("rows_a", "rows_b", "same", "extra"):
        assert sum(one[name] for one in halves) == told[name]
    assert 0 < halves[0]["extra"] < told["extra"] and halves[0]["first"]["row"] == told["first"]["row"]
    assert halves[1]["first"]["row"]["payment_id"] not in (told["first"]["row"]["payment_id"], None)


def test_a_sink_that_leaves_out_what_orders_its_rows_is_compared_and_watched_too(
    filled: Path, topology: Write, command: CommandLine
) -> None:
    chosen = 'per_card | sp.select("card_id", "n", "spend", name="short")'
    short = build().replace('"scored": per_card', f'"scored": {chosen}')
    a, b = topology("a.py", short), topology("b.py", short.replace('over("1h"), spend', 'over("2h"), spend'))
    assert command.fine("diff", a, a, "--topic", "scored", "--json").json["same"] == 200
    told = command("diff", a, b, "--topic", "scored", "--json").json
    assert {name for name, one in told["columns"].items() if one["differs"]} == {"n"}


def test_a_step_with_another_name_makes_other_rows_unless_columns_say_which_are_one(
    filled: Path, topology: Write, command: CommandLine
) -> None:
    a, b = topology("a.py", build()), topology("b.py", build().replace('name="known"', 'name="new"'))
    told = command("diff", a, b, "--topic", "scored")
    assert told.code == 2 and "--key" in told.err
    assert command.fine("diff", a, b, "--topic", "scored", "--key", "payment_id", "--json").json["same"] == 200


def test_each_build_gets_the_modules_of_its_own_folder(filled: Path, command: CommandLine) -> None:
    for folder, limit in (("old", 500), ("new", 5)):
        (filled / folder).mkdir()
        (filled / folder / "limits.py").write_text(f"ABOVE = {limit}\n")
        (filled / folder / "cards.py").write_text(
            "import polars as pl\nimport streamproc as sp\nfrom limits import ABOVE\n"
            + build().replace("> 500", "> ABOVE")
        )
    told = command("diff", "old/cards.py", "new/cards.py", "--topic", "large", "--json")
    assert told.code == 1 and told.json["extra"] > 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("diff a.py b.py --topic scord", "'scord' is no sink of 'cards' version 1; did you mean 'scored'?"),
        ("diff a.py no_such_build --topic scored", "there is no module 'no_such_build'"),
        ("diff a.py nosuch.py --topic scored", "there is no file 'nosuch.py'"),
        ("diff a.py b.py --topic scored --key nosuch", "'scored' of A has no column 'nosuch'"),
        ("diff a.py b.py --topic scored --since yesterday", "'yesterday' is not a moment"),
        ("diff payments payments --since earliest", "go with --topic"),
    ],
)
def test_a_mistake_about_builds_is_named(
    filled: Path, topology: Write, command: CommandLine, line: str, said: str
) -> None:
    topology("a.py", build())
    topology("b.py", build(version=2))
    answer = command(*line.split())
    assert (answer.code, answer.out) == (2, "")
    assert said in " ".join(answer.err.split())


def paid(rows: int, changed: bool) -> pl.DataFrame:
    """Payments a second apart, each of another card; from two thirds on amounts are half as large again, or not."""
    chance = np.random.default_rng(5)
    amounts = chance.lognormal(3, 0.5, rows) * np.where((np.arange(rows) > 2 * rows // 3) & changed, 1.5, 1.0)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    return pl.DataFrame(
        {"payment_id": [f"p{n:07}" for n in range(rows)], "card_id": [f"c{n}" for n in chance.permutation(rows)],
         "amount": amounts, "paid_at": [at + timedelta(seconds=n) for n in range(rows)]}
    )  # fmt: skip


UNTOUCHED = dict.fromkeys(("payment_id", "card_id", "paid_at", "n"), "same")
BY_CODE = {**UNTOUCHED, "amount": "same", **dict.fromkeys(("spend", "share"), "logic changed")}
REFACTORED = {**UNTOUCHED, "amount": "same", **dict.fromkeys(("spend", "share"), "other code, same values")}
BY_DATA = {**UNTOUCHED, **dict.fromkeys(("amount", "spend", "share"), "world changed")}


@pytest.mark.parametrize("rows", [6_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_change_of_code_is_no_change_of_the_world_and_the_other_way_round(
    project: Path, topology: Write, command: CommandLine, rows: int
) -> None:
    a, again = topology("a.py", build()), topology("again.py", build())
    same = topology("c.py", build().replace('sp.total("amount")', 'sp.total("amount").where(pl.lit(True))'))
    b = topology("b.py", build().replace('sp.total("amount")', 'sp.total("amount").where(pl.col("amount") < 20)'))
    for changed in (False, True):
        paid(rows, changed).write_parquet(project / "payments.parquet")
        command.fine("produce", "payments.parquet", "payments", "--contract", "payment", "--log", f"{changed}.db")

    def told(other: str, *, changed: bool) -> tuple[dict[str, str], int, dict[str, Any]]:
        answer = command("diff", a, other, "--topic", "scored", "--log", f"{changed}.db", "--json")
        assert (answer.json["rows_a"], answer.json["missing"], answer.json["extra"]) == (rows, 0, 0)
        return {name: one["verdict"] for name, one in answer.json["columns"].items()}, answer.code, answer.json

    verdicts, code, by_code = told(b, changed=False)
    assert (verdicts, code) == (BY_CODE, 1)
    # Every payment is its card's only one, so exactly those of 20 and more are spent otherwise.
    assert by_code["columns"]["spend"]["differs"] == paid(rows, False).filter(pl.col("amount") >= 20).height
    verdicts, code, _ = told(same, changed=False)
    assert (verdicts, code) == (REFACTORED, 0)
    verdicts, code, by_data = told(again, changed=True)
    assert (verdicts, code) == (BY_DATA, 0)
    for name in ("amount", "spend", "share"):
        assert by_data["columns"][name]["promise"] == "holds"
