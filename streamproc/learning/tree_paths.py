"""The path of a row through a Hoeffding tree of River, or through each tree of an adaptive forest of them.

What a node says is what it counted: the share of True, or the mean. Along the path the nodes' words change from the
root's to the leaf's; each change goes to the column that the branch between asked. A leaf may say something else than
what it counted, by a model of its own (naive Bayes, a linear one): that is one more term.

Where a tree asks several leaves (an adaptive tree that grows another one in the background), or a forest several trees,
the answer is their weighted mean, and so are the terms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

Example = dict[str, Any]
Terms = tuple[float, dict[str, float], float]
"""Base, what each column adds, and what is added inside the leaf."""


def tree_terms(model: Any, seen: Example) -> Terms | None:
    """The terms of a tree's or a forest's answer; None for another model, or one that has not learned anything."""
    from river import forest, tree

    classes = tree.HoeffdingTreeClassifier, tree.HoeffdingTreeRegressor
    if isinstance(model, classes):
        return _of_tree(model, seen)
    if isinstance(model, forest.ARFClassifier | forest.ARFRegressor):
        return _of_forest(model, seen)
    return None


def _of_tree(model: Any, seen: Example) -> Terms | None:
    from river import tree

    if model._root is None:
        return None
    paths = list(_paths(model._root, seen))
    answers = [path[-1].prediction(seen, tree=model) for path in paths]
    if isinstance(answers[0], dict):
        said = [one.get(True, 0.0) for one in answers]
        if isinstance(model, tree.HoeffdingAdaptiveTreeClassifier):
            # It adds up what its leaves say and makes that sum to one; the others' word stands as it is.
            whole = math.fsum(math.fsum(one.values()) for one in answers)
            said = [one * len(paths) / whole if whole else one for one in said]
    else:
        said = [float(one) for one in answers]
    weights = [1.0 / len(paths)] * len(paths)
    return _mean([_of_path(path, answer) for path, answer in zip(paths, said, strict=True)], weights)


def _of_forest(model: Any, seen: Example) -> Terms | None:
    """A forest of classifiers weighs its trees by how well each did; all of them say chances that add up to one."""
    from river import forest

    members = [_of_tree(one, seen) for one in model]
    if not members or any(one is None for one in members):
        return None
    found = [one for one in members if one is not None]
    if isinstance(model, forest.ARFRegressor) and not model.disable_weighted_vote:
        return None
    weights = [1.0] * len(found)
    if not model.disable_weighted_vote:
        worth = [float(metric.get()) for metric in model._metrics]
        weights = [one if one > 0.0 else 1.0 for one in worth]
    whole = math.fsum(weights)
    return _mean(found, [one / whole for one in weights])


def _paths(root: Any, seen: Example) -> Iterator[list[Any]]:
    """Every path that the tree takes the row: the main one, and into trees that grow beside it."""
    main = list(root.walk(seen, until_leaf=True)) if hasattr(root, "children") else [root]
    main = [node for n, node in enumerate(main) if n == 0 or node is not main[n - 1]]
    for n, node in enumerate(main):
        other = getattr(node, "_alternate_tree", None)
        if other is not None and hasattr(node, "children"):
            for path in _paths(other, seen):
                yield [*main[:n], *path]
    yield main


def _of_path(path: list[Any], said: float) -> Terms:
    base = before = _counted(path[0], math.nan)
    base = before = said if math.isnan(base) else base
    by_column: dict[str, float] = {}
    for node, below in itertools.pairwise(path):
        now = _counted(below, before)
        by_column[node.feature] = by_column.get(node.feature, 0.0) + now - before
        before = now
    return base, by_column, said - before


def _counted(node: Any, otherwise: float) -> float:
    """What a node would say by what it counted; one that counted nothing says what stands above it."""
    stats = node.stats
    if isinstance(stats, dict):
        whole = math.fsum(stats.values())
        return stats.get(True, 0.0) / whole if whole > 0.0 else otherwise
    return float(stats.mean.get()) if stats.mean.n > 0 else otherwise


def _mean(found: list[Terms], weights: list[float]) -> Terms:
    names = [name for _, by_column, _ in found for name in by_column]
    by_column = {
        name: math.fsum(w * one.get(name, 0.0) for w, (_, one, _) in zip(weights, found, strict=True))
        for name in dict.fromkeys(names)
    }
    base = math.fsum(w * one for w, (one, _, _) in zip(weights, found, strict=True))
    return base, by_column, math.fsum(w * one for w, (_, _, one) in zip(weights, found, strict=True))
