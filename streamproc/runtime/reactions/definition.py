"""What a person writes: which handler acts on which topic, how often it is tried, and what is written about it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from streamproc.errors import DefinitionError
from streamproc.event_time import Span, span_us
from streamproc.reaction import Event, Handler

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a handler that failed is tried again, and when.

    attempts  all attempts, the first included; after the last one the event is a dead letter
    first     about how long the first wait is: it is drawn between nothing and twice that, and the bound doubles with
              each further one; so many processes do not come back in step
    longest   no wait is longer
    never     exceptions after which it is not tried again

    Raises DefinitionError for fewer attempts than one.
    """

    attempts: int = 6
    first: Span = "200ms"
    longest: Span = "30s"
    never: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise DefinitionError(f"a retry of {self.attempts} attempts", hint="1 means that nothing is tried again")
        span_us(self.first)
        span_us(self.longest)


@dataclass(frozen=True, slots=True)
class Breaker:
    """When calls to something that fails are no longer made, and how it is found out that it is well again.

    failures       the share of failed calls, of the last `window`, from which on no call is made
    window         of how many calls the share is taken
    at_least       calls that must have been made before anything is judged
    slow           a call that takes longer counts as failed; none: only failures count
    wait           how long no call is made; then one is let through, the probe. It doubles with each failed probe, and
                   varies by a tenth, so that many processes do not come back in step
    longest_wait   the end of the doubling
    probe_timeout  a probe without an answer by then has failed
    per            the column whose value names what is called (a dependency, a model's version): each value has a
                   breaker of its own. Key the request topic by it, and one partition, so one process, holds each

    Without `per` each partition of the topic has one breaker.
    Raises DefinitionError for numbers that make no sense.
    """

    failures: float = 0.5
    window: int = 20
    at_least: int = 5
    slow: Span | None = None
    wait: Span = "30s"
    longest_wait: Span = "10m"
    probe_timeout: Span = "10s"
    per: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.failures <= 1:
            raise DefinitionError(f"failures={self.failures} is no share", hint="write a number above 0 and up to 1")
        if not 1 <= self.at_least <= self.window:
            raise DefinitionError(
                f"at_least={self.at_least} of a window of {self.window} calls", hint="it is from 1 to window"
            )
        for span in (self.wait, self.longest_wait, self.probe_timeout):
            if span_us(span) == 0:
                raise DefinitionError("a breaker that waits for 0s", hint="give wait, longest_wait and probe_timeout")
        if self.slow is not None:
            span_us(self.slow)


@dataclass(frozen=True, slots=True)
class Answers:
    """Where a handler's answer is written as an event: the answer source of a topology.

    topic     created with as many partitions as the request's topic where it is missing
    contract  of the answer's columns; the handler returns one mapping of them, a list of mappings, or None for nothing
    failed    makes the answer of a request that got none: called with the event and the reason. Without it such a
              request leaves no answer, only a dead letter

    An answer has its request's key, and an id that is made of its request's.
    """

    topic: str
    contract: str
    failed: Callable[[Event, str], Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Reaction:
    """A handler, and how it is called.

    timeout      one attempt that takes longer has failed
    concurrency  events of one partition that are under way at once; with 1 they are handled in their order
    breaker      while it is open an event waits, and no attempt is counted; where `answers` has `failed`, it is
                 answered by that at once

    Raises DefinitionError for a handler that is not asynchronous.

    >>> async def notify(event): print(event.row["reason"])
    >>> Reaction(notify, timeout="5s").concurrency
    1
    """

    handler: Handler
    timeout: Span = field(default="30s", kw_only=True)
    retry: Retry = field(default_factory=Retry, kw_only=True)
    breaker: Breaker | None = field(default=None, kw_only=True)
    answers: Answers | None = field(default=None, kw_only=True)
    concurrency: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if not is_asynchronous(self.handler):
            name = getattr(self.handler, "__name__", type(self.handler).__name__)
            raise DefinitionError(f"the handler '{name}' is not asynchronous", hint="write 'async def'")
        if span_us(self.timeout) == 0:
            raise DefinitionError("a reaction with a time-out of 0s", hint="give it some seconds")
        if self.concurrency < 1:
            raise DefinitionError(f"a reaction of concurrency {self.concurrency}", hint="it is at least 1")


@dataclass(frozen=True, slots=True)
class Reactions:
    """A named set of handlers by the topic that they act on; `streamproc react` runs it.

    name      lower-case letters, digits, `_` and `-`; it names the group that remembers what was delivered, and begins
              the names of the topics `<name>.reactions.dlq`, `.deliveries` and `.breakers`
    handlers  topic to handler, or to `Reaction` where a default does not fit
    drain     how long a process that was asked to stop waits for handlers that are under way

    Two handlers of one topic are two Reactions: each remembers for itself what was delivered.
    Raises DefinitionError for a malformed name and for anything that is no handler.

    >>> async def notify(event): print(event.row["reason"])
    >>> Reactions("pager", handlers={"retail.alerts": notify}).dead_letters
    'pager.reactions.dlq'
    """

    name: str
    handlers: Mapping[str, Handler | Reaction]
    drain: Span = field(default="10s", kw_only=True)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(
                f"'{self.name}' cannot name reactions", hint="use lower-case letters, digits, _ and -, a letter first"
            )
        if not self.handlers:
            raise DefinitionError(
                f"reactions '{self.name}' have no handlers", hint="give at least one: handlers={'topic': handler}"
            )
        span_us(self.drain)
        for topic, handler in self.handlers.items():
            if topic.startswith(f"{self.group}."):
                raise DefinitionError(
                    f"reactions '{self.name}' act on '{topic}', which they write themselves",
                    hint="act on a topic of a topology",
                )
            if not isinstance(handler, Reaction):
                Reaction(handler)
        object.__setattr__(self, "handlers", MappingProxyType(dict(self.handlers)))

    def reaction(self, topic: str) -> Reaction:
        """The handler of a topic with its settings."""
        handler = self.handlers[topic]
        return handler if isinstance(handler, Reaction) else Reaction(handler)

    @property
    def group(self) -> str:
        """The group whose offsets are one past the newest event that is dealt with."""
        return f"{self.name}.reactions"

    @property
    def dead_letters(self) -> str:
        """The topic of events that no attempt dealt with."""
        return f"{self.group}.dlq"

    @property
    def deliveries(self) -> str:
        """The topic that has one record for each event that is dealt with."""
        return f"{self.group}.deliveries"

    @property
    def breakers(self) -> str:
        """The compacted topic that has the newest state of each breaker."""
        return f"{self.group}.breakers"


def is_asynchronous(handler: Any) -> bool:
    """Whether calling it gives something to await."""
    if inspect.iscoroutinefunction(handler):
        return True
    target = getattr(handler, "func", None)  # functools.partial
    return (
        is_asynchronous(target)
        if target is not None
        else inspect.iscoroutinefunction(
            getattr(type(handler), "__call__", None)  # noqa: B004 - whether it is callable is not the question
        )
    )
