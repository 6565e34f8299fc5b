"""`streamproc review`: what a person at a terminal sees and may do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CommandLine

DESK = '''
payments = sp.source("payments", contract="asked_payment")
reviewed = payments | sp.review(answers="desk.answers", default="block", choices=("allow", "block"), timeout="1h",
                                priority="amount", subject="payment_id")
desk = sp.Topology("desk", sinks={
    "verdicts": reviewed, "review": sp.sink(reviewed.side("cases"), key="case", identified=True)})
'''
CONTRACT = """{"type": "record", "name": "asked_payment", "sp:version": 1, "fields": [
    {"name": "payment_id", "type": "string", "sp:role": "key"}, {"name": "amount", "type": "double"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}"""


@pytest.fixture
def asked(project: Path, command: CommandLine, topology: Callable[[str, str], str]) -> str:
    """A topology that asked about three payments of a minute ago."""
    name = topology("desk.py", DESK)
    (project / "schemas_avro" / "asked_payment.v1.avsc").write_text(CONTRACT)
    now = time.time_ns() // 1_000 - 60_000_000
    rows = "".join(f"p{n},{10.0 * n},{now + n}\n" for n in range(3))
    (project / "asked.csv").write_text("payment_id,amount,at\n" + rows)
    command.fine("produce", "asked.csv", "payments", "--contract", "asked_payment")
    command.fine("run", name, "--until-end")
    return name


def test_cases_are_listed_claimed_and_answered(asked: str, command: CommandLine) -> None:
    listed = command.fine("review", "list", asked, "--json").json
    assert [case["row"]["payment_id"] for case in listed] == ["p2", "p1", "p0"]
    assert listed == command.fine("review", "list", "desk.review", "--json").json
    text = command.fine("review", "list", asked).out
    assert "allow/block" in text and "payment_id=p2" in text and text.index("p2") < text.index("p1")
    (mine,) = command.fine("review", "claim", asked, "--as", "eve", "--json").json
    assert mine["row"]["payment_id"] == "p2" and mine["claimed_by"] == "eve"
    refused = command("review", "answer", asked, mine["case"], "allow", "--as", "kim", "--wait", "0s")
    assert refused.code == 2 and "is claimed by eve until" in refused.err
    answer = ("review", "answer", asked, mine["case"][:12], "allow", "--as", "eve", "--note", "known", "--wait", "0s")
    assert command.fine(*answer).out == command.fine(*answer).out == f"case {mine['case']}: allow\n"
    assert [case["row"]["payment_id"] for case in command.fine("review", "list", asked, "--json").json] == ["p1", "p0"]
    command.fine("run", asked, "--until-end")
    assert command.fine(*answer, "--json").json["taken"]
    (verdict,) = command.fine("subscribe", "desk.verdicts").out.splitlines()
    assert '"answered_by":"eve"' in verdict and '"note":"known"' in verdict and '"payment_id":"p2"' in verdict
    again = command("review", "answer", asked, mine["case"], "block", "--as", "kim")
    assert again.code == 2 and "is answered: 'allow' by eve" in again.err
    assert command.fine("replay", asked, "--as-recorded")


def test_mistakes_are_told_without_a_traceback(asked: str, command: CommandLine) -> None:
    for words, told in (
        (("answer", asked, "nix", "allow"), "there is no case 'nix'"),
        (("list", "desk.nothing"), "desk.nothing"),
        (("list", "card_risk.py"), "writes 0 review topics"),
        (("claim", asked, "--lease", "0s"), "a lease of 0s"),
    ):
        answer = command("review", *words)
        assert answer.code == 2 and told in answer.err
    command.fine("review", "claim", asked, 3)
    nothing = command("review", "claim", asked)
    assert nothing.code == 1 and nothing.out == "no open case\n"
