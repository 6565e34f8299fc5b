"""Imported by the server that forks worker processes: all modules, and every kernel that the cache has, ready to run.

A process that is killed within a second should spend it at work, not at loading machine code. Polars is imported and
not used here: its threads would not survive a fork.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
from typing import Any

from numba.core.dispatcher import Dispatcher

import streamproc.engine
import streamproc.operators
import streamproc.runtime.replay
import streamproc.runtime.worker
import streamproc.wire


def load_kernels() -> int:
    """Loads the machine code of every kernel of the imported modules; gives how many signatures were there."""
    for package in (streamproc.operators, streamproc.engine, streamproc.wire):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    found: dict[int, Any] = {
        id(value): value
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] in ("streamproc", "connectors")
        for value in vars(module).values()
        if isinstance(value, Dispatcher)
    }
    loaded = 0
    for kernel in found.values():
        index = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
        if index is None:
            continue
        # One that was compiled by another build is left to be compiled when it is called.
        with contextlib.suppress(OSError):
            for signature, *_ in index._load_index():
                if kernel._cache.load_overload(signature, kernel.targetctx) is not None:
                    kernel.compile(signature)
                    loaded += 1
    return loaded


LOADED = load_kernels()
