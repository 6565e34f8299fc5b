"""bytewax, without a recovery store; its Kafka sink is at least once. WORKLOAD BROKERS SOURCE TABLE OUT FOLDER"""

from __future__ import annotations

import sys
from collections import deque
from datetime import UTC, datetime, timedelta

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.testing import run_main
from records import look_back, reader, writer

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def keyed(number: int, value: bytes) -> KafkaSinkMessage:
    return KafkaSinkMessage(number.to_bytes(8, "big"), value)


def topic(flow: Dataflow, name: str, brokers: str, of: str):
    # Up to the end of the topic: windows close there, since a key's time goes on only with its own rows.
    source = KafkaSource(
        [brokers], [of], tail=False, batch_size=10_000, add_config={"isolation.level": "read_committed"}
    )
    return op.input(name, flow, source)


def tumbling(bids):
    """The clock stands still: by the wall clock every row of a replay would be late."""
    clock = EventClock(
        lambda bid: EPOCH + timedelta(microseconds=bid["at"]), wait_for_system_duration=timedelta(milliseconds=20),
        now_getter=lambda: EPOCH,
    )  # fmt: skip
    windower = TumblingWindower(length=timedelta(seconds=60), align_to=EPOCH)
    folded = fold_window(
        "panes", bids, clock, windower, lambda: (0, 0.0), lambda pane, bid: (pane[0] + 1, pane[1] + bid["price"]),
        lambda a, b: (a[0] + b[0], a[1] + b[1]), ordered=False,
    )  # fmt: skip
    write = writer("spent")

    def told(item) -> KafkaSinkMessage:
        key, (window, (bids, spend)) = item
        row = {"bidder": int(key), "at": window * 60_000_000, "bids": bids, "spend": spend}
        return keyed(int(key), write(row))

    return op.map("told", folded.down, told)


def looked(seen, bid):
    seen = deque() if seen is None else seen
    return seen, look_back(seen, bid)


def joined(state, item):
    segment, waiting = state or (None, [])
    if item[0] == "profile":
        segment = item[1]["segment"]
        out, waiting = [{**bid, "segment": segment} for bid in waiting], []
    elif segment is None:
        out = []
        waiting.append(item[1])
    else:
        out = [{**item[1], "segment": segment}]
    return (segment, waiting), out


def main(workload: str, brokers: str, source: str, table: str, out: str, folder: str) -> None:
    flow = Dataflow("bids")
    raw = topic(flow, "source", brokers, source)
    read = reader("bid")
    if workload == "pass":
        leaving = op.map("leave", raw, lambda record: KafkaSinkMessage(record.key, record.value))
    elif workload == "filter":
        write = writer("bid")
        bids = op.map("read", raw, lambda record: read(record.value))
        kept = op.filter("kept", bids, lambda bid: bid["auction"] % 5 != 0)
        leaving = op.map("leave", kept, lambda bid: keyed(bid["bidder"], write({**bid, "price": bid["price"] * 0.75})))
    else:
        bids = op.map("read", raw, lambda record: read(record.value))
        by_bidder = op.key_on("by bidder", bids, lambda bid: str(bid["bidder"]))
        if workload == "tumbling":
            leaving = tumbling(by_bidder)
        elif workload == "look-back":
            write = writer("looked")
            rows = op.stateful_map("looked", by_bidder, looked)
            leaving = op.map("leave", rows, lambda item: keyed(item[1]["bidder"], write(item[1])))
        else:
            write, profile = writer("joined"), reader("profile")
            profiles = op.map("profiles read", topic(flow, "table", brokers, table), lambda r: profile(r.value))
            sides = op.merge(
                "sides",
                op.map_value("bid", by_bidder, lambda bid: ("bid", bid)),
                op.map_value(
                    "profile", op.key_on("profiles by bidder", profiles, lambda row: str(row["bidder"])),
                    lambda row: ("profile", row),
                ),
            )  # fmt: skip
            rows = op.stateful_flat_map("joined", sides, joined)
            leaving = op.map("leave", rows, lambda item: keyed(item[1]["bidder"], write(item[1])))
    settings = {"linger.ms": "100", "batch.size": "1000000", "queue.buffering.max.messages": "1000000"}
    op.output("sink", leaving, KafkaSink([brokers], out, add_config=settings))
    run_main(flow)


if __name__ == "__main__":
    main(*sys.argv[1:])
