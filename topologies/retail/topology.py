"""The retail story: one business, five processes that share no key, and what can be known and done across them.

    processes   what sales, service, inventory, marketing and finance write: one form, rules, pseudonyms of writings
    people      which writings are one person; every event in euros, with its person
    value       features of each person and each stock code: customer lifetime value, recency, contact response
    risk        will this order be followed by a return? scores, decisions with reasons, drift
    alarms      refunds out of line, shelves that run empty
"""

from __future__ import annotations

import streamproc as sp
from topologies.retail.alarms import refund_alerts, stock_alerts
from topologies.retail.people import people
from topologies.retail.processes import quality
from topologies.retail.risk import decided, decisions, drift, label_drift, scored
from topologies.retail.value import customers, events, stock_codes

retail = sp.Topology(
    "retail",
    version=1,
    owner="retail-analytics",
    scope="fraud-prevention",
    sla=sp.Sla(p99="10s", staleness="1h"),
    sinks={
        "links": sp.sink(people | sp.entity_rows("links", name="told_links"), contract="person_link"),
        "people": sp.sink(people | sp.entity_rows("golden", name="golden_records"), contract="golden_person",
                          latest=True, key="entity_id"),
        "doubts": sp.sink(people | sp.entity_rows("review", name="doubtful_pairs"), contract="person_pair"),
        "events": sp.sink(events, contract="person_event"),
        "customers": sp.sink(customers, contract="customer_value", latest=True, key="entity"),
        "stock": sp.sink(stock_codes, contract="stock_state", latest=True),
        "metrics": sp.sink(scored.side("metrics"), contract="learner_metrics"),
        "calibration": sp.sink(scored.side("calibration"), contract="chance_calibration"),
        "decisions": sp.sink(decisions, contract="order_decision", key="order_id", identified=True),
        "decision_log": sp.sink(decided.side("log"), contract="order_decision_line"),
        "refund_alerts": sp.sink(refund_alerts, contract="retail_refund_alert", identified=True),
        "stock_alerts": sp.sink(stock_alerts, contract="stock_alert", identified=True),
        "drift": sp.sink(drift, contract="drift_alarm", identified=True),
        "label_drift": sp.sink(label_drift, contract="drift_alarm", identified=True),
        "quality": sp.sink(quality, contract="quality_alert"),
    },
    doc="Who bought, gave back and was written to; what it is worth; what to do with the next order.",
)  # fmt: skip
