"""Groups over several processes: members with leases share out the partitions of one topic.

A partition has an owner and a target.  When shares change only the target does: the owner sees at its next `poll` that
the partition leaves, commits what it has, and says `released`; only then, or when its lease has run out, the target
becomes the owner.  So there never are two owners, and each commit proves ownership inside its own SQLite transaction.

Leases are counted on the machine's monotonic clock, which all its processes share: a wall clock that is set back or
forward moves no partition.  That clock starts anew with the machine, so a lease that ends later than its whole
length from now is one from before the start, and over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from connectors.embedded.database import Database
from connectors.embedded.sharing import shared_out
from connectors.embedded.stored import partition_row
from streamproc.errors import Fenced, LogError
from streamproc.ports import TopicPartition

_GONE = "(expires <= ? OR expires > ? + lease_us)"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a commit claims: the member, and the partitions that it has held since a generation."""

    group_id: int
    group: str
    member: str
    incarnation: int
    generation: int
    owned: tuple[int, ...]


class EmbeddedMembership:
    """One worker's place in a group."""

    def __init__(self, database: Database, group: str, topic: str, member: str, *, lease_us: int,
                 clock_us: Callable[[], int]) -> None:
        if lease_us <= 0:
            raise LogError(f"a lease of {lease_us} µs is too short", hint="give a lease of some seconds")
        self._database, self._group, self._member = database, group, member
        self._lease_us, self._clock_us = lease_us, clock_us
        self._left = False
        now = clock_us()
        self._renewed = now
        with database.writing():
            partition_row(database, TopicPartition(topic, 0))
            database.execute(
                "INSERT INTO consumer_group(name, topic_id, generation) SELECT ?, id, 0 FROM topic WHERE name = ? "
                "ON CONFLICT DO NOTHING",
                (group, topic),
            )
            (self._group_id,) = database.execute(
                "SELECT g.id FROM consumer_group g JOIN topic t ON t.id = g.topic_id WHERE g.name = ? AND t.name = ?",
                (group, topic),
            ).fetchone()
            # The same member again is a restart: the old one, if it still lives, is fenced, and its shares are free.
            _remove(database, self._group_id, [member])
            _remove_gone(database, self._group_id, now)
            self._incarnation = _grow(database, self._group_id)
            self._generation = self._incarnation
            database.execute(
                "INSERT INTO member VALUES(?,?,?,?,?)",
                (self._group_id, member, self._incarnation, lease_us, now + lease_us),
            )
            _share(database, self._group_id, self._incarnation)

    @property
    def member(self) -> str:
        """The member's id."""
        return self._member

    @property
    def generation(self) -> int:
        """The group's generation at this member's last poll; it grows with every change of the assignment."""
        return self._generation

    def poll(self) -> frozenset[int]:
        """Renews the lease and gives the partitions that are this member's now.

        Writes only when a third of the lease has passed, or another member's lease ran out; else it costs one read.
        Raises Fenced if this member left, was expelled, or was started again elsewhere: then join anew.
        """
        now = self._clock_us()
        with self._database.reading():
            self._check()
            quiet = now - self._renewed < self._lease_us // 3 and not _gone(self._database, self._group_id, now)
            if quiet:
                return self._mine()
        with self._database.writing():
            self._check()
            self._database.execute(
                "UPDATE member SET expires = ? WHERE group_id = ? AND name = ?",
                (now + self._lease_us, self._group_id, self._member),
            )
            if _remove_gone(self._database, self._group_id, now):
                _share(self._database, self._group_id, _grow(self._database, self._group_id))
            mine = self._mine()
        self._renewed = now
        return mine

    def renew(self) -> None:
        """Renews the lease; partitions stay until `released`."""
        self.poll()

    def released(self, partitions: Iterable[int]) -> None:
        """Says that the work on these partitions is committed: those that are to move away now do."""
        with self._database.writing():
            self._check()
            leaving = [
                number
                for number in sorted(set(partitions))
                if self._database.execute(
                    "SELECT 1 FROM share WHERE group_id = ? AND number = ? AND owner = ? AND target <> owner",
                    (self._group_id, number, self._member),
                ).fetchone()
            ]
            if leaving:
                generation = _grow(self._database, self._group_id)
                for number in leaving:
                    self._database.execute(
                        "UPDATE share SET owner = target, since = ? WHERE group_id = ? AND number = ?",
                        (generation, self._group_id, number),
                    )

    def leave(self) -> None:
        """Gives everything back at once; later polls and commits raise Fenced."""
        if self._left:
            return
        with self._database.writing():
            row = self._row()
            if row is not None and row == self._incarnation:
                _remove(self._database, self._group_id, [self._member])
                _share(self._database, self._group_id, _grow(self._database, self._group_id))
        self._left = True

    def standing(self, owned: Iterable[int]) -> Standing:
        """What a commit under this membership has to prove."""
        return Standing(
            self._group_id, self._group, self._member, self._incarnation, self._generation, tuple(sorted(set(owned)))
        )

    def _row(self) -> int | None:
        return _incarnation(self._database, self._group_id, self._member)

    def _check(self) -> None:
        if self._row() != self._incarnation:
            raise _expelled(self._group, self._member)

    def _mine(self) -> frozenset[int]:
        (self._generation,) = self._database.execute(
            "SELECT generation FROM consumer_group WHERE id = ?", (self._group_id,)
        ).fetchone()
        return frozenset(
            number
            for (number,) in self._database.execute(
                "SELECT number FROM share WHERE group_id = ? AND owner = ? AND target = owner",
                (self._group_id, self._member),
            )
        )


def check_standing(database: Database, standing: Standing) -> None:
    """Raises Fenced unless the claim holds; call it inside the commit's own SQLite transaction."""
    if _incarnation(database, standing.group_id, standing.member) != standing.incarnation:
        raise _expelled(standing.group, standing.member)
    for number in standing.owned:
        row = database.execute(
            "SELECT owner, since FROM share WHERE group_id = ? AND number = ?", (standing.group_id, number)
        ).fetchone()
        if row is None or row[0] != standing.member or row[1] > standing.generation:
            raise Fenced(
                f"partition {number} of the group '{standing.group}' is no longer held by '{standing.member}' as of "
                f"generation {standing.generation}",
                hint="drop the work of this step; the partition's owner does it again",
            )


def _expelled(group: str, member: str) -> Fenced:
    return Fenced(
        f"'{member}' is no longer a member of the group '{group}'",
        hint="its lease ran out or it was started again elsewhere; drop the work of this step and join anew",
    )


def _incarnation(database: Database, group_id: int, member: str) -> int | None:
    query = "SELECT incarnation FROM member WHERE group_id = ? AND name = ?"
    row = database.execute(query, (group_id, member)).fetchone()
    return None if row is None else int(row[0])


def _gone(database: Database, group_id: int, now: int) -> list[str]:
    """Members whose lease is over."""
    query = f"SELECT name FROM member WHERE group_id = ? AND {_GONE} ORDER BY name"
    return [name for (name,) in database.execute(query, (group_id, now, now))]


def _remove_gone(database: Database, group_id: int, now: int) -> bool:
    names = _gone(database, group_id, now)
    _remove(database, group_id, names)
    return bool(names)


def _remove(database: Database, group_id: int, names: Iterable[str]) -> None:
    for name in names:
        database.execute("DELETE FROM member WHERE group_id = ? AND name = ?", (group_id, name))
        database.execute("UPDATE share SET owner = '' WHERE group_id = ? AND owner = ?", (group_id, name))


def _grow(database: Database, group_id: int) -> int:
    database.execute("UPDATE consumer_group SET generation = generation + 1 WHERE id = ?", (group_id,))
    (generation,) = database.execute("SELECT generation FROM consumer_group WHERE id = ?", (group_id,)).fetchone()
    return int(generation)


def _share(database: Database, group_id: int, generation: int) -> None:
    """Gives each partition its target, and to those without an owner also that."""
    members = [name for (name,) in database.execute("SELECT name FROM member WHERE group_id = ?", (group_id,))]
    (partitions,) = database.execute(
        "SELECT t.partitions FROM topic t JOIN consumer_group g ON g.topic_id = t.id WHERE g.id = ?", (group_id,)
    ).fetchone()
    shares = {
        number: (owner, since)
        for number, owner, since in database.execute(
            "SELECT number, owner, since FROM share WHERE group_id = ?", (group_id,)
        )
    }
    targets = shared_out(partitions, members, {number: owner for number, (owner, _) in shares.items() if owner})
    for number in range(partitions):
        owner, since = shares.get(number, ("", generation))
        target = targets.get(number, "")
        if not owner:
            owner, since = target, generation
        database.execute("INSERT OR REPLACE INTO share VALUES(?,?,?,?,?)", (group_id, number, owner, target, since))
