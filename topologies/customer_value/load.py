"""The events of four processes, made of the refunds slice.

    sales.orders, service.returns, inventory.movements   as in `topologies.refunds.load`: real
    support.cases                                        one case a cancellation, `support_case.v1`

The shop's support desk left no records, so cases are modelled on real cancellations: one case each, closed a day after
the goods came back, 6 minutes and 2 more a line of the cancellation.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import polars as pl

from topologies.refunds.load import CONTRACTS as RETAIL
from topologies.refunds.load import events as refund_events
from topologies.refunds.load import read_slice, returns

__all__ = ["CASES", "CONTRACTS", "cases", "events", "read_slice"]

CASES: Final = "support.cases"
CONTRACTS: Final = {**RETAIL, CASES: "support_case.v1"}
"""The contract of each topic."""


def events(lines: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The rows of each topic, by topic name, each sorted by event time."""
    return {**refund_events(lines), CASES: cases(lines)}


def cases(lines: pl.DataFrame) -> pl.DataFrame:
    """One row a support case."""
    return returns(lines).select(
        "customer_id",
        case_id=pl.lit("S") + pl.col("invoice_no"),
        closed_at=pl.col("returned_at") + timedelta(days=1),
        minutes=6 + 2 * pl.col("line_count"),
    )
