"""`race`: several models for one question; the best by evidence is the champion, the others are its shadows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamproc.errors import DefinitionError, did_you_mean
from streamproc.learning.evaluation import CONTENDERS
from streamproc.learning.kept_model import Kind, kind_of


@dataclass(frozen=True, slots=True)
class RaceRules:
    """When the champion changes, and who may run; see `race`.

    delta         -1 where segments are not asked
    largest       the error from which on a loss is 1
    costs_us      () where no costs are declared
    budget_us, budget_bytes  infinite where there is no such budget
    """

    names: tuple[str, ...]
    champion: str
    error: float
    reign: int
    memory: int
    delta: float
    patience: int
    largest: float
    costs_us: tuple[float, ...]
    budget_us: float
    budget_bytes: float
    measure: int

    @property
    def wanted(self) -> float:
        """The evidence that a challenger needs: the error is shared by all of them."""
        return (len(self.names) - 1) / self.error

    def wanted_of_harm(self, most_segments: int) -> float:
        """The evidence that a segment is hurt: the error is shared by all segments that there may be, too."""
        return self.wanted * most_segments


@dataclass(frozen=True, slots=True)
class Race:
    """Models and rules, given to `sp.learn` in the place of a model."""

    models: tuple[Any, ...] = field(repr=False)
    kind: Kind
    rules: RaceRules


def race(
    models: Mapping[str, Any],
    /,
    *,
    champion: str = "champion",
    error: float = 0.05,
    reign: int = 300,
    memory: int = 2_000,
    delta: float | None = None,
    patience: int = 10_000,
    largest: float | None = None,
    costs_us: Mapping[str, float] | None = None,
    budget_us: float | None = None,
    budget_mb: float | None = None,
    measure: int = 10_000,
) -> Race:
    """Several models that answer one question and learn from the same labels: `sp.learn(sp.race({...}), ...)`.

    The score that leaves is the champion's; the first model named begins as champion. The loss of a score is its
    squared error, once its label is known: of chances, or of `largest`. A challenger becomes champion where evidence
    shows that it was lately better on average (`streamproc.learning.e_process`), and it lost less within `memory` too.

    models     by name, as `sp.learn` takes them: classifiers, or regressors; names of letters, digits and _
    champion   the column with the name of the model whose score it is
    error      the chance that a champion is ever replaced by one that was at no time better on average; anew for each
               champion. One may look after every label
    reign      labels for which a champion stays at least, the first one only if there is a delta. A new one begins with
               evidence of nothing: so two models that are alike do not take turns
    memory     labels over which a challenger must have lost less than the champion, older ones counting ever less: what
               is better for an hour is not worth a change. Where the best model changes for good, and is as much better
               as it was worse, the champion follows within 0.7 of it
    delta      a challenger may be worse than the champion by so much in no segment of `segment=`: mean loss. Shown to
               be worse it is held; a segment that cannot say yet holds it for `patience` labels and no longer
    patience   labels for which segments that cannot say hold a challenger that is better on the whole; then only those
               that are shown to be hurt do
    largest    for regressors: the error from which on the loss is 1, as large as it gets
    costs_us   microseconds that each model costs a row, as `sp.model_costs` measures them: steps read no clock
    budget_us  what all models together may cost a row. Where it is less, up to half of them leave the race each time
               that it is looked at, those first that lost most since (successive halving)
    budget_mb  what all models' snapshots together may take, 10^6 bytes. Who alone takes more leaves at once; then
               challengers that lost most, until it is kept. A model in memory takes a multiple of its snapshot
    measure    the budget is looked at every so many labels

    Sides of `sp.learn`: "metrics" has every model beside what left, "race" what happened and how all stand,
    "shadows" what each model said of each row.  Cost: all models', and 0.2 us a label and model.

    Sources: Karnin, Koren & Somekh 2013 (successive halving); Choe & Ramdas 2024 (evidence).

    Raises DefinitionError for models that cannot race, and for a model that alone costs more than the budget.

    >>> from river import linear_model, naive_bayes
    >>> race({"linear": linear_model.LogisticRegression(), "bayes": naive_bayes.GaussianNB()}).rules.wanted
    20.0
    """
    names = tuple(models)
    if len(names) < 2:
        raise DefinitionError("a race needs two models at least", hint="sp.race({'linear': ..., 'tree': ...})")
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise DefinitionError(
                f"a model of the race is named '{name}'", hint="letters, digits and _: it becomes a column"
            )
        if name in CONTENDERS:
            raise DefinitionError(
                f"a model of the race is named '{name}', which the metrics have already", hint=f"'always_{name}'"
            )
    kinds = {name: kind_of(model) for name, model in models.items()}
    kind = kinds[names[0]]
    for name, other in kinds.items():
        if other == "anomaly":
            raise DefinitionError(f"'{name}' detects anomalies and answers no question", hint="race classifiers")
        if other != kind:
            raise DefinitionError(
                f"'{names[0]}' and '{name}' answer different questions", hint="race classifiers alone, or regressors"
            )
    if (kind == "number") != (largest is not None):
        said = "does not know the largest error" if largest is None else "of classifiers has no largest error to choose"
        raise DefinitionError(f"the race {said}", hint="largest=100.0 for regressors, nothing for classifiers")
    if largest is not None and not 0.0 < largest < math.inf:
        raise DefinitionError(f"the race: largest={largest}", hint="an error above 0")
    if not 0.0 < error < 1.0:
        raise DefinitionError(f"the race: error={error}", hint="a chance: 0.05")
    if delta is not None and not 0.0 <= delta < 1.0:
        raise DefinitionError(f"the race: delta={delta}", hint="a mean loss: 0.01")
    counts = (("reign", reign, 1), ("memory", memory, 1), ("patience", patience, 0), ("measure", measure, 1))
    for word, number, least in counts:
        if number < least:
            raise DefinitionError(f"the race: {word}={number}", hint=f"labels, {least} at least")
    for word, most in (("budget_us", budget_us), ("budget_mb", budget_mb)):
        if most is not None and not most > 0:
            raise DefinitionError(f"the race: {word}={most}", hint="more than nothing")
    rules = RaceRules(
        names, champion, float(error), reign, memory, -1.0 if delta is None else float(delta), patience,
        1.0 if largest is None else float(largest), _costs(names, costs_us, budget_us),
        math.inf if budget_us is None else float(budget_us), math.inf if budget_mb is None else 1e6 * budget_mb,
        measure,
    )  # fmt: skip
    return Race(tuple(models.values()), kind, rules)


def _costs(names: tuple[str, ...], costs: Mapping[str, float] | None, budget: float | None) -> tuple[float, ...]:
    """What each model costs, by its place; () where nothing is said."""
    if costs is None:
        if budget is not None:
            raise DefinitionError(
                "the race has a budget and does not know what its models cost",
                hint="costs_us=sp.model_costs(...), measured once and written down",
            )
        return ()
    for name in costs:
        if name not in names:
            raise DefinitionError(f"the race has no model '{name}'", hint=did_you_mean(name, names))
    for name in names:
        if not costs.get(name, -1.0) >= 0.0:
            raise DefinitionError(f"the race does not know what '{name}' costs", hint="microseconds a row in costs_us=")
        if budget is not None and costs[name] > budget:
            said = f"'{name}' alone costs {costs[name]:g} us a row, the budget is {budget:g}"
            raise DefinitionError(said, hint="leave it out of the race")
    return tuple(float(costs[name]) for name in names)
