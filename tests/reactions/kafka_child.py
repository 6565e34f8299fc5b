"""A process that reacts on Kafka, to be killed: it appends the number of each event to a file as its side effect.

python kafka_child.py BOOTSTRAP FILE PAUSE_S
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator

from events import registry

from connectors.faust import FaustFeed
from connectors.kafka import KafkaLog, KafkaSettings, open_kafka_log
from streamproc.reaction import Event
from streamproc.runtime.reactions.definition import Reactions
from streamproc.runtime.reactions.log_thread import LogThread
from streamproc.runtime.reactions.plane import ReactionPlane


def opener(bootstrap: str):
    @contextlib.contextmanager
    def opened() -> Iterator[KafkaLog]:
        with open_kafka_log(KafkaSettings((bootstrap,))) as log:
            yield log

    return opened


async def main(bootstrap: str, path: str, pause: float) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def notify(event: Event) -> None:
        await asyncio.sleep(pause)
        os.write(file, f"{event.row['number']} {event.id}\n".encode())

    pager = Reactions("killed", handlers={"killed.alerts": notify})
    async with LogThread(opener(bootstrap)) as log:
        feed = FaustFeed({"bootstrap.servers": bootstrap}, pager.group, tuple(pager.handlers), ask=log)
        await ReactionPlane(pager, log, registry()).run(feed, until_end=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
