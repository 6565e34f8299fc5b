"""Trains a model with Splink, writes it and what Splink says of 200 pairs, and has Splink take our own export of it.

    python tests/entities/splink/make.py        (extra `quality`; Splink 5.0.0 made what lies here)

`test_splink_model.py` reads both files: a test needs no Splink.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import splink.comparison_library as library
from splink import Linker, SettingsCreator, block_on
from splink.internals.duckdb.database_api import DuckDBAPI

from streamproc.entities.splink_model import from_splink, to_splink
from topologies.people.load import read_records

HERE = Path(__file__).parent
RECORDS = 1_500
RULES = (block_on("surname"), block_on("date_of_birth"), block_on("substr(given_name, 1, 2)", "postcode"))


def linker(settings: Any) -> Any:
    api = DuckDBAPI(connection=duckdb.connect(":memory:"))
    return Linker(api.register(read_records().drop("recorded_at").head(RECORDS).to_arrow()), settings, log_level=40)


def said(one: Any) -> pl.DataFrame:
    """Pairs with their match weights, the lightest first."""
    pairs = pl.from_arrow(one.inference.predict().as_duckdbpyrelation().to_arrow_table())
    assert isinstance(pairs, pl.DataFrame)
    kept = pairs.select("record_id_l", "record_id_r", "match_weight", "match_probability")
    return kept.sort("match_weight", "record_id_l", "record_id_r")


def main() -> None:
    settings = SettingsCreator(
        link_type="dedupe_only", unique_id_column_name="record_id", blocking_rules_to_generate_predictions=list(RULES),
        comparisons=[
            library.JaroWinklerAtThresholds("given_name", [0.92, 0.88, 0.7]).configure(term_frequency_adjustments=True),
            library.JaroWinklerAtThresholds("surname", [0.92, 0.88]).configure(term_frequency_adjustments=True),
            library.DamerauLevenshteinAtThresholds("date_of_birth", [1, 2]),
            library.LevenshteinAtThresholds("suburb", [2]), library.ExactMatch("postcode"),
        ],
    )  # fmt: skip
    made = linker(settings)
    made.training.estimate_probability_two_random_records_match([RULES[0], RULES[2]], recall=0.8)
    made.training.estimate_u_using_random_sampling(max_pairs=1e6, seed=1)
    for rule in RULES:
        made.training.estimate_parameters_using_expectation_maximisation(rule)
    (HERE / "model.json").unlink(missing_ok=True)
    made.misc.save_model_to_json(str(HERE / "model.json"))
    pairs = said(made)
    pairs.gather_every(max(1, pairs.height // 200)).write_csv(HERE / "pairs.csv")
    ours = json.loads(to_splink(from_splink((HERE / "model.json").read_text())))
    again = said(linker(ours | {"unique_id_column_name": "record_id"}))
    both = pairs.join(again, on=["record_id_l", "record_id_r"], how="full", suffix="_again")
    apart = (both["match_weight"] - both["match_weight_again"]).abs()
    assert both.height == pairs.height and apart.null_count() == 0
    print(f"{pairs.height} pairs; through our export Splink's weights differ by at most {apart.max()}")


if __name__ == "__main__":
    main()
