"""Whether a client lost a connection, or gave up an answer, by its own statistics: for the path by objects.

`connectors.kafka.requests` counts requests; confluent-kafka's classes do not let us. But librdkafka only sends a
request again after it gave up the first one, and it gives one up when its connection ends, or its time is over: both
are counted for each broker. Statistics come at an interval, so the next transaction waits for one; and a connection
that nothing was lost on counts too, which costs a new client now and then.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

STATISTICS_MS: Final = 50
_PATIENCE_S: Final = 2.0
_Counts = dict[str, tuple[int, int, int]]


class Losses:
    """The statistics callback of one client, and what it heard."""

    def __init__(self) -> None:
        self._text = ""
        self._known: _Counts = {}

    def __call__(self, text: str) -> None:
        """Keeps the newest statistics; they are taken apart only if somebody asks."""
        self._text = text

    def since(self, client: Any, moment: float) -> bool:
        """Whether something was lost since the last look, by statistics later than a moment of the monotonic clock."""
        found, known = self._heard(client, moment), self._known
        if found is None:
            return True
        self._known = found
        if known.keys() - found.keys():
            return True  # Its counts went with it.
        for name, (gone, late, sent) in found.items():
            before = known.get(name, (0, 0, 0))
            if (gone, late) != before[:2] or sent < before[2]:
                return True
        return False

    def _heard(self, client: Any, moment: float) -> _Counts | None:
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            told: dict[str, Any] = json.loads(self._text) if self._text else {"ts": 0}
            if told["ts"] >= moment * 1e6:
                return {
                    name: (broker["disconnects"], broker["req_timeouts"], broker["tx"])
                    for name, broker in told["brokers"].items()
                    # Where one asks for the way at first; no transaction goes there.
                    if broker["nodeid"] >= 0 or broker["source"] != "configured"
                }
            self._text = ""
            client.poll(0.005)
        return None
