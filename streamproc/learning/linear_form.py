"""A linear model as the numbers that it is: what another system needs to give the same scores, and nothing of River."""

from __future__ import annotations

from typing import Any, Final

from streamproc.errors import InputError
from streamproc.learning.kept_model import steps_of

LINEAR: Final = "streamproc.linear.1"


def linear_form(model: Any, inputs: tuple[str, ...]) -> dict[str, Any]:
    """The form of a linear or logistic regression, alone or behind standard scalers.

    score = link(intercept + sum of weight * x'), with x' = (x - shift) / scale by each scaler in turn; the link is
    "logistic" or "identity". An input that is missing is left out of the sum.
    Raises InputError for any other model.

    >>> from river.linear_model import LinearRegression
    >>> linear_form(LinearRegression(intercept_init=2.0), ("x",))["intercept"]
    2.0
    """
    from river import linear_model, preprocessing

    *scalers, last = steps_of(model)
    plain = isinstance(last, linear_model.LogisticRegression | linear_model.LinearRegression)
    standard = all(type(one) is preprocessing.StandardScaler and one.window_size is None for one in scalers)
    if not plain or not standard:
        said = " | ".join(type(step).__name__ for step in (*scalers, last))
        raise InputError(
            f"a {said} has no linear form",
            hint="linear and logistic regressions have one, alone or behind StandardScaler; a model file takes any",
        )
    logistic = isinstance(last, linear_model.LogisticRegression)
    return {
        "format": LINEAR,
        "inputs": list(inputs),
        "scalers": [{name: _affine(scaler, name) for name in inputs} for scaler in scalers],
        "weights": {name: float(last.weights.get(name, 0.0)) for name in inputs},
        "intercept": float(last.intercept),
        "link": "logistic" if logistic else "identity",
    }


def _affine(scaler: Any, name: str) -> dict[str, float]:
    spread = float(scaler.vars.get(name, 0.0)) ** 0.5 if scaler.with_std else 0.0
    return {"shift": float(scaler.means.get(name, 0.0)), "scale": spread if spread > 0.0 else 1.0}
