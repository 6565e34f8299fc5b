"""Groups as a broker keeps them: members with leases, generations, and partitions that move only when released."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from streamproc.errors import Fenced, StaleMember


@dataclass(slots=True)
class Member:
    """One member: which start of it counts, until when its lease runs, and what it holds."""

    instance: int
    lease_us: int
    until: int
    owned: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Group:
    """Who shares out the partitions of a topic.

    since   the generation at which each partition was given to the member that holds it
    strict  refuse commits of every generation but the present one, as Kafka's classic protocol does
    """

    name: str
    count: int
    strict: bool = False
    members: dict[str, Member] = field(default_factory=dict)
    generation: int = 0
    since: dict[int, int] = field(default_factory=dict)

    def join(self, name: str, instance: int, lease_us: int, now: int) -> None:
        """Takes a member in; the same name again takes its own place anew."""
        self.expire(now)
        self.members[name] = Member(instance, lease_us, now + lease_us)
        self.generation += 1

    def expire(self, now: int) -> None:
        """Removes members whose lease ran out."""
        for name in [name for name, member in self.members.items() if member.until <= now]:
            del self.members[name]
            self.generation += 1

    def present(self, name: str, instance: int, now: int) -> Member:
        """The member, its lease renewed; raises Fenced or StaleMember if it is not one any more."""
        self.expire(now)
        member = self.members.get(name)
        if member is None:
            raise StaleMember(f"'{name}' is no member of '{self.name}' any more", hint="join again, restore the tasks")
        if member.instance != instance:
            raise Fenced(f"'{name}' was started again elsewhere", hint="only one worker may run under a name")
        member.until = now + member.lease_us
        return member

    def poll(self, name: str, instance: int, now: int) -> frozenset[int]:
        """What is this member's now: its share of the partitions, as far as nobody else still holds them."""
        member = self.present(name, instance, now)
        names = sorted(self.members)
        share = {p for p in range(self.count) if names[p % len(names)] == name}
        taken = {p for other, them in self.members.items() if other != name for p in them.owned}
        for partition in sorted(share - taken - member.owned):
            member.owned.add(partition)
            self.since[partition] = self.generation
        return frozenset(member.owned & share)

    def release(self, name: str, instance: int, partitions: Iterable[int], now: int) -> None:
        """The member is done with partitions."""
        member = self.present(name, instance, now)
        gone = member.owned & set(partitions)
        member.owned -= gone
        if gone and not self.strict:
            self.generation += 1

    def leave(self, name: str, instance: int) -> None:
        """The member gives everything back."""
        member = self.members.get(name)
        if member is not None and member.instance == instance:
            del self.members[name]
            self.generation += 1

    def check(self, name: str, instance: int, generation: int, owned: Iterable[int], now: int) -> None:
        """Raises Fenced unless the member has held these partitions since that generation."""
        self.expire(now)
        member = self.members.get(name)
        if member is None or (self.strict and generation != self.generation):
            raise StaleMember(
                f"'{name}' commits with generation {generation} of '{self.name}', which is at {self.generation}",
                hint="poll the group, and restore the tasks",
            )
        if member.instance != instance:
            raise Fenced(f"'{name}' was started again elsewhere", hint="only one worker may run under a name")
        for partition in owned:
            if partition not in member.owned or self.since[partition] > generation:
                raise StaleMember(
                    f"'{name}' does not hold partition {partition} of '{self.name}' since generation {generation}",
                    hint="poll the group, and restore the tasks",
                )
