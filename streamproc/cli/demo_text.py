"""The demo's facts as a person reads them."""

from __future__ import annotations

from typing import Any

import click

from streamproc.cli.render import put_table


def tell_facts(answer: dict[str, Any]) -> None:
    """Persons, worth, model, drift, decisions and alerts, as tables."""
    persons, worth = answer["persons"], answer["worth"]
    put_table(
        "who is who: pairs of events that are of one person, against the truth, up to parts of the stream",
        ("up to", "events", "persons", "found", "precision", "recall", "F1", "B-cubed F1", "recall of blocks",
         "orders with returns"),
        [(share, one["events"], one["persons"], one["entities"],
          *(f"{one[key]:.4f}" for key in ("precision", "recall", "f1", "b_cubed_f1", "block_recall",
                                          "order_return_recall")))
         for share, one in (*persons["by_share"].items(), ("in the end", persons))],
    )  # fmt: skip
    click.echo(
        f"lifetime value of {worth['entities']:,} persons: {worth['said']:,.2f} EUR; by the truth "
        f"{worth['true']:,.2f} EUR; {worth['off']} of them differ, by whose events are with others\n"
    )
    put_table(
        "will a return follow within 14 days? squared error of what was said then (the less the better)",
        ("who says it", "labels", "squared error", "of the later half", "accuracy"),
        [(name, one["labels"], *(f"{one[key]:.4f}" for key in ("brier", "brier_of_last", "accuracy")))
         for name, one in answer["model"].items()],
    )  # fmt: skip
    put_table(
        "drift: columns that are distributed otherwise than before",
        ("columns", "after rows", "evidence", "threshold", "promise"),
        [(", ".join(one["columns"]), one["rows"], f"{one['evidence']:,.0f}", f"{one['threshold']:,.0f}",
          one["promise"].partition(":")[0]) for one in answer["drift"]],
    )  # fmt: skip
    put_table(
        "decisions",
        ("decision", "orders", "rule"),
        [(one["decision"], one["orders"], one["rule"]) for one in answer["decisions"]["by_rule"]],
    )
    put_table(
        "the last orders that were not just accepted (times in UTC)",
        ("order", "at", "decision", "risk", "EUR", "why"),
        [(one["order_id"], f"{one['ordered_at']:%Y-%m-%d %H:%M}", one["decision"], f"{one['risk']:.2f}",
          _euros(one["cents"]), one["reason"]) for one in answer["decisions"]["last"]],
    )  # fmt: skip
    alerts = answer["alerts"]
    put_table(
        f"alerts: {sum(one['alerts'] for one in alerts['refunds'])} refunds, {alerts['shelves']} shelves about to run "
        "out; the last refunds",
        ("return", "at", "severity", "EUR", "what", "why"),
        [(one["return_id"], f"{one['returned_at']:%Y-%m-%d %H:%M}", one["severity"], _euros(one["cents"]), one["kind"],
          one["reason"]) for one in alerts["last_refunds"]],
    )  # fmt: skip


def _euros(cents: int | None) -> str:
    return "-" if cents is None else f"{cents / 100:,.2f}"
