"""Payments, some of which are asked back, and a topology that learns which ones and says when to learn anew.

Tests of the command line run it on the embedded log and on Kafka.
"""

from __future__ import annotations

import numpy as np

HOUR = 3_600_000_000
DAY = 24 * HOUR
CONTRACTS = {
    "paid": """{"type": "record", "name": "paid", "sp:version": 1, "fields": [
        {"name": "id", "type": "string", "sp:role": "key"}, {"name": "amount", "type": "double"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""",
    "back": """{"type": "record", "name": "back", "sp:version": 1, "fields": [
        {"name": "id", "type": "string", "sp:role": "key"}, {"name": "fraud", "type": "boolean"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""",
}
_TOPOLOGY = """
from river import linear_model, preprocessing
paid = sp.source("paid", contract="paid", lateness="10m")
back = sp.source("back", contract="back")
model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
scored = paid | sp.learn({model}, inputs=("amount",), into="risk", labels=back, on="id", label="fraud", horizon="6h")
alarms = scored | sp.where(pl.col("amount") > 0.5)
requests = back | sp.retrain(harm=alarms, cooldown="2d", cut="1d", window="18h", also=(scored,), name="again")
risk = sp.Topology("risk", {version}sinks={{"scored": scored, "requests": requests}})
"""


def written_topology(model: str = "model", version: str = "") -> str:
    """The topology's text, without its first imports, for another model or version."""
    return _TOPOLOGY.format(model=model, version=version)


def csv(topic: str, first: int, last: int, *, every: int) -> str:
    """Payments, or what became of them, one each so many microseconds of event time."""
    lines = ["id,amount,at" if topic == "paid" else "id,fraud,at"]
    for at in range(first, last, every):
        amount = float(np.random.default_rng(at // every).random())
        told = amount if topic == "paid" else ("true" if amount > 0.6 else "false")
        lines.append(f"p{at // every},{told},{at + (0 if topic == 'paid' else 5)}")
    return "\n".join(lines) + "\n"
