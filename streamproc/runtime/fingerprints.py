"""What entry 0 of a journal says of the build that wrote it."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import polars as pl

from streamproc import __version__
from streamproc.engine.compiled import CompiledStage
from streamproc.runtime.binding import Binding

ENGINE = 1
"""Grows whenever the engine gives other bytes for the same input: a journal of another number is refused."""


def run_head(binding: Binding, stage: CompiledStage) -> dict[str, Any]:
    """Fingerprints of state, logic and engine, and the partition counts; beside them, for the record, the libraries."""
    return {
        "topology": binding.plan.topology.name,
        "version": binding.plan.topology.version,
        "logic": {node.name: node.logic for node in stage.stage.nodes} | {"topology": binding.plan.logic},
        "state": {node.name: node.state for node in stage.stage.nodes},
        "engine": ENGINE,
        "partitions": dict(sorted(binding.partitions.items())),
        "libraries": {
            "streamproc": __version__,
            "polars": pl.__version__,
            "numpy": np.__version__,
            "numba": numba.__version__,
        }
        | {name: text for node in stage.stage.nodes for name, text in getattr(node.origin, "libraries", {}).items()},
    }
