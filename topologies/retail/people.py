"""Which writings of a person are one person, over sales, service and marketing; and what happened to each of them.

The linkage was learned without labels, from other people than these (data/README.md). Each writing is resolved once,
when it is first met; `sp.follow` then gives every event the entity of its writing, and hands a writing's events over
where entities merge or split.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import polars as pl

import streamproc as sp
from topologies.retail.processes import PERSON, contacts, orders, rates, returns

LINKAGE: Final = sp.LinkageModel.from_json(
    (files("topologies.retail") / "data" / "linkage.json").read_text(encoding="utf-8")
)
LIFETIME: Final = "730d"
"""How far the value of a customer looks back."""


def written(stream: sp.Stream, process: str) -> sp.Stream:
    """Writing and person of each row that has one."""
    return (
        stream
        | sp.where(pl.col("writing").is_not_null(), name=f"{process}_with_person")
        | sp.select("writing", name=f"{process}_persons", **{name: pl.col(f"as_{name}") for name in PERSON})
    )


people = (
    written(orders, "orders")
    | sp.union(written(returns, "returns"), written(contacts, "contacts"), name="writings")
    | sp.key_by(name="one_registrar")
    | sp.ordered("writing", name="writings_in_order")
    | sp.dedupe("writing", within="36500d", per="partition", name="new_writings")
    | sp.resolve(
        LINKAGE, record="writing", threshold=0.9, review=0.5,
        golden={"given_name": "most_frequent", "surname": "most_frequent", "date_of_birth": "most_frequent",
                "address_1": "longest", "suburb": "most_frequent", "postcode": "most_frequent"},
    )
)  # fmt: skip

links = (
    people
    | sp.entity_rows("links", name="links")
    | sp.rename(record="writing")
    | sp.key_by("writing", name="links_by_writing")
    | sp.ordered(name="links_in_order")
)

GUEST: Final = "guest "
"""Begins the id of somebody of whom nothing was written: such an order or return stands for itself."""


def of_whom(event: str) -> pl.Expr:
    """The writing, or for a guest the event itself."""
    return pl.col("writing").fill_null(pl.concat_str(pl.lit(GUEST), pl.col(event)))


happened = (
    sp.together(
        orders=orders
        | sp.select("country", "lines", "currency", writing=of_whom("order_id"), event=pl.col("order_id"),
                    at=pl.col("ordered_at"), amount=pl.col("gross"), name="orders_as_events")
        | sp.key_by("currency", name="orders_by_currency"),
        returns=returns
        | sp.select("amount", "currency", writing=of_whom("return_id"), event=pl.col("return_id"),
                    at=pl.col("returned_at"), name="returns_as_events")
        | sp.key_by("currency", name="returns_by_currency"),
        contacts=contacts
        | sp.where(pl.col("writing").is_not_null(), name="addressed")
        | sp.select("writing", currency=pl.lit(None, pl.String), event=pl.col("contact_id"), at=pl.col("sent_at"),
                    name="contacts_as_events")
        | sp.key_by("currency", name="contacts_by_currency"),
    )
    | sp.ordered("event", name="money_in_order")
    | sp.as_of(rates, max_age="7d", columns=("rate", "rate_id", "published_at"), name="rate")
    | sp.harmonise(
        name="in_euros",
        cents=sp.canonical.money("amount", currency_column="currency", to="EUR", otherwise="null",
                                 rates=sp.canonical.RateColumns("rate", id="rate_id", published="published_at")),
    )
    | sp.key_by("writing", name="events_by_writing")
    | sp.ordered("event", name="events_in_order")
    | sp.follow(links, keep=LIFETIME, name="person")
    | sp.key_by("entity", name="events_by_person")
)  # fmt: skip
