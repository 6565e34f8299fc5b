"""`train-linkage` and `explain-match`, as a person types them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from streamproc.cli.app import run
from topologies.people.load import FIELDS, RECORDS, read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linkage")
    read_records().drop("recorded_at").head(2_000).write_csv(folder / "records.csv")
    return folder


def test_a_linkage_is_learned_and_a_match_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, model, picture = (str(folder / name) for name in ("records.csv", "linkage.json", "waterfall.svg"))
    assert run(["train-linkage", records, "--columns", ",".join(FIELDS), "--out", model, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["records"] == 2_000 and told["expected_matches"] > 500 and told["unlearned"] == []
    explain = ["explain-match", "r0", "r1", "--model", model, "--records", records]
    assert run([*explain, "--json", "--picture", picture]) == 0
    told = json.loads(capsys.readouterr().out)
    total = told["prior"] + sum(field["weight"] + field["term_frequency"] for field in told["fields"])
    assert math.isclose(total, told["weight"], abs_tol=1e-9)
    assert Path(picture).read_text().startswith("<svg")
    assert run(explain) == 0
    assert "posterior" in capsys.readouterr().out


def test_a_linkage_is_learned_from_a_topic_as_from_the_file_that_was_written_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = read_records().head(1_000)
    frame.write_parquet("records.parquet")
    assert run(["produce", "records.parquet", RECORDS, "--contract", "person_record", "--partitions", "1"]) == 0
    capsys.readouterr()
    told = []
    for records in ("records.parquet", RECORDS):
        assert run(["train-linkage", records, "--columns", ",".join(FIELDS), "--out", f"{records}.json", "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["records"] == told[1]["records"] == 1_000
    assert Path("records.parquet.json").read_text() == Path(f"{RECORDS}.json").read_text()
    assert run(["explain-match", "r0", "r1", "--model", f"{RECORDS}.json", "--records", RECORDS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == told[1]["version"]


def test_mistakes_say_the_way_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, model = str(folder / "records.csv"), str(folder / "none.json")
    assert run(["train-linkage", records, "--compare", "surnam:name", "--out", model]) == 2
    assert "did you mean 'surname'?" in capsys.readouterr().err
    assert run(["train-linkage", str(folder / "nothing.csv"), "--out", model]) == 2
    assert "there is no file" in capsys.readouterr().err
