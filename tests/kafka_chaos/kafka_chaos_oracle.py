"""What must come out, computed from what went in by plain Python: lists, dicts and `math.fsum`, nothing of the engine.

Rows are dicts of values; moments are µs. Results are multisets of tuples.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Row = Mapping[str, Any]
Multiset = Counter[tuple[Any, ...]]


def deduped(bids: Iterable[Row], within_us: int) -> list[Row]:
    """By event time: a bid goes on unless one of its id went on at most so long before it."""
    gone: dict[int, int] = {}
    kept = []
    for row in sorted(bids, key=lambda row: (row["at"], row["seq"])):
        last = gone.get(row["id"])
        if last is None or row["at"] - last > within_us:
            gone[row["id"]] = row["at"]
            kept.append(row)
    return kept


def joined(bids: Sequence[Row], floors: Iterable[Row], max_age_us: int) -> list[dict[str, Any]]:
    """Each bid with the newest floor price of its auction at its moment, if that is young enough."""
    # Floors first where moments are equal.
    events = [(row["at"], 0, row["seq"], row) for row in floors] + [(row["at"], 1, row["seq"], row) for row in bids]
    newest: dict[str, Row] = {}
    out = []
    for at, side, _, row in sorted(events, key=lambda event: event[:3]):
        if side == 0:
            newest[row["auction"]] = row
            continue
        found = newest.get(row["auction"])
        young = found is not None and at - found["at"] <= max_age_us
        out.append({**row, "floor": found["floor"] if found is not None and young else None})
    return out


def windows(rows: Iterable[Row], key: str, span_us: int) -> Multiset:
    """Per key and window: start, number, exactly rounded total, and the largest price."""
    prices: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        prices[row[key], row["at"] // span_us * span_us].append(row["price"])
    return Counter((who, start, len(all_), math.fsum(all_), max(all_)) for (who, start), all_ in prices.items())


def bid(row: Row, *more: str) -> tuple[Any, ...]:
    """A bid as a tuple."""
    return tuple(row[name] for name in ("seq", "id", "auction", "price", "who", "at", *more))


def window(row: Row, key: str) -> tuple[Any, ...]:
    """A window's result as a tuple."""
    return tuple(row[name] for name in (key, "window_start", "n", "spend", "top"))


def chain(
    bids: Sequence[Row], floors: Sequence[Row], *, dedupe_us: int, max_age_us: int, window_us: int
) -> dict[str, Multiset]:
    """The sinks of `chain`."""
    checked = joined(deduped(bids, dedupe_us), floors, max_age_us)
    good = [row for row in checked if row["floor"] is not None and row["price"] >= row["floor"]]
    return {
        "checked": Counter(bid(row, "floor") for row in checked),
        "spend": windows(good, "who", window_us),
    }


def flat(bids: Sequence[Row], *, window_us: int) -> dict[str, Multiset]:
    """The sinks of `flat` that no order of arrival changes."""
    return {
        "passed": Counter(bid(row) for row in bids if row["price"] >= 10.0),
        "counted": windows(bids, "auction", window_us),
    }


def badly_deduped(bids: Iterable[Row], kept: Multiset, within_us: int) -> list[str]:
    """What is wrong with the rows that `dedupe` let through in an order of arrival that nobody knows.

    Each is a bid, once; those of one id are further apart than the span; and each bid that is missing is that near to
    one that went on.
    """
    wrong = [f"{row} {times} times" for row, times in kept.items() if times > 1]
    moments: dict[int, list[int]] = defaultdict(list)
    for row in kept:
        moments[row[1]].append(row[5])
    known = set()
    for row in bids:
        known.add(bid(row))
        if bid(row) not in kept and not any(abs(row["at"] - at) <= within_us for at in moments[row["id"]]):
            wrong.append(f"{bid(row)} is missing, and nothing that it repeats went on")
    wrong += [f"{row} never went in" for row in kept if row not in known]
    for number, found in moments.items():
        found.sort()
        wrong += [f"id {number} twice within the span" for a, b in pairwise(found) if b - a <= within_us]
    return wrong


def differences(expected: Multiset, found: Multiset, *, most: int = 8) -> list[str]:
    """The first rows that are missing, and those that are too many."""
    missing, extra = expected - found, found - expected
    lines = [f"{sum(missing.values())} missing, {sum(extra.values())} too many"] if missing or extra else []
    lines += [f"missing {times} x {row}" for row, times in list(missing.items())[:most]]
    lines += [f"too many {times} x {row}" for row, times in list(extra.items())[:most]]
    return lines
