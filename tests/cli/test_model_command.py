"""`streamproc model`: a version is what a learner was, by its id; it is made again bit for bit, or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import CommandLine
from onnx.reference import ReferenceEvaluator

import streamproc as sp
from streamproc.errors import DefinitionError, StateError
from streamproc.models.version import read_version

ROWS, FIRST = 10_000, 600
CONTRACTS = {
    "paid": """{"type": "record", "name": "paid", "sp:version": 1, "fields": [
        {"name": "id", "type": "string", "sp:role": "key"}, {"name": "amount", "type": "double"},
        {"name": "hour", "type": "double"}, {"name": "country", "type": "string"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""",
    "back": """{"type": "record", "name": "back", "sp:version": 1, "fields": [
        {"name": "id", "type": "string", "sp:role": "key"}, {"name": "fraud", "type": "boolean"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""",
}
TOPOLOGY = """
from river import dummy, linear_model, preprocessing, tree
paid, back = sp.source("paid", contract="paid"), sp.source("back", contract="back")
told = paid | sp.with_columns(large=pl.col("amount") * {factor})
keys = dict(labels=back, on="id", label="fraud", horizon="1h")
linear = told | sp.learn(preprocessing.StandardScaler() | linear_model.LogisticRegression(),
                         inputs=("large", "hour"), into="risk", every=32, name="linear", **keys)
race = told | sp.learn(sp.race({{"always": dummy.PriorClassifier(),
                               "tree": tree.HoeffdingTreeClassifier(grace_period=50)}}),
                       inputs=("large", "country"), into="chance", name="race", **keys)
risk = sp.Topology("risk", sinks={{"linear": linear, "race": race, "metrics": linear.side("metrics")}})
"""


@pytest.fixture
def learned(project: Path, command: CommandLine, topology: Callable[[str, str], str]) -> str:
    """A topology with two learners that ran over the first of 10,000 rows with labels, in two partitions."""
    for name, text in CONTRACTS.items():
        (project / "schemas_avro" / f"{name}.v1.avsc").write_text(text)
    write(project, command, 0, FIRST)
    name = topology("risk.py", TOPOLOGY.format(factor=2.0))
    command.fine("run", name, "--until-end")
    return name


def write(project: Path, command: CommandLine, first: int, last: int) -> None:
    dice = np.random.default_rng(first)
    paid, back = ["id,amount,hour,country,at"], ["id,fraud,at"]
    for n in range(first, last):
        amount, hour = float(dice.random()), float(dice.integers(0, 24))
        paid.append(f"p{n},{amount},{hour},{'DE' if n % 3 else 'FR'},{n * 1_000_000}")
        back.append(f"p{n},{'true' if amount + 0.01 * hour + dice.random() > 1.2 else 'false'},{n * 1_000_000 + 5}")
    for topic, lines in (("paid", paid), ("back", back)):
        (project / f"{topic}.csv").write_text("\n".join(lines) + "\n")
        command.fine("produce", f"{topic}.csv", topic, "--contract", topic, "--partitions", 2)


def test_a_version_is_kept_and_made_again_bit_for_bit(learned: str, project: Path, command: CommandLine) -> None:
    early = command.fine("model", "keep", learned, "--json").json
    assert [(one["learner"], one["task"]) for one in early] == [
        ("linear", 4), ("linear", 5), ("race", 6), ("race", 7)
    ]  # fmt: skip
    write(project, command, FIRST, ROWS)
    command.fine("run", learned, "--until-end")
    late = command.fine("model", "keep", learned, "--json").json
    assert sum(one["labels_learned"] for one in late if one["learner"] == "linear") == ROWS
    for one in (early[0], late[0], late[3]):
        made = command.fine("model", "rebuild", one["version"], learned, "--json").json
        assert made["equal"] and made["rebuilt"] == one["version"] and made["steps"] > 0 and not made["began_at_step"]
        assert made["steps_that_wrote_something_else"] == 0
    listed = command.fine("model", "list", learned, "--json").json
    assert [one["version"] for one in listed["now"]] == [one["version"] for one in late]
    assert all(one["kept"] for one in listed["now"]) and len(listed["kept"]) == 8 and not listed["refused"]
    # Another moment is another version: other parameters, offsets, metrics; and the same definitions.
    answer = command("model", "diff", early[0]["version"][:10], late[0]["version"][:10], "--json")
    assert answer.code == 1
    paths = [one["path"] for one in answer.json["parameters"]]
    assert "model: LogisticRegression._weights.large" in paths and "model: StandardScaler.means.hour" in paths
    assert {one["path"].partition(".")[0] for one in answer.json["content"]} == {
        "offsets", "metrics", "labels_learned", "state"
    }  # fmt: skip
    assert command.fine("model", "diff", late[0]["version"], late[0]["version"]).out == "the versions are the same\n"
    # Another definition of an input is told by its hash; what the learner read was recorded, so its numbers are equal.
    (project / "other.py").write_text("import polars as pl\nimport streamproc as sp\n" + TOPOLOGY.format(factor=3.0))
    other = command("model", "rebuild", late[0]["version"], "other.py", "--json")
    assert other.code == 1 and not other.json["equal"] and other.json["models_with_other_bits"] == []
    paths = [one["path"] for one in other.json["content"]]
    assert "inputs.large.version" in paths and "inputs.hour.version" not in paths and "offsets" not in paths


def test_a_version_is_shown_exported_and_begun_with(learned: str, project: Path, command: CommandLine) -> None:
    linear, _, race, _ = command.fine("model", "keep", learned, "--json").json
    shown = command.fine("model", "show", linear["version"][:8], "--json").json
    assert shown["version"] == linear["version"] and shown["libraries"]["river"] and shown["labels_learned"] > 200
    assert shown["offsets"][0][2] == 0
    text = command.fine("model", "show", linear["version"]).out
    assert "LogisticRegression._weights.large" in text and shown["inputs"]["large"]["version"] in text
    # The numbers alone give the same chances.
    command.fine("model", "export", linear["version"], "linear.json", "--form", "linear")
    numbers = json.loads((project / "linear.json").read_text())
    saved = sp.model_version(next(project.rglob(f"{linear['version']}.model")))
    x = {"large": 0.7, "hour": 3.0}
    (scaler,) = numbers["scalers"]
    z = numbers["intercept"] + sum(
        numbers["weights"][name] * (x[name] - scaler[name]["shift"]) / scaler[name]["scale"] for name in x
    )
    assert 1 / (1 + np.exp(-z)) == pytest.approx(saved.model.predict_proba_one(x)[True], rel=1e-12)
    refused = command("model", "export", race["version"], "tree.json", "--form", "linear", "--model", "tree")
    assert refused.code == 2 and "HoeffdingTreeClassifier has no linear form" in refused.err
    # A version of a race carries each of its models, and the texts that they have learned.
    command.fine("model", "export", race["version"], "race.model")
    tree = sp.model_version("race.model", model="tree")
    assert set(tree.texts["country"]) == {"DE", "FR"} and tree.model.n_nodes is not None
    step = sp.learn(tree, inputs=("large", "country"), label="fraud", into="risk").operator
    assert sorted(step.texts[1]) == ["DE", "FR"] and step.texts[0] == ()
    both = sp.race({"was": tree, "now": sp.model_version("race.model", model="always")})
    assert sorted(sp.learn(both, inputs=("large", "country"), label="fraud", into="risk").operator.texts[1]) == [
        "DE", "FR"
    ]  # fmt: skip
    with pytest.raises(DefinitionError, match="learned from country, large, its inputs here are large"):
        sp.learn(tree, inputs=("large",), label="fraud", into="risk")
    # What was exported can come back elsewhere.
    for path in list(project.rglob(f"{race['version']}.model")):
        path.unlink()
    assert command.fine("model", "import", "race.model", "--json").json["version"] == race["version"]


def test_an_onnx_graph_gives_the_same_scores(learned: str, project: Path, command: CommandLine) -> None:
    linear, _, race, _ = command.fine("model", "keep", learned, "--json").json
    command.fine("model", "export", linear["version"], "linear.onnx", "--form", "onnx")
    graph = onnx.load("linear.onnx")
    saved = sp.model_version(next(project.rglob(f"{linear['version']}.model")))
    names = graph.metadata_props[0].value.split("\n")
    assert names == list(saved.inputs)
    rows = np.random.default_rng(3).normal(size=(200, 2)) * (1.0, 24.0)
    rows[::9, 0], rows[::11, 1] = np.nan, np.nan
    (scores,) = ReferenceEvaluator(graph).run(None, {"inputs": rows})
    told = [{name: x for name, x in zip(names, row, strict=True) if not np.isnan(x)} for row in rows.tolist()]
    expected = [saved.model.predict_proba_one(one)[True] for one in told]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)
    assert np.ptp(scores) > 0.1
    command.fine("model", "export", linear["version"], "again.onnx", "--form", "onnx")
    assert (project / "again.onnx").read_bytes() == (project / "linear.onnx").read_bytes()
    refused = command("model", "export", race["version"], "tree.onnx", "--form", "onnx", "--model", "tree")
    assert refused.code == 2 and "HoeffdingTreeClassifier has no linear form" in refused.err


def test_what_is_not_to_be_believed_is_refused_with_the_reason(
    learned: str, project: Path, command: CommandLine
) -> None:
    (project / "ours.key").write_text("a key that both places know\n")
    (project / "theirs.key").write_text("another key of another place\n")
    version = command.fine("model", "keep", learned, "--json").json[0]["version"]
    command.fine("model", "export", version, "plain.model")
    command.fine("model", "export", version, "signed.model", "--sign", "ours.key")
    command.fine("model", "import", "signed.model", "--key", "ours.key")
    data = (project / "plain.model").read_bytes()
    trace = project / "trace"
    evil = [["partial", [1], [2], [3]], ["name", "os:system"], ["tuple", [f"touch {trace}"]], ["dict", []]]
    files = {
        "damaged.model": data.replace(b'"into":"risk"', b'"into":"rise"'),
        "cut.model": data[:-1],
        "unsigned.model": forged(data, signature=None),
        "foreign.model": forged(data, river="0.1.0"),
        "renamed.model": forged(data, version="0" * 32),
        "evil.model": forged(data, models={"model": evil}),
        "pickle.model": b"\x80\x04.",
    }
    for name, content in files.items():
        (project / name).write_bytes(content)
    for name, key, told in (
        ("damaged.model", None, "changed or damaged after it was signed"),
        ("cut.model", None, "changed or damaged after it was signed"),
        ("unsigned.model", None, "signed by nobody"),
        ("plain.model", "ours.key", "signed by sha256, hmac-sha256 is asked for"),
        ("signed.model", "theirs.key", "changed or damaged after it was signed"),
        ("signed.model", None, "signed by hmac-sha256, sha256 is asked for"),
        ("foreign.model", None, "written by River 0.1.0, installed is"),
        ("renamed.model", None, "says that it is version 000000000000 and is"),
        ("evil.model", None, "'os:system', which is not on the list"),
        ("pickle.model", None, "not a saved model of streamproc"),
        ("nothing.model", None, "cannot be read: No such file"),
    ):
        answer = command("model", "import", name, *(("--key", key) if key else ()))
        assert answer.code == 2 and told in answer.err and name in answer.err, (name, answer.err)
        if key is None and name != "nothing.model":
            with pytest.raises(StateError, match=name):
                sp.model_version(project / name)
    assert not trace.exists()
    # A foreign one can be looked at: that makes nothing of it.
    assert command.fine("model", "show", "foreign.model", "--json").json["labels_learned"] > 0
    store = next(project.rglob(f"{version}.model"))
    store.write_bytes(files["damaged.model"])
    listed = command("model", "list", "--json")
    assert listed.code == 1 and "damaged" in listed.json["refused"][0]["why"]
    command.fine("model", "keep", learned)
    assert store.read_bytes() == data, "what is kept again is whole again"


def forged(data: bytes, *, models: Any = None, **header: Any) -> bytes:
    """A file as somebody else would write it: correctly digested, with another header or body."""
    line, _, body = data.partition(b"\n")
    told = json.loads(line) | header
    if models is not None:
        body = json.dumps(models, separators=(",", ":")).encode()
        told["bytes"] = len(body)
        parts = {name: hashlib.sha256(json.dumps(t, separators=(",", ":")).encode()).hexdigest()
                 for name, t in models.items()}  # fmt: skip
        whole = json.dumps({"content": told["content"], "models": parts}, sort_keys=True, separators=(",", ":"))
        told["version"] = hashlib.sha256(whole.encode()).hexdigest()[:32]
    del told["signature"]
    if header.get("signature", "") is not None:
        plain = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
        told["signature"] = hashlib.sha256(plain + b"\n" + body).hexdigest()
    else:
        del told["signed"]
    return json.dumps(told).encode() + b"\n" + body


def test_the_same_version_is_the_same_file(learned: str, project: Path, command: CommandLine) -> None:
    version = command.fine("model", "keep", learned, "--learner", "race", "--json").json[0]["version"]
    for name in ("a.model", "b.model"):
        command.fine("model", "export", version, name)
    assert (project / "a.model").read_bytes() == (project / "b.model").read_bytes()
    assert read_version((project / "a.model").read_bytes()).id == version


def test_mistakes_are_told(learned: str, project: Path, command: CommandLine) -> None:
    version = command.fine("model", "keep", learned, "--json").json[0]["version"]
    (project / "short.key").write_text("short")
    for words, told in (
        (("show", "zz"), "there is no version 'zz'"),
        (("show", ""), "versions begin with ''"),
        (("keep", learned, "--learner", "liner"), "did you mean 'linear'"),
        (("keep", "card_risk.py"), "card_risk"),
        (("rebuild", version, "card_risk.py"), "is of 'risk' version 1, not of 'card_risk' version 1"),
        (("list", "--key", "short.key"), "has 5 bytes"),
    ):
        answer = command("model", *words)
        assert answer.code == 2 and told in answer.err, (words, answer.err)
