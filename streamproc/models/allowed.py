"""Which classes a saved model may be made of: River's own, and plain containers. Nothing else is ever looked up."""

from __future__ import annotations

import collections
import copy
import importlib
import types
from typing import Any, Final

from streamproc.errors import StateError

PACKAGES: Final = frozenset({
    "_river_rust", "active", "anomaly", "bandit", "base", "calibration", "cluster", "compose", "conf", "covariance",
    "drift", "dummy", "ensemble", "facto", "feature_extraction", "feature_selection", "forest", "imblearn",
    "linear_model", "metrics", "misc", "model_selection", "multiclass", "multioutput", "naive_bayes", "neighbors",
    "optim", "preprocessing", "proba", "reco", "rules", "sketch", "stats", "time_series", "tree", "utils",
})  # fmt: skip
"""The parts of River whose classes hold what a model has learned; those that read files or call others are not here."""
PLAIN: Final[dict[str, Any]] = {
    "builtins.bool": bool, "builtins.dict": dict, "builtins.float": float, "builtins.int": int, "builtins.list": list,
    "builtins.set": set, "builtins.str": str, "builtins.tuple": tuple, "collections.Counter": collections.Counter,
    "collections.OrderedDict": collections.OrderedDict, "collections.defaultdict": collections.defaultdict,
    "collections.deque": collections.deque, "copy.deepcopy": copy.deepcopy,
}  # fmt: skip


def path_of(value: Any) -> str:
    """The name under which a class or function is found again: "river.optim.sgd:SGD".

    Raises StateError for one that is not on the list.
    """
    plain = f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', '')}"
    if PLAIN.get(plain) is value:
        return plain
    path = f"{value.__module__}:{value.__qualname__}"
    try:
        found = found_at(path)
    except StateError:
        found = None
    if found is not value:
        raise StateError(
            f"a model holds {_said(value)}, which is not one of River's own classes",
            hint="keep functions and classes of your own outside the model: compute the column before sp.learn",
        )
    return path


def is_allowed(path: str) -> bool:
    """Whether a name may be looked up at all; nothing is imported to tell.

    >>> is_allowed("river.optim.sgd:SGD"), is_allowed("os:system"), is_allowed("river.datasets.base:FileDataset")
    (True, False, False)
    """
    if path in PLAIN:
        return True
    module, colon, name = path.partition(":")
    parts = module.split(".")
    return bool(colon and name) and parts[0] == "river" and len(parts) > 1 and parts[1] in PACKAGES


def found_at(path: str) -> Any:
    """The class or function of that name; raises StateError if it is not on the list, or not there."""
    if path in PLAIN:
        return PLAIN[path]
    if not is_allowed(path):
        raise StateError(f"the saved model names '{path}', which is not on the list of classes that a model may hold")
    module, _, name = path.partition(":")
    found: Any = None
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = vars(found)[part]
        found = found.__func__ if isinstance(found, staticmethod) else found
    except (ImportError, KeyError, TypeError):
        raise StateError(f"the saved model names '{path}', which this River does not have") from None
    # A module of River has names of others too ("river.utils.pretty:os"): what is found must be at home there.
    ours = isinstance(found, type | types.FunctionType | types.BuiltinFunctionType) or type(
        found
    ).__module__.startswith("river.")
    if not ours or not str(getattr(found, "__module__", "")).startswith("river."):
        raise StateError(f"the saved model names '{path}', which is not a class of River")
    return found


def _said(value: Any) -> str:
    return (
        f"{getattr(value, '__module__', type(value).__module__)}.{getattr(value, '__qualname__', type(value).__name__)}"
    )
