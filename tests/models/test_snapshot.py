"""A saved model is judged whole before a line of it is believed."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from river import (
    anomaly,
    compose,
    drift,
    dummy,
    ensemble,
    forest,
    linear_model,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    rules,
    tree,
)

from streamproc.errors import StateError
from streamproc.models.allowed import is_allowed
from streamproc.models.sealing import river_version
from streamproc.models.snapshot import describe, read_snapshot, write_snapshot

CLASSIFIERS: dict[str, Any] = {
    "scaled logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "FTRL": lambda: linear_model.LogisticRegression(optimizer=optim.FTRLProximal()),
    "Adam": lambda: linear_model.LogisticRegression(optimizer=optim.Adam()),
    "union": lambda: (
        (compose.Select("a") | preprocessing.StandardScaler()) + compose.Select("b") | linear_model.LogisticRegression()
    ),
    "Hoeffding tree": lambda: tree.HoeffdingTreeClassifier(grace_period=50),
    "adaptive tree": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1, grace_period=50),
    "naive Bayes": naive_bayes.GaussianNB,
    "forest": lambda: forest.ARFClassifier(n_models=3, seed=1),
    "Mondrian": lambda: forest.AMFClassifier(n_estimators=3, seed=1),
    "patches": lambda: ensemble.SRPClassifier(n_models=3, seed=1),
    "nearest": neighbors.KNNClassifier,
    "prior": dummy.PriorClassifier,
    "vote": lambda: ensemble.VotingClassifier([linear_model.LogisticRegression(), naive_bayes.GaussianNB()]),
}
REGRESSORS: dict[str, Any] = {
    "rules": rules.AMRules,
    "regression tree": lambda: tree.HoeffdingTreeRegressor(grace_period=50),
    "Bayes": linear_model.BayesianLinearRegression,
}


def rows(n: int, seed: int) -> list[tuple[dict[str, float], float]]:
    dice = random.Random(seed)
    told = [{"a": dice.gauss(0, 1), "b": dice.random()} for _ in range(n)]
    return [(x, 2 * x["a"] + x["b"]) for x in told]


@pytest.mark.parametrize("name", [*CLASSIFIERS, *REGRESSORS])
def test_a_model_goes_on_from_its_snapshot_as_if_nothing_had_been(name: str) -> None:
    binary = name in CLASSIFIERS
    model = (CLASSIFIERS | REGRESSORS)[name]()
    for x, y in rows(200, 1):
        model.learn_one(x, y > 0 if binary else y)
    data = write_snapshot(model)
    again = read_snapshot(data)
    assert write_snapshot(again) == data
    for x, y in rows(100, 2):
        if name not in REGRESSORS and name != "vote":
            assert model.predict_proba_one(x) == again.predict_proba_one(x)
        else:
            assert model.predict_one(x) == again.predict_one(x)
        for one in (model, again):
            one.learn_one(x, y > 0 if binary else y)
    assert write_snapshot(again) == write_snapshot(model)
    assert write_snapshot(model) != data


def test_detectors_in_rust_are_kept_too() -> None:
    adwin, half = drift.ADWIN(), anomaly.HalfSpaceTrees(seed=1, n_trees=2, height=3)
    for x, y in rows(300, 3):
        adwin.update(y)
        half.learn_one(x)
    for one in (adwin, half):
        assert write_snapshot(read_snapshot(write_snapshot(one))) == write_snapshot(one)


def test_every_changed_byte_is_refused() -> None:
    model = linear_model.LogisticRegression()
    model.learn_one({"a": 1.0}, True)
    data = write_snapshot(model, about={"name": "risk"})
    for at in range(0, len(data), 3):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(StateError):
            read_snapshot(damaged)
    with pytest.raises(StateError, match="damaged"):
        read_snapshot(data[:-1])


def test_a_file_without_the_signature_that_is_asked_for_is_refused() -> None:
    model = linear_model.LogisticRegression()
    signed = write_snapshot(model, key=b"ours")
    assert isinstance(read_snapshot(signed, key=b"ours"), linear_model.LogisticRegression)
    with pytest.raises(StateError, match="damaged"):
        read_snapshot(signed, key=b"theirs")
    with pytest.raises(StateError, match="signed by sha256"):
        read_snapshot(write_snapshot(model), key=b"ours")
    header = describe(signed)
    del header["signature"]
    unsigned = json.dumps(header).encode() + b"\n" + signed.partition(b"\n")[2]
    with pytest.raises(StateError, match="signed by"):
        read_snapshot(unsigned, key=b"ours")


def forged(lines: list[Any], **header: Any) -> bytes:
    """A file as an attacker would write it: correctly signed, but not by us."""
    body = json.dumps(lines).encode()
    told = {
        "format": "streamproc.model.1",
        "river": river_version(),
        "signed": "sha256",
        "bytes": len(body),
        "about": {},
    }
    told |= header
    line = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    told["signature"] = hashlib.sha256(line + b"\n" + body).hexdigest()
    return json.dumps(told).encode() + b"\n" + body


def test_a_class_that_is_not_on_the_list_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for path in ("os:system", "subprocess:Popen", "builtins:exec", "builtins.eval", "river.datasets.base:FileDataset"):
        assert not is_allowed(path)
        evil = [
            ["partial", [1], [2], [3]], ["name", path], ["tuple", [f"touch {trace}"]], ["dict", []],
        ]  # fmt: skip
        with pytest.raises(StateError, match="not on the list"):
            read_snapshot(forged(evil))
    # What a module of River has imported is not River's.
    with pytest.raises(StateError, match="not a class of River"):
        read_snapshot(forged([["name", "river.utils.pretty:Iterable"]]))
    assert not trace.exists()


def test_another_river_and_another_format_are_refused_with_the_reason() -> None:
    with pytest.raises(StateError, match=r"written by River 0\.1\.0"):
        read_snapshot(forged([["name", "os:system"]], river="0.1.0"))
    with pytest.raises(StateError, match="format"):
        read_snapshot(forged([["list", []]], format="streamproc.model.9"))
    with pytest.raises(StateError, match="unknown kind"):
        read_snapshot(forged([["gadget", []]]))
    with pytest.raises(StateError, match="cannot be read"):
        read_snapshot(forged([["object", "river.optim.sgd:SGD", [[9]], None, None, None]]))


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for data in (pickle.dumps(_Touches(trace)), b"", b"\x80\x04.", b"{}\n"):
        with pytest.raises(StateError, match="not a saved model"):
            read_snapshot(data)
    assert not trace.exists()


class _Touches:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def test_a_model_that_was_read_is_as_quick_as_one_that_was_made() -> None:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for told, label in rows(20, seed=3):
        model.learn_one(told, label > 0)
    scaler, last = read_snapshot(write_snapshot(model)).steps.values()
    # Python finds names of attributes and keys by identity first: a read model held copies and lost a seventh to that.
    for held in (scaler.means, vars(scaler), vars(last)):
        assert held and all(sys.intern(str(name)) is name for name in held)
