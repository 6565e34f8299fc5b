"""`model retrain`: what was asked for, made once."""

from __future__ import annotations

from typing import Any

import click

from streamproc.cli.kernels import compiling
from streamproc.cli.model_answers import brief
from streamproc.cli.render import progress_bar, put_json
from streamproc.models.version import SHOWN
from streamproc.planning.topology import Topology
from streamproc.runtime.model_store import ModelStore
from streamproc.runtime.retraining import Request, retrain_all
from streamproc.runtime.workspace import Workspace


def retrain_models(
    topology: Topology, learner: str, store: ModelStore, workspace: Workspace, *, as_json: bool
) -> bool:
    """Makes what was asked for; gives whether something waits."""
    with (
        workspace.log() as log,
        compiling(),
        progress_bar(f"retraining {topology.name}", None) as update,
    ):
        told = retrain_all(
            topology, learner, log, workspace.registry(), store, on_commit=lambda done: update(done.units)
        )
    behind = [(request, [f"{p.topic}-{p.partition}" for p in places]) for request, places in told.waiting]
    if as_json:
        put_json(
            {
                **{
                    word: [{**_form(request), "versions": [brief(one) for one in made]} for request, made in requests]
                    for word, requests in (("made", told.made), ("done", told.done))
                },
                "waiting": [{**_form(request), "behind": places} for request, places in behind],
            }
        )
    else:
        for request, made in told.made:
            ids = ", ".join(one.id[:SHOWN] for one in made)
            click.echo(f"{request.id} ({', '.join(request.reasons)}): {ids} kept in '{store.directory}'")
        for request, places in behind:
            click.echo(f"{request.id} waits: {', '.join(places)} have not reached the cut")
        if not (told.made or told.waiting):
            click.echo(f"nothing to do: {len(told.done)} requests are done")
    return bool(behind)


def _form(request: Request) -> dict[str, Any]:
    return {"request": request.id, "reasons": list(request.reasons)}
