"""Apache Beam's trigger transcripts agree on what windows hold when the watermark passes their end.

Beam writes the last moment of a window: its [0, 9] is our [0, 10). Only firings at the end of a window are compared:
what Beam emits earlier or later depends on triggers, which this engine does not have (`emit="update"` and the late
stream are its answers). So values of a first firing at the watermark must be ours.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from timed_streams import STREAM

from streamproc.batch import EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.event_time import MIN_TIME
from streamproc.keys import keys_of
from streamproc.operator import StepTime
from streamproc.operators.aggregates import count, max, min, total
from streamproc.operators.sessions import session
from streamproc.operators.windows import tumbling

TRANSCRIPTS = list(yaml.safe_load_all((Path(__file__).parent / "data" / "beam_transcripts.yaml").read_text()))


def _operator(window: str) -> Any:
    kind, size = re.fullmatch(r"(FixedWindows|Sessions)\((\d+)\)", window).groups()  # type: ignore[union-attr]
    of = {"n": count(), "total": total("i"), "least": min("i"), "most": max("i")}
    return tumbling(f"{size}us", **of).operator if kind == "FixedWindows" else session(f"{size}us", **of).operator


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript["name"])
def test_windows_hold_what_beam_says_when_they_close(transcript: dict[str, Any]) -> None:
    operator = _operator(transcript["window_fn"])
    state = operator.open(STREAM)
    watermark = MIN_TIME
    closed: list[tuple[int, ...]] = []
    compared = 0
    for event in transcript["transcript"]:
        ((kind, what),) = event.items()
        if kind == "expect":
            for expected in what:
                start, last = expected["window"]
                end = last + 1
                values = expected["values"]
                if end <= watermark and not expected.get("late") and expected.get("nonspeculative_index", 0) == 0:
                    assert (start, end, len(values), sum(values), values[0], values[-1]) in closed
                    compared += 1
            continue
        times = what if kind == "input" else []
        watermark = what if kind == "watermark" else watermark
        meta = np.zeros((len(times), WIDTH), np.int64)
        meta[:, EVENT_TIME], meta[:, WATERMARK] = times, watermark
        meta[:, ROW] = 2 * np.arange(len(times)) + 1
        frame = pl.DataFrame({"k": ["all"] * len(times), "i": times}, schema={"k": pl.String, "i": pl.Int64})
        batch = Batch(frame, meta, keys_of(frame, ["k"]))
        time = StepTime(np.full(len(times) or 1, watermark), 1)
        state, output = operator.process(state, (batch,), time)
        rows = output.rows.frame.with_columns(pl.col("window_start", "window_end").to_physical())
        closed += rows.select("window_start", "window_end", "n", "total", "least", "most").rows()
    assert compared
