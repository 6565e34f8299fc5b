"""A model that Splink trained and wrote weighs pairs here as Splink weighs them. `splink/make.py` made both files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from streamproc.entities.explanation import explain_match
from streamproc.entities.splink_model import from_splink, with_frequencies
from topologies.people.load import read_records

SAID = Path(__file__).parent / "splink"
RECORDS = 1_500


def test_pairs_weigh_what_splink_says_that_they_do() -> None:
    records = read_records().head(RECORDS)
    model = with_frequencies(from_splink((SAID / "model.json").read_text(encoding="utf-8")), records)
    assert [str(one) for one in model.blocks] == ["surname", "date_of_birth", "given_name[:2] + postcode"]
    pairs = pl.read_csv(SAID / "pairs.csv")
    assert pairs.height > 150 and pairs["match_probability"].min() < 0.01 and pairs["match_probability"].max() > 0.99
    rarities, missing = 0, 0
    for left, right, weight, chance in pairs.iter_rows():
        both = records.filter(pl.col("record_id").is_in([left, right]))
        told = explain_match(model, both, names=(left, right))
        assert told.weight == pytest.approx(weight, abs=1e-6), (left, right)
        assert told.posterior == pytest.approx(chance, abs=1e-9)
        rarities += any(bar.rarity for bar in told.bars)
        missing += any(bar.level == "missing" for bar in told.bars)
    assert rarities > 20 and missing > 5
