"""What an alert of a rule is: its columns."""

from __future__ import annotations

from typing import Final

import polars as pl

from streamproc.contracts.model import Field, Schema

STATUS: Final = pl.Enum(["RAISED", "ONGOING", "CLEARED"])
"""RAISED: the rule is broken since this window.  ONGOING: it still is.  CLEARED: it is kept again."""
RAISED, ONGOING, CLEARED = range(3)
_TIME: Final = pl.Datetime("us", "UTC")

ALERT: Final = Schema(
    (
        Field("rule", pl.String()),
        Field("status", STATUS),
        Field("since", _TIME, doc="the start of the first window that broke it"),
        Field("window_start", _TIME, doc="of the last window that this alert tells of"),
        Field("window_end", _TIME),
        Field("windows", pl.Int64(), doc="windows that broke it, folded into this alert"),
        Field("broken", pl.Int64(), doc="rows that broke it, in these windows"),
        Field("rows", pl.Int64(), doc="all rows of the last window"),
        Field(
            "measured", pl.Float64(), doc="share of broken rows in the last window; rows of a volume; seconds of age"
        ),
    )
)
