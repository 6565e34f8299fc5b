"""The scope of a topology as a document: what it reads, what it writes, by which rules, with a hash of all of it.

It is read off the plan: the fields that any step reads, and nothing of how they are laid out in a file. A rule
is its canonical text (`fingerprint`), which comments, line breaks and the order of imports do not change. Committed as
`scope.lock`, it makes every change of what is read or written one that somebody has to look at.

What a person's own step reads no plan can see. So such a step says it (`reads=`), gets these columns and no others when
it runs, and stops at a look for another one (`UndeclaredRead`); one that says nothing has no scope to lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from streamproc.graph import Source
from streamproc.operators.custom import Custom
from streamproc.operators.stateless import Stateless
from streamproc.planning.fingerprint import canonical_text, digest
from streamproc.planning.plan import Plan

Scope = Mapping[str, Any]
"""Plain values, as they stand in the file."""
_SHOWN: Final = 12
_NAMED: Final = {"inputs": "input", "outputs": "output", "rules": "rule"}


def scope_of(plan: Plan) -> Scope:
    """What a topology reads, writes and does.

    owner, purpose  as the topology says
    inputs   by topic: its contract, and the fields that are read
    outputs  by topic: its contract, and the fields that are written
    rules    by step: a hash of what it does, without what stands above it
    hash     of all of these
    """
    inputs: dict[str, dict[str, Any]] = {}
    for node in plan.sources:
        assert isinstance(node.origin, Source) and node.contract is not None  # the plan gives each source its contract
        one = inputs.setdefault(node.origin.topic, {"contract": str(node.contract), "fields": []})
        # A column that the engine adds to a table's rows is none of the topic's.
        one["fields"] = sorted({*one["fields"], *(node.columns & frozenset(node.contract.schema.names))})
    scope: dict[str, Any] = {
        "owner": plan.topology.owner,
        "purpose": plan.topology.scope,
        "inputs": inputs,
        "outputs": {
            sink.topic: {"contract": str(sink.contract), "fields": sorted(sink.contract.schema.names)}
            for sink in plan.sinks
        },
        "rules": {
            node.name: digest(canonical_text(node.origin))[:_SHOWN]
            for node in plan.nodes
            if not isinstance(node.origin, Source)
        },
    }
    return scope | {"hash": digest(canonical_text(scope))}


def unscoped(plan: Plan) -> list[str]:
    """Steps of a person's own that do not say what they read."""
    return [
        node.name for node in plan.nodes if isinstance(node.origin, Custom | Stateless) and node.origin.read is None
    ]


def scope_changes(locked: Scope, found: Scope) -> Iterator[str]:
    """What differs, a line each: `+` is new, `-` is gone, `~` is another one.

    >>> list(scope_changes({"rules": {"big": "1a", "old": "2b"}}, {"rules": {"big": "3c"}}))
    ["~ rule 'big' changed: 1a, now 3c", "- rule 'old'"]
    """
    for name in ("owner", "purpose"):
        if locked.get(name, "") != found.get(name, ""):
            yield f"~ {name} changed: '{locked.get(name, '')}', now '{found.get(name, '')}'"
    for part, word in _NAMED.items():
        before, now = locked.get(part, {}), found.get(part, {})
        for name in sorted({*before, *now}):
            if name not in before:
                yield f"+ {word} '{name}'" + (f": {', '.join(now[name]['fields'])}" if part != "rules" else "")
            elif name not in now:
                yield f"- {word} '{name}'"
            elif part == "rules":
                if before[name] != now[name]:
                    yield f"~ {word} '{name}' changed: {before[name]}, now {now[name]}"
            else:
                yield from _changed(f"{word} '{name}'", before[name], now[name])


def _changed(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before["contract"] != now["contract"]:
        yield f"~ {what} has contract {now['contract']}, not {before['contract']}"
    for field in sorted({*before["fields"], *now["fields"]}):
        if (field in before["fields"]) != (field in now["fields"]):
            yield f"{'+' if field in now['fields'] else '-'} field '{field}' of {what}"
