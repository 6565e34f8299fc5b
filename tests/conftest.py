"""What all tests share: each of several test processes takes its share of the cores, and none stands still for ever."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Generator

import pytest

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1 and "polars" not in sys.modules:
    # Polars begins a thread for each core in each process: where the processes alone keep all cores busy, its steps
    # of a few rows would wait for each other. Read once, when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))


_STDERR: dict[str, int] = {}
"""The process' own standard error: while a test runs, what is written to file 2 is captured, and lost with it."""


def pytest_configure() -> None:
    """Nothing is captured yet."""
    _STDERR.setdefault("file", os.dup(2))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that is not long ends by its timeout, with the place where it stood; a long one knows its own bounds."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(0))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that stands still in C, where no signal reaches it, takes its process along: the others go on."""
    seconds = float(item.config.getini("timeout"))
    if item.get_closest_marker("long") or not seconds:
        return (yield)
    faulthandler.dump_traceback_later(seconds + 60, file=_STDERR.get("file", 2), exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
