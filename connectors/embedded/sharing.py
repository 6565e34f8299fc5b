"""How the partitions of a topic are shared out among members: balanced, sticky, and the same for everyone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def shared_out(partitions: int, members: Iterable[str], held: Mapping[int, str]) -> dict[int, str]:
    """Partition to member.  Numbers of partitions differ by one at most, and as few move as that allows.

    partitions  how many there are
    held        who has which partition now; members that are gone do not count

    The answer depends on nothing but the arguments.  Members that hold most keep the larger shares, ties by name; a
    member gives its highest partitions away.  With no member the answer is empty.

    >>> shared_out(4, ["a", "b"], {0: "a", 1: "a", 2: "a", 3: "a"})
    {0: 'a', 1: 'a', 2: 'b', 3: 'b'}
    """
    names = sorted(set(members))
    if not names:
        return {}
    mine: dict[str, list[int]] = {name: [] for name in names}
    for partition in range(partitions):
        if held.get(partition) in mine:
            mine[held[partition]].append(partition)
    least, larger = divmod(partitions, len(names))
    ranked = sorted(names, key=lambda name: (-len(mine[name]), name))
    quota = {name: least + (rank < larger) for rank, name in enumerate(ranked)}
    given = {partition: name for name in names for partition in mine[name][: quota[name]]}
    free = iter([partition for partition in range(partitions) if partition not in given])
    for name in names:
        for _ in range(quota[name] - min(len(mine[name]), quota[name])):
            given[next(free)] = name
    return dict(sorted(given.items()))
