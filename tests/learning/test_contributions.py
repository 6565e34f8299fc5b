"""What inputs add to a score: exact where the model is a sum, an estimate that adds up where it is not."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from river import compose, ensemble, forest, linear_model, naive_bayes, optim, preprocessing, tree

from streamproc.learning.contributions import INTERCEPT, LEAF, SLACK, Contributions, exact_contributions
from streamproc.learning.kept_model import KeptModel, steps_of
from streamproc.learning.permuted import permuted_contributions

Example = dict[str, Any]
NAMES = ("a", "b", "c", "d")


def examples(random: np.random.Generator, n: int, *, texts: bool = False, missing: float = 0.1) -> list[Example]:
    """Rows with gaps, columns of very different sizes, and a text if asked for."""
    sizes = 10.0 ** random.integers(-2, 4, len(NAMES))
    rows = []
    for _ in range(n):
        row: Example = {name: float(random.normal() * size) for name, size in zip(NAMES, sizes, strict=True)}
        if texts:
            row["land"] = str(random.choice(["DE", "FR", "IT"]))
        rows.append({name: value for name, value in row.items() if random.random() > missing})
    return rows


def label(row: Example, random: np.random.Generator) -> float:
    steps = (row.get("a", 0.0) > 0.0) + 0.8 * (row.get("b", 0.0) > 0.0) - 0.6 * (row.get("land") == "FR")
    return steps - 0.9 + 0.1 * float(random.normal())


def learned(model: Any, seed: int, *, rows: int = 600, texts: bool = False) -> tuple[KeptModel, list[Example]]:
    """A model that has learned random rows, and rows that it has not seen."""
    random = np.random.default_rng(seed)
    kept = KeptModel(model)
    for row in examples(random, rows, texts=texts):
        kept.learn(row, label(row, random) > 0.0 if kept.kind == "binary" else label(row, random))
    return kept, examples(random, 25, texts=texts)


def linear_models(seed: int) -> list[Any]:
    """Linear models of all kinds that have exact terms."""
    return [
        preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.05 * (1 + seed % 3))),
        preprocessing.StandardScaler() | linear_model.LinearRegression(l2=0.01 * (seed % 2), intercept_lr=0.1),
        preprocessing.MinMaxScaler() | preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        preprocessing.MaxAbsScaler() | linear_model.PAClassifier(C=0.01),
        preprocessing.StandardScaler() | linear_model.PARegressor(C=0.01, mode=2),
        preprocessing.StandardScaler() | linear_model.Perceptron(),
        compose.Pipeline(
            ("made", preprocessing.StandardScaler()), ("line", linear_model.LinearRegression(optim.Adam(0.01)))
        ),
    ]  # fmt: skip


def tree_models(seed: int) -> list[Any]:
    """Trees of the Hoeffding family, and forests of them."""
    soon: dict[str, Any] = {"grace_period": 40, "delta": 0.05, "tau": 0.2}
    return [
        tree.HoeffdingTreeClassifier(leaf_prediction=("mc", "nb", "nba")[seed % 3], **soon),
        tree.HoeffdingAdaptiveTreeClassifier(leaf_prediction=("nba", "mc", "nb")[seed % 3], seed=seed, **soon),
        tree.ExtremelyFastDecisionTreeClassifier(min_samples_reevaluate=100, **soon),
        tree.HoeffdingTreeRegressor(leaf_prediction=("mean", "adaptive", "model")[seed % 3], **soon),
        tree.HoeffdingAdaptiveTreeRegressor(seed=seed, **soon),
        forest.ARFClassifier(n_models=3, seed=seed, **soon),
        preprocessing.StandardScaler() | tree.HoeffdingTreeClassifier(**soon),
    ]


def log_odds(chance: float) -> float:
    return math.log(chance / (1.0 - chance))


def adds_up(found: Contributions, said: float) -> None:
    total = math.fsum((found.base, *(term.adds for term in found.terms)))
    assert total == pytest.approx(found.total, abs=1e-9)
    if found.scale == "score":
        assert total == pytest.approx(said, rel=1e-9, abs=1e-9)
    elif 1e-6 < said < 1.0 - 1e-6:  # the chance rounds what the log-odds hold
        assert total == pytest.approx(log_odds(said), abs=1e-9)
    else:
        assert 1.0 / (1.0 + math.exp(-max(min(total, 700.0), -700.0))) == pytest.approx(said, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_terms_of_linear_models_are_weight_times_value_and_add_up(seed: int) -> None:
    for model in linear_models(seed):
        kept, rows = learned(model, seed)
        for row in rows:
            found = exact_contributions(kept, dict(row))
            assert found is not None and found.way == "linear" and found.exact
            adds_up(found, kept.score(dict(row)))
            # By hand, from River's own weights.
            *scalers, last = steps_of(kept.model)
            seen = dict(row)
            for scaler in scalers:
                seen = scaler.transform_one(seen)
            expected = {name: last.weights.get(name, 0.0) * value for name, value in seen.items()}
            expected[INTERCEPT] = last.intercept
            assert {term.name: term.adds for term in found.terms} == pytest.approx(expected, rel=1e-12, abs=1e-12)
            sizes = [abs(term.adds) for term in found.terms]
            assert sizes == sorted(sizes, reverse=True)


def path_by_river(model: Any, row: Example) -> list[tuple[str, Any]]:
    """A row's way through a tree by the tests that River prints of it: the columns asked, and the nodes below."""
    node, path = model._root, []
    while hasattr(node, "children"):
        try:
            number = node.branch_no(row)
        except KeyError:
            number, _ = node.most_common_path()
        path.append((node.feature, node.children[number]))
        node = node.children[number]
    return path


@pytest.mark.parametrize("seed", range(6))
def test_terms_of_trees_are_what_changes_along_the_path_and_add_up(seed: int) -> None:
    deep = 0
    for model in tree_models(seed):
        kept, rows = learned(model, seed, rows=900, texts=True)
        for row in rows:
            found = exact_contributions(kept, dict(row))
            if math.isnan(kept.score(dict(row))):  # a leaf's linear model takes no texts: it says nothing
                assert found is None and getattr(model, "leaf_prediction", "") == "model"
                continue
            assert found is not None and found.way == "tree" and found.scale == "score"
            adds_up(found, kept.score(dict(row)))
            deep += sum(term.name != LEAF for term in found.terms) > 1
    assert deep > 40


def counted(node: Any, above: float) -> float:
    if isinstance(node.stats, dict):
        votes = sum(node.stats.values())
        return node.stats.get(True, 0.0) / votes if votes else above
    return node.stats.mean.get() if node.stats.mean.n else above


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_the_way_through_a_tree_is_the_one_that_river_takes(kind: str, seed: int) -> None:
    soon: dict[str, Any] = {"grace_period": 40, "delta": 0.05, "tau": 0.2}
    model = tree.HoeffdingTreeClassifier(**soon) if kind == "classifier" else tree.HoeffdingTreeRegressor(**soon)
    kept, rows = learned(model, seed, rows=900, texts=True)
    seen = set()
    for row in rows:
        found = exact_contributions(kept, dict(row))
        assert found is not None
        base = before = counted(model._root, math.nan)
        expected: dict[str, float] = {}
        for column, node in path_by_river(model, row):
            now = counted(node, before)
            expected[column] = expected.get(column, 0.0) + now - before
            before = now
        leaf = kept.score(dict(row)) - before
        told = {term.name: term.adds for term in found.terms}
        assert found.base == pytest.approx(base, abs=1e-12)
        assert told.pop(LEAF, 0.0) == pytest.approx(leaf, abs=1e-12)
        assert told == pytest.approx(expected, abs=1e-12)
        seen |= set(expected)
    assert len(seen) > (kind == "classifier")


def test_a_tree_that_has_not_split_has_one_term_and_an_empty_one_none() -> None:
    empty = KeptModel(tree.HoeffdingTreeClassifier())
    assert exact_contributions(empty, {"a": 1.0}) is None
    kept, rows = learned(tree.HoeffdingTreeClassifier(grace_period=10_000, leaf_prediction="nb"), 1)
    for row in rows:
        found = exact_contributions(kept, dict(row))
        assert found is not None
        assert [term.name for term in found.terms] in ([LEAF], [])
        adds_up(found, kept.score(dict(row)))


def test_what_is_no_sum_has_no_exact_terms() -> None:
    for model in (
        naive_bayes.GaussianNB(), linear_model.ALMAClassifier(),
        ensemble.BaggingClassifier(preprocessing.StandardScaler() | linear_model.LogisticRegression(), 3, seed=1),
        linear_model.LinearRegression(loss=optim.losses.Poisson(), optimizer=optim.SGD(1e-9)),
        preprocessing.TargetStandardScaler(linear_model.LinearRegression()),
    ):  # fmt: skip
        kept, rows = learned(model, 2, rows=200)
        assert all(exact_contributions(kept, dict(row)) is None for row in rows)


# ── estimates ────────────────────────────────────────────────────────────────────────────────────────────────────────


def told(row: list[float]) -> Example:
    return {name: value for name, value in zip(NAMES, row, strict=True) if not math.isnan(value)}


def as_row(row: Example) -> list[float]:
    return [row.get(name, math.nan) for name in NAMES]


@pytest.mark.parametrize("seed", range(4))
def test_an_estimate_of_a_linear_model_is_its_exact_terms_against_the_background(seed: int) -> None:
    kept, rows = learned(preprocessing.StandardScaler() | linear_model.LinearRegression(), seed)
    background = [as_row(row) for row in rows[:16]]
    exact = [exact_contributions(kept, told(row)) for row in background]
    usual = {
        name: np.mean([{t.name: t.adds for t in one.terms}.get(name, 0.0) for one in exact if one]) for name in NAMES
    }
    for row in rows[16:]:
        found = permuted_contributions(
            lambda r: kept.score(told(r)), NAMES, as_row(row), background, shown=as_row(row)
        )  # fmt: skip
        mine = exact_contributions(kept, dict(row))
        assert found is not None and mine is not None
        assert (found.permutations, found.background, found.exact) == (256, 16, False)
        adds_up(found, kept.score(dict(row)))
        terms = {term.name: term.adds for term in mine.terms}
        expected = {name: terms.get(name, 0.0) - usual[name] for name in NAMES}
        # 128 pairs go through 16 rows eight times each: nothing is left to chance.
        assert {term.name: term.adds for term in found.terms} == pytest.approx(expected, abs=1e-9)


def shapley(score: Any, row: list[float], background: list[list[float]]) -> list[float]:
    """Shapley values by their definition: all orders, all background rows."""
    k = len(row)
    out = [0.0] * k
    for order in itertools.permutations(range(k)):
        for lender in background:
            now = list(lender)
            for j in order:
                before = score(now)
                now[j] = row[j]
                out[j] += score(now) - before
    return [one / (math.factorial(k) * len(background)) for one in out]


@pytest.mark.parametrize("seed", range(4))
def test_an_estimate_is_near_the_shapley_values_of_a_chance(seed: int) -> None:
    """A logistic model's chance is no sum: within four standard errors, and within 0.02 of a chance."""
    for model in (preprocessing.StandardScaler() | linear_model.LogisticRegression(), naive_bayes.GaussianNB()):
        kept, rows = learned(model, seed)

        def score(row: list[float], kept: KeptModel = kept) -> float:
            return kept.score(told(row))

        background = [as_row(row) for row in rows[:8]]
        for row in rows[8:14]:
            found = permuted_contributions(score, NAMES, as_row(row), background, shown=as_row(row))
            assert found is not None
            adds_up(found, kept.score(dict(row)))
            expected = dict(zip(NAMES, shapley(score, as_row(row), background), strict=True))
            for term in found.terms:
                assert term.error is not None
                assert abs(term.adds - expected[term.name]) <= max(4 * term.error, SLACK)
                assert abs(term.adds - expected[term.name]) < 0.02


def test_what_only_all_inputs_together_do_is_shared_out_evenly() -> None:
    """Whichever of them comes last does all of it: so each order tells of one alone, and their mean of all."""
    for k in (3, 5):
        row = [1.0] * k
        found = permuted_contributions(math.prod, NAMES[:3] if k == 3 else tuple("abcde"), row, [[0.0] * k], shown=row)
        assert found is not None and found.total == 1.0
        for term in found.terms:
            assert term.error is not None and 0.0 < term.error < 0.05
            assert abs(term.adds - 1 / k) <= 4 * term.error


def test_the_same_row_is_estimated_the_same_way_every_time() -> None:
    kept, rows = learned(naive_bayes.GaussianNB(), 3)
    given: dict[str, Any] = {"shown": as_row(rows[0])}
    once, again = (
        permuted_contributions(
            lambda r: kept.score(told(r)), NAMES, as_row(rows[0]), [as_row(row) for row in rows[1:9]], **given
        )
        for _ in range(2)
    )
    assert once == again
    alone = permuted_contributions(lambda r: kept.score(told(r)), NAMES, as_row(rows[0]), [], **given)
    assert alone is None or alone.background == 0
