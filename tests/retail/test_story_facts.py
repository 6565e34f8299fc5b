"""What the demo gathers of a run, also of one in which nothing happened that it tells of."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from told_story import Told

from connectors.registry import FolderRegistry
from streamproc.cli.demo_facts import story_facts, story_topics
from streamproc.cli.demo_text import tell_facts
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing import drive
from topologies.retail import retail
from topologies.retail.load import shipped_story
from topologies.retail.make_story import CONTACTS, ORDERS, RATES


def test_the_facts_of_a_run_are_those_of_its_topics(told: Told) -> None:
    facts = story_facts(story_topics(told.ran.binding, told.ran.log), told.story.truth)
    assert facts["persons"]["events"] == told.judged.height
    assert sum(one["orders"] for one in facts["decisions"]["by_rule"]) == told.ran["decisions"].height
    assert sum(one["alerts"] for one in facts["alerts"]["refunds"]) == told.ran["refund_alerts"].height
    assert len(facts["drift"]) == told.ran["drift"].height + told.ran["label_drift"].height
    assert facts["worth"]["said"] == pytest.approx(facts["worth"]["true"], rel=0.01)


def test_a_week_without_alarms_alerts_and_labels_is_told_too() -> None:
    story = shipped_story("2011-01", "2011-01")
    kept = {ORDERS: 60, CONTACTS: 500, RATES: 500}
    few = {topic: frame.head(kept.get(topic, 0)) for topic, frame in story.topics.items()}
    ran = drive(retail, few, registry=FolderRegistry((shipped_contracts(),)))
    facts = story_facts(story_topics(ran.binding, ran.log), story.truth)
    assert facts["drift"] == [] and facts["model"] == {} and facts["alerts"]["refunds"] == []
    assert facts["persons"]["order_return_recall"] == 1.0
    with CliRunner().isolation():
        tell_facts(facts)
