"""A linear model as an ONNX graph: other systems score with it, without River and without streamproc."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamproc.errors import InputError

Floats = npt.NDArray[np.float64]
OPSET: Final = 17
IR: Final = 8
"""Of the years 2022 on: what any runtime in use reads."""


def onnx_form(form: dict[str, Any]) -> bytes:
    """The graph of a `linear_form`: `inputs` float64[rows, inputs], NaN where missing, to `score` float64[rows].

    The names of the inputs, in order, are in its metadata as `inputs`, joined by newlines. Cost: O(inputs).
    Raises InputError where the package `onnx` is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise InputError("ONNX needs the package 'onnx'", hint="pip install 'streamproc[onnx]'") from None
    names = form["inputs"]
    numbers: dict[str, Floats] = {
        "weights": np.array([[form["weights"][name]] for name in names]), "intercept": np.array([form["intercept"]]),
        "nothing": np.array(0.0),
    }  # fmt: skip
    nodes, at = [], "inputs"
    for i, scaler in enumerate(form["scalers"]):
        for word, operator in (("shift", "Sub"), ("scale", "Div")):
            numbers[f"{word}{i}"] = np.array([scaler[name][word] for name in names])
            nodes.append(helper.make_node(operator, [at, f"{word}{i}"], [f"{operator}{i}"]))
            at = f"{operator}{i}"
    # What is missing stays NaN through the scalers, and is left out of the sum.
    nodes.append(helper.make_node("IsNaN", [at], ["missing"]))
    nodes.append(helper.make_node("Where", ["missing", "nothing", at], ["told"]))
    nodes.append(helper.make_node("MatMul", ["told", "weights"], ["sums"]))
    nodes.append(helper.make_node("Add", ["sums", "intercept"], ["column"]))
    last = "column"
    if form["link"] == "logistic":
        nodes.append(helper.make_node("Sigmoid", ["column"], ["chances"]))
        last = "chances"
    nodes.append(helper.make_node("Reshape", [last, "one_dimension"], ["score"]))
    held = [numpy_helper.from_array(np.asarray(array, np.float64), name) for name, array in numbers.items()]
    held.append(numpy_helper.from_array(np.array([-1], np.int64), "one_dimension"))
    graph = helper.make_graph(
        nodes, "streamproc.linear",
        [helper.make_tensor_value_info("inputs", TensorProto.DOUBLE, ["rows", len(names)])],
        [helper.make_tensor_value_info("score", TensorProto.DOUBLE, ["rows"])], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="streamproc")
    model.ir_version = IR
    helper.set_model_props(model, {"inputs": "\n".join(names)})
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
