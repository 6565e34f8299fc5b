"""What the five processes write, in one form, and held to rules.

Nobody's word is taken for what it says: texts are brought to one form, a row that cannot be true is a dead letter with
the name of the rule, and what is only strange raises an alert on `retail.quality`. Each person that a process wrote
gets its *writing*: a pseudonym of exactly what was written. The same words have the same one wherever they come from,
and another spelling has another one; which writings are one person is found out in `people`.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import polars as pl

import streamproc as sp

LATENESS: Final = "5s"
"""How far behind its newest event a partition's next may be, and how long a process that fell silent is waited for."""
IDLE: Final = "5s"
"""A partition that has said nothing for so long, by the clock, holds nobody back."""
PERSON: Final = (
    "given_name", "surname", "street_number", "address_1", "address_2", "suburb", "postcode", "state", "date_of_birth",
)  # fmt: skip
"""What a process writes of a person. Febrl's number of the social insurance is not among it: it would be a key."""


def writings(rows: pl.DataFrame) -> pl.DataFrame:
    """A pseudonym of what was written of a person; null where nothing was."""
    written = rows.select(
        text=pl.concat_str(pl.all().fill_null(""), separator="\x1f"), there=pl.any_horizontal(pl.all().is_not_null())
    )
    made = [blake2b(text.encode(), digest_size=8).hexdigest() if there else None for text, there in written.rows()]
    return pl.DataFrame({"writing": pl.Series(made, dtype=pl.String)})


def with_writing(stream: sp.Stream, process: str) -> sp.Stream:
    """The stream with each person field in one form (`as_<field>`), and its writing."""
    form = {f"as_{name}": sp.canonical.text(name, case="lower", otherwise="null") for name in PERSON}
    return (
        stream
        | sp.harmonise(name=f"{process}_form", **form)
        | sp.stateless(writings, reads=tuple(form), name=f"{process}_writing")
    )


orders = with_writing(
    sp.source("sales.orders", contract="retail_order", lateness=LATENESS, idle_after=IDLE)
    | sp.require(
        name="true_orders",
        is_an_order=~pl.col("order_id").str.starts_with("A"),
        gross_above_zero=pl.col("gross") > 0,
        currency_known=pl.col("currency").str.len_chars() == 3,
    ),
    "orders",
) | sp.rules(
    name="usual_orders", window="1d",
    persons=sp.rule.null_rate("writing", at_most=0.5),
    repeated=sp.rule.duplicates("order_id"),
    size=sp.rule.between("gross", 0, 50_000),
)  # fmt: skip

returns = with_writing(
    sp.source("service.returns", contract="retail_return", lateness=LATENESS, idle_after=IDLE)
    | sp.require(name="true_returns", amount_above_zero=pl.col("amount") > 0),
    "returns",
) | sp.rules(
    name="usual_returns", window="1d",
    repeated=sp.rule.duplicates("return_id"),
    size=sp.rule.between("amount", 0, 10_000),
)  # fmt: skip

contacts = with_writing(
    sp.source("marketing.contacts", contract="campaign_contact", lateness=LATENESS, idle_after=IDLE), "contacts"
)

rates = (
    sp.source("finance.rates", contract="reference_rate", lateness=LATENESS, idle_after=IDLE)
    | sp.require(name="true_rates", rate_above_zero=pl.col("rate") > 0)
    | sp.key_by("currency", name="rates_by_currency")
    | sp.ordered("rate_id", name="rates_in_order")
)

movements = (
    sp.source("inventory.movements", contract="stock_movement", lateness=LATENESS, idle_after=IDLE)
    | sp.require(
        name="true_movements",
        has_description=pl.col("description").is_not_null(),
        price_above_zero=pl.col("unit_price") > 0,
    )
    # Codes differ by letter case where people typed them.
    | sp.harmonise(name="one_code", code=sp.canonical.text("stock_code", case="upper"))
    | sp.rules(
        name="usual_movements", window="1d",
        pieces=sp.rule.between("quantity", -5_000, 5_000),
        price=sp.rule.between("unit_price", 0, 1_000, at_most=0.01),
    )
)  # fmt: skip

quality = orders.alerts | sp.union(returns.alerts, movements.alerts, name="quality_alerts")
