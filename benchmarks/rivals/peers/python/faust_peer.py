"""faust-streaming, at least once, tables in memory with changelogs. WORKLOAD BROKERS SOURCE TABLE OUT FOLDER"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from datetime import timedelta

import faust
from records import look_back, reader, writer


def main(workload: str, brokers: str, source: str, table: str, out: str, folder: str) -> None:
    app = faust.App(
        out.replace(".", "-"), broker=[f"kafka://{brokers}"], store="memory://", datadir=folder, web_enabled=False,
        topic_disable_leader=True, consumer_auto_offset_reset="earliest", broker_commit_interval=1.0,
        topic_partitions=4, stream_wait_empty=False, producer_linger=0.1, producer_max_batch_size=1_000_000,
    )  # fmt: skip
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    bids, sink, profiles = app.topic(source, **raw), app.topic(out, **raw), app.topic(table, **raw)
    read = reader("bid")
    if workload == "pass":

        @app.agent(bids)
        async def passes(stream):
            async for event in stream.events():
                await sink.send(key=event.key, value=event.value)

    elif workload == "filter":
        write = writer("bid")

        @app.agent(bids)
        async def keeps(stream):
            async for event in stream.events():
                bid = read(event.value)
                if bid["auction"] % 5 != 0:
                    bid["price"] *= 0.75
                    await sink.send(key=event.key, value=write(bid))

    elif workload == "tumbling":
        # Without an expiry: it would be by the wall clock.  Each change is sent; the newest row of a pane counts.
        write = writer("spent")
        panes = app.Table("panes", default=lambda: [0, 0.0]).tumbling(timedelta(seconds=60)).relative_to_stream()

        @app.agent(bids)
        async def sums(stream):
            async for event in stream.events():
                bid = read(event.value)
                number, spend = panes[bid["bidder"]].value()
                panes[bid["bidder"]] = number, spend = [number + 1, spend + bid["price"]]
                at = bid["at"] // 60_000_000 * 60_000_000
                row = {"bidder": bid["bidder"], "at": at, "bids": number, "spend": spend}
                await sink.send(key=event.key, value=write(row))

    elif workload == "look-back":
        write = writer("looked")
        seen = app.Table("seen", default=list)

        @app.agent(bids)
        async def looks(stream):
            async for event in stream.events():
                bid = read(event.value)
                mine = deque(seen[bid["bidder"]])
                row = look_back(mine, bid)
                seen[bid["bidder"]] = list(mine)
                await sink.send(key=event.key, value=write(row))

    elif workload == "join":
        write, read_profile = writer("joined"), reader("profile")
        segments = app.Table("segments", default=lambda: None)

        @app.agent(profiles)
        async def keeps_profiles(stream):
            async for event in stream.events():
                profile = read_profile(event.value)
                segments[profile["bidder"]] = profile["segment"]

        @app.agent(bids)
        async def joins(stream):
            async for event in stream.events():
                bid = read(event.value)
                while (segment := segments[bid["bidder"]]) is None:
                    await asyncio.sleep(0.05)
                await sink.send(key=event.key, value=write({**bid, "segment": segment}))

    async def run() -> None:
        await app.start()
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main(*sys.argv[1:])
