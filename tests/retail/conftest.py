"""Stories of other months and other seeds than the shipped one, each run once."""

from __future__ import annotations

import pytest
from told_story import Told

from connectors.registry import FolderRegistry
from streamproc.cli.demo_score import judged_events
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing import drive
from topologies.retail import retail
from topologies.retail.load import shipped_story
from topologies.retail.make_story import MOVEMENTS

STORIES = {"spring, seed 11": ("2011-03", "2011-05", 11), "nine months, seed 5": ("2010-12", "2011-08", 5)}


@pytest.fixture(scope="session", params=STORIES)
def told(request: pytest.FixtureRequest) -> Told:
    """Without stock, which is most of the lines and touches no person."""
    first, last, seed = STORIES[request.param]
    story = shipped_story(first, last, seed)
    topics = {**story.topics, MOVEMENTS: story.topics[MOVEMENTS].head(1_000)}
    ran = drive(retail, topics, registry=FolderRegistry((shipped_contracts(),)), partitions=2)
    return Told(story, ran, judged_events(ran["events"], ran["links"], story.truth))
