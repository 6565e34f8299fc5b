"""Every row has one fate: in = fine + flagged + quarantined; the corrupted is refused exactly, and sent again once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamproc as sp
from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from connectors.registry import FolderRegistry
from streamproc.cli.app import run as command
from streamproc.cli.workspace import load_topology
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.runtime.binding import bind
from streamproc.runtime.drain import drain
from streamproc.runtime.reading import read_blocks
from streamproc.testing import drive

ORDER = parse_contract("""{"type": "record", "name": "order", "sp:version": 1, "fields": [
    {"name": "placed", "type": ["null", "string"]}, {"name": "weight", "type": ["null", "string"]},
    {"name": "tel", "type": "string", "sp:pii": "direct"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")
CAN = sp.canonical
FIELDS = {
    "placed_at": CAN.instant("placed", formats=("iso", "%d.%m.%Y %H:%M"), zone="Europe/Berlin"),
    "kg": CAN.quantity("weight", unit="g", to="kg", otherwise="null"),
    "phone": CAN.phone("tel", region="DE", default="none"),
}
CLEAN = sp.Topology("clean", sinks={"orders": sp.source("orders", contract=ORDER) | sp.harmonise(**FIELDS)})


def rows(placed: list[str | None], weight: list[str | None], tel: list[str]) -> pl.DataFrame:
    at = pl.Series(range(len(placed)), dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"placed": placed, "weight": weight, "tel": tel, "at": at}, schema=ORDER.schema.polars())


texts = (
    st.none() | st.text(max_size=12) | st.sampled_from(["2026-01-02T03:04:05Z", "02.01.2026 03:04", "1.5", "1e309", ""])
)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=80))
def test_what_comes_is_fine_flagged_or_quarantined_whatever_comes(cells: list[tuple[str | None, ...]]) -> None:
    placed, weight, tel = (list(column) for column in zip(*cells, strict=True))
    out = drive(CLEAN, orders=rows(placed, weight, [t or "" for t in tel]))
    fates = out.fates("orders")
    assert fates["in"] == len(cells) == fates["emitted"] + fates["dead_lettered"]
    statuses = [out["orders"][f"{name}_status"] for name in FIELDS]
    flagged = pl.select(pl.any_horizontal([one.is_in(["NULL", "DEFAULT"]) for one in statuses])).to_series().sum()
    fine = out["orders"].height - flagged
    assert fine + flagged + out.dead_letters.height == len(cells)
    # A value is null exactly where its status says so.
    for name, status in zip(FIELDS, statuses, strict=True):
        assert (out["orders"][name].is_null() == status.is_in(["MISSING", "NULL"])).all()
    # And the originals are there still, row for row, but for those that were refused.
    refused = set(out.dead_letters["offset"].to_list())
    assert len(refused) == out.dead_letters.height
    came = [(p, w, t or "") for n, (p, w, t) in enumerate(cells) if n not in refused]
    assert out["orders"].select("placed", "weight", "tel").rows() == came


def test_one_percent_corrupted_at_known_places_is_refused_exactly_there() -> None:
    random = np.random.default_rng(3)
    count = 5_000
    placed: list[str | None] = [
        f"{day:02d}.03.2026 12:{minute:02d}" for day, minute in random.integers(1, 29, (count, 2)).tolist()
    ]
    bad = sorted(random.choice(count, count // 100, replace=False).tolist())
    for number, row in enumerate(bad):
        placed[row] = ("soon", "31.02.2026 12:00", "12.03.2026", "2026-03-12T25:00:00Z")[number % 4]
    known = MemoryRegistry([ORDER])
    given_rows = rows(placed, ["1500"] * count, ["030 1234567"] * count)
    out = drive(CLEAN, orders=given_rows, registry=known, steps=iter([700] * 10_000))
    assert sorted(out.dead_letters["offset"].to_list()) == bad
    assert set(out.dead_letters["reason"]) == {"placed_at: no time of a declared form"}
    assert set(out.dead_letters["step"]) == {"harmonise"}
    # Each holds the bytes that came, which begin with the id of their schema, and where they lay.
    assert set(out.dead_letters.select("topic", "partition", "encoding").rows()) == {("orders", 0, "record")}
    blocks = read_blocks(out.log, "orders")
    came = {offset: block.value(at) for block in blocks for at, offset in enumerate(block.offsets)}
    schema_id = known.adopt(ORDER)
    for offset, payload in out.dead_letters.select("offset", "payload").iter_rows():
        assert payload == came[offset] and payload[:5] == b"\0" + schema_id.to_bytes(4, "big")
    assert set(out["orders"]["kg"]) == {1.5} and set(out["orders"]["phone"]) == {"+49301234567"}


TOPOLOGY = """
import streamproc as sp
orders = sp.source("orders", contract="order", lateness="1d") | sp.harmonise(
    placed_at=sp.canonical.instant("placed", formats=FORMATS, zone="UTC"))
topology = sp.Topology("clean", version=VERSION, sinks={"orders": sp.sink(orders, topic="clean.harmonised")})
"""


def test_dead_letters_sent_again_after_the_fix_arrive_exactly_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schemas_avro").mkdir()
    (tmp_path / "schemas_avro" / "order.v1.avsc").write_text(json.dumps(dict(ORDER.avro)), encoding="utf-8")
    old, new = "clean_old.py", "clean_new.py"
    (tmp_path / old).write_text(TOPOLOGY.replace("FORMATS", "('%Y-%m-%d',)").replace("VERSION", "1"))
    (tmp_path / new).write_text(TOPOLOGY.replace("FORMATS", "('%Y-%m-%d', '%d.%m.%Y')").replace("VERSION", "2"))
    given = rows(["2026-01-02", "02.01.2026", "2026-01-03", "03.01.2026"], [None] * 4, ["t"] * 4)
    given.with_columns(pl.col("at").dt.to_string("%Y-%m-%dT%H:%M:%S%.fZ")).write_csv(tmp_path / "orders.csv")

    def said(*words: str) -> str:
        capsys.readouterr()
        assert command(list(words)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    def harmonised() -> list[str]:
        lines = said("subscribe", "clean.harmonised").splitlines()
        return sorted(json.loads(line)["placed"] for line in lines)

    said("produce", "orders.csv", "orders", "--contract", "order")
    said("run", old, "--until-end")
    assert harmonised() == ["2026-01-02", "2026-01-03"]
    listed = json.loads(said("dlq", "list", old, "--json"))
    assert [(one["reason"], one["rows"]) for one in listed] == [("placed_at: no time of a declared form", 2)]
    with EmbeddedLog(tmp_path / ".streamproc" / "log.db") as log:
        registry = FolderRegistry((tmp_path / "schemas_avro",))
        drain(bind(load_topology(old), log, registry), log, DirectoryCheckpoints(".streamproc/log.checkpoints"))
    said("upgrade", new)
    assert json.loads(said("dlq", "replay", new, "--json"))["sent"] == {"orders": 2}
    said("run", new, "--until-end")
    every_one_once = ["02.01.2026", "03.01.2026", "2026-01-02", "2026-01-03"]
    assert harmonised() == every_one_once
    assert json.loads(said("dlq", "replay", new, "--json"))["sent"] == {}
    said("run", new, "--until-end")
    assert harmonised() == every_one_once
