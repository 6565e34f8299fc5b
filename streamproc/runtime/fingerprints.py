"""What entry 0 of a journal says of the build that wrote it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
import orjson
import polars as pl

from streamproc import __version__
from streamproc.engine.compiled import CompiledStage
from streamproc.hashing import content_id
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
        "environment": environment(stage),
    }


def environment(stage: CompiledStage) -> dict[str, Any]:
    """What else decides about a stage's bytes: libraries, and the processor that kernels are compiled for."""
    config: Any = numba.config
    return {
        "libraries": {
            "streamproc": __version__,
            "polars": pl.__version__,
            "numpy": np.__version__,
            "numba": numba.__version__,
        }
        | {name: text for node in stage.stage.nodes for name, text in getattr(node.origin, "libraries", {}).items()},
        "processor": {
            "name": config.CPU_NAME or _host()[0],
            "features": content_id((config.CPU_FEATURES or _host()[1]).encode()),
        },
    }


def environment_id(stage: CompiledStage) -> str:
    """The environment in sixteen digits: every step says by it where it ran."""
    return content_id(orjson.dumps(environment(stage), option=orjson.OPT_SORT_KEYS))[:16]


@lru_cache(maxsize=1)
def _host() -> tuple[str, str]:
    from llvmlite import binding

    return binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
