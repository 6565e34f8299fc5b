"""quixstreams, exactly once, state in RocksDB with changelogs. WORKLOAD BROKERS SOURCE TABLE OUT FOLDER"""

from __future__ import annotations

import logging
import sys
from collections import deque
from datetime import timedelta

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Sum
from records import look_back, reader, writer

BYTES = dict.fromkeys(("key_serializer", "key_deserializer", "value_serializer", "value_deserializer"), "bytes")


def remembered(bid, state):
    """The bid and its look-back; the state is a list, written anew for each bid."""
    seen = deque(tuple(pair) for pair in state.get("seen", []))
    row = look_back(seen, bid)
    state.set("seen", list(seen))
    return row


def main(workload: str, brokers: str, source: str, table: str, out: str, folder: str) -> None:
    app = Application(
        broker_address=brokers, consumer_group=out, auto_offset_reset="earliest", commit_interval=1.0,
        processing_guarantee="exactly-once", state_dir=folder, loglevel=logging.WARNING,
        producer_extra_config={"linger.ms": 100, "batch.size": 1_000_000, "queue.buffering.max.messages": 1_000_000},
        consumer_extra_config={"queued.min.messages": 400_000},
    )  # fmt: skip
    sink = app.topic(out, **BYTES)
    stream = app.dataframe(app.topic(source, **BYTES))
    if workload != "pass":
        stream = stream.apply(reader("bid"))
    if workload == "filter":
        stream = stream.filter(lambda bid: bid["auction"] % 5 != 0)
        stream = stream.apply(lambda bid: {**bid, "price": bid["price"] * 0.75}).apply(writer("bid"))
    elif workload == "tumbling":
        windows = stream.tumbling_window(timedelta(seconds=60), grace_ms=timedelta(milliseconds=20))
        stream = windows.agg(bids=Count(), spend=Sum("price")).final(closing_strategy="partition")
        write = writer("spent")
        stream = stream.apply(
            lambda pane, key, stamp, headers: write(
                {"bidder": int.from_bytes(key, "big"), "at": pane["start"] * 1000, "bids": pane["bids"],
                 "spend": pane["spend"]}
            ),
            metadata=True,
        )  # fmt: skip
    elif workload == "look-back":
        stream = stream.apply(remembered, stateful=True).apply(writer("looked"))
    elif workload == "join":
        profiles = app.dataframe(app.topic(table, **BYTES)).apply(reader("profile"))
        stream = stream.join_asof(
            profiles, how="inner", grace_ms=timedelta(days=365),
            on_merge=lambda bid, profile: {**bid, "segment": profile["segment"]},
        ).apply(writer("joined"))  # fmt: skip
    stream.to_topic(sink)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
