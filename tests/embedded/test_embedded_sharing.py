"""How partitions are shared out: balanced, sticky, and by nothing but the arguments."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.embedded.sharing import shared_out

members = st.sets(st.sampled_from("abcdef"), min_size=1)
counts = st.integers(0, 20)


@st.composite
def situations(draw: st.DrawFn) -> tuple[int, set[str], dict[int, str]]:
    partitions = draw(counts)
    held = draw(st.dictionaries(st.integers(0, 25), st.sampled_from("abcdefgh")))
    return partitions, draw(members), held


@settings(deadline=None, max_examples=100)
@given(situations())
def test_shares_are_complete_and_balanced_and_few_move(situation: tuple[int, set[str], dict[int, str]]) -> None:
    partitions, present, held = situation
    given_to = shared_out(partitions, present, held)
    assert list(given_to) == list(range(partitions))
    sizes = {name: sum(owner == name for owner in given_to.values()) for name in present}
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert set(given_to.values()) <= present
    kept = sum(held.get(partition) == owner for partition, owner in given_to.items())
    least, larger = divmod(partitions, len(present))
    have = sorted((sum(held.get(p) == name for p in range(partitions)) for name in present), reverse=True)
    assert kept == sum(min(n, least + (rank < larger)) for rank, n in enumerate(have))


@settings(deadline=None, max_examples=100)
@given(situations(), st.randoms())
def test_order_of_arguments_does_not_matter(situation, random) -> None:
    partitions, present, held = situation
    names, entries = sorted(present), sorted(held.items())
    random.shuffle(names)
    random.shuffle(entries)
    assert shared_out(partitions, names, dict(entries)) == shared_out(partitions, present, held)


@settings(deadline=None, max_examples=100)
@given(counts, members)
def test_nothing_moves_when_nothing_changes(partitions: int, present: set[str]) -> None:
    once = shared_out(partitions, present, {})
    assert shared_out(partitions, present, once) == once


def test_without_members_nothing_is_shared() -> None:
    assert shared_out(3, [], {0: "a"}) == {}
