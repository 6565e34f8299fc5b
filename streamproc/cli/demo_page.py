"""The demo's report as one page of HTML that needs nothing beside itself: no script, font or picture from elsewhere.

Each number that stands in the page carries where it comes from (`data-fact`, a path into what `demo --json` prints) and
its value in full (`data-value`), so that a reader, and a test, can hold it against the topics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from html import escape
from typing import Any, Final

from streamproc.cli.fates import FATES

_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;color:#1c1c1c;margin:0 auto;max-width:1180px;padding:24px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 8px;border-bottom:1px solid #ddd;padding-bottom:4px}
p{margin:6px 0 12px;max-width:80ch}table{border-collapse:collapse;margin:8px 0 16px}
th,td{padding:3px 12px 3px 0;text-align:right;border-bottom:1px solid #eee;vertical-align:top}
th:first-child,td:first-child,td.text,th.text{text-align:left}th{font-weight:600;color:#444}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.card{border:1px solid #ddd;border-radius:6px;padding:10px 14px;min-width:150px}
.card b{display:block;font-size:22px}.card span{color:#555;font-size:13px}
.wide{overflow-x:auto;border:1px solid #eee}nav a{margin-right:14px}pre{background:#f6f6f6;padding:8px;overflow-x:auto}
"""


class Facts:
    """What is told, by path: "persons/f1", "decisions/by_rule/0/orders"."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self._answer = answer

    def value(self, path: str) -> Any:
        """What stands there. Raises KeyError or IndexError where nothing does."""
        found: Any = self._answer
        for part in path.split("/"):
            found = found[int(part)] if isinstance(found, list) else found[part]
        return found

    def shown(self, path: str, form: str = "") -> str:
        """The value as HTML that says where it comes from; `form` is a format of Python."""
        value = self.value(path)
        plain = value.isoformat() if isinstance(value, (datetime, date)) else str(value)
        source = f'data-fact="{escape(path)}" data-value="{escape(plain)}"'
        return f"<span {source}>{escape(_formed(value, form))}</span>"


def _formed(value: Any, form: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return format(value, form or ("," if isinstance(value, int) else ",.4g" if isinstance(value, float) else ""))


def table(facts: Facts, columns: Sequence[tuple[str, str, str]], rows: Mapping[str, str]) -> str:
    """A table; rows are paths by name, columns are heading, key below the row's path, and format.

    A key "" is the row's name. The format "text" keeps a column to the left.
    """
    left = [' class="text"' if form == "text" else "" for _, _, form in columns]
    head = "".join(f"<th{side}>{escape(name)}</th>" for side, (name, _, _) in zip(left, columns, strict=True))
    body = []
    for name, path in rows.items():
        cells = [
            facts.shown(f"{path}/{key}", "" if form == "text" else form) if key else escape(name)
            for _, key, form in columns
        ]
        body.append("".join(f"<td{side}>{cell}</td>" for side, cell in zip(left, cells, strict=True)))
    return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{'</tr><tr>'.join(body)}</tr></tbody></table>"


def numbered(facts: Facts, path: str) -> dict[str, str]:
    """The rows of a list, by number from 1 on."""
    return {str(n + 1): f"{path}/{n}" for n in range(len(facts.value(path)))}


def named(facts: Facts, path: str) -> dict[str, str]:
    """The rows of a mapping, by name."""
    return {name: f"{path}/{name}" for name in facts.value(path)}


def demo_page(answer: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The whole page.

    answer    what `demo --json` prints
    pictures  SVGs by name: topology, quality, metrics, reliability, drift, worth; what is missing is left out
    """
    facts = Facts(answer)
    sections = [
        ("topology", "What ran", _topology(facts)),
        ("quality", "Who is who", _persons(facts)),
        ("worth", "What persons are worth", _worth(facts)),
        ("metrics", "Will a return follow within 14 days?", _model(facts)),
        ("drift", "What changed", _drift(facts)),
        ("decisions", "Decisions", _decisions(facts)),
        ("alerts", "Alerts", _alerts(facts)),
        ("replay", "The proof", _proof(facts)),
    ]
    drawn = {"metrics": ("metrics", "reliability")}
    parts = [f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in sections]
    body = []
    for name, title, text in sections:
        shown = "".join(
            f'<div class="wide">{pictures[one]}</div>' for one in drawn.get(name, (name,)) if one in pictures
        )
        body.append(f'<h2 id="{name}">{escape(title)}</h2>{text}{shown}')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>streamproc: the retail story</title>'
        '<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><h1>One business, five processes, no shared key</h1>"
        f"<p>What a run of the shipped retail topology found. Every number here comes from the log's topics.</p>"
        f"<nav>{''.join(parts)}</nav>{_cards(facts)}{''.join(body)}</body></html>\n"
    )


def _cards(facts: Facts) -> str:
    cards = [
        (facts.shown("rows"), "events of all processes"),
        (facts.shown("rows_per_second"), "events a second, compiling left out"),
        (facts.shown("persons/f1", ".4f"), "F1 of pairs of events that are of one person"),
        (facts.shown("worth/said", ",.0f"), "EUR that all persons are worth"),
        (facts.shown("replay_equal"), "a replay gives the same digests"),
    ]
    shown = "".join(f'<div class="card"><b>{number}</b><span>{told}</span></div>' for number, told in cards)
    return f'<div class="cards">{shown}</div>'


def _topology(facts: Facts) -> str:
    columns = [("input", "", "text"), *((fate.replace("_", " "), fate, "") for fate in FATES)]
    return (
        "<p>What became of each row that came in: the columns after the first add up to it. Point at a box or a line "
        "of the picture for its steps and counts.</p>" + table(facts, columns, named(facts, "sources"))
    )


def _persons(facts: Facts) -> str:
    columns = [("up to quarter", "", "text"), ("events", "events", ""), ("persons", "persons", ""),
               ("found", "entities", ""), ("precision", "precision", ".4f"), ("recall", "recall", ".4f"),
               ("F1", "f1", ".4f"), ("B-cubed F1", "b_cubed_f1", ".4f"),
               ("recall of blocks", "block_recall", ".4f"),
               ("orders with returns", "order_return_recall", ".4f")]  # fmt: skip
    rows = {**named(facts, "persons/by_share"), "in the end": "persons"}
    return (
        "<p>Pairs of events that are said to be of one person, against the truth, which no topology reads: up to "
        f"parts of the stream as it was told then, and in the end.</p>{table(facts, columns, rows)}"
        f"<p>{facts.shown('persons/doubtful_pairs')} pairs wait for a person to decide.</p>"
    )


def _worth(facts: Facts) -> str:
    return (
        f"<p>Orders less refunds and the cost of mails, in euros by the rate published last: "
        f"{facts.shown('worth/said', ',.2f')} EUR for {facts.shown('worth/entities')} persons; "
        f"{facts.shown('worth/true', ',.2f')} EUR by the truth. {facts.shown('worth/off')} of them differ, since some "
        "of their events are with others.</p>"
    )


def _model(facts: Facts) -> str:
    columns = [("who says it", "", "text"), ("labels", "labels", ""), ("squared error", "brier", ".4f"),
               ("of the later half", "brier_of_last", ".4f"), ("accuracy", "accuracy", ".4f"),
               ("AUC", "auc", ".4f")]  # fmt: skip
    return (
        "<p>Judged when the label became known, beside what costs nothing: the usual share (prior), and that nothing "
        f"changes.</p>{table(facts, columns, named(facts, 'model'))}"
    )


def _drift(facts: Facts) -> str:
    columns = [("columns", "columns", "text"), ("after rows", "rows", ""), ("evidence", "evidence", ",.0f"),
               ("threshold", "threshold", ",.0f"), ("promise", "promise", "text")]  # fmt: skip
    if not facts.value("drift"):
        return "<p>No column was found to be distributed otherwise than before.</p>"
    rows = numbered(facts, "drift")
    pictures = "".join(f"<pre>{facts.shown(f'{path}/picture')}</pre>" for path in rows.values())
    return (
        "<p>Columns that are distributed otherwise than before: how the first of each alarm was distributed before, "
        f"and how it is since.</p>{table(facts, columns, rows)}{pictures}"
    )


def _decisions(facts: Facts) -> str:
    rules = [("decision", "decision", "text"), ("orders", "orders", ""), ("rule", "rule", "text")]
    rungs = [("rung of the ladder", "rung", "text"), ("orders", "orders", "")]
    last = [("order", "order_id", "text"), ("at (UTC)", "ordered_at", "text"), ("decision", "decision", "text"),
            ("risk", "risk", ".2f"), ("why", "reason", "text")]  # fmt: skip
    return (
        f"{table(facts, rules, numbered(facts, 'decisions/by_rule'))}"
        f"{table(facts, rungs, numbered(facts, 'decisions/by_rung'))}"
        f"<p>The last orders that were not just accepted:</p>{table(facts, last, numbered(facts, 'decisions/last'))}"
    )


def _alerts(facts: Facts) -> str:
    kinds = [("what", "kind", "text"), ("severity", "severity", "text"), ("alerts", "alerts", "")]
    last = [("return", "return_id", "text"), ("at (UTC)", "returned_at", "text"), ("severity", "severity", "text"),
            ("what", "kind", "text"), ("why", "reason", "text")]  # fmt: skip
    return (
        f"{table(facts, kinds, numbered(facts, 'alerts/refunds'))}"
        f"<p>{facts.shown('alerts/shelves')} times a shelf was about to run empty, of {facts.shown('alerts/codes')} "
        "codes. The last refunds that were out of line:</p>"
        f"{table(facts, last, numbered(facts, 'alerts/last_refunds'))}"
    )


def _proof(facts: Facts) -> str:
    columns = [("topic", "", "text"), ("rows", "rows", ""), ("digest of its rows, in any order", "digest", "text")]
    return (
        "<p>The run was replayed twice: as recorded, step by step, and by event time, from the sources alone. All "
        f"digests agree: {facts.shown('replay_equal')}.</p>{table(facts, columns, named(facts, 'topics'))}"
    )
