"""Every error that a person can meet, in one tree.

    StreamprocError
    ├─ DefinitionError          the author's topology; raised at plan time
    │  ├─ UnknownColumn         a step reads a column that its input does not have
    │  ├─ TypeMismatch          a column has another type, unit or key than the step needs
    │  ├─ DuplicateName         two steps, columns or sinks share a name
    │  ├─ NotElementWise        an expression looks at other rows than its own
    │  ├─ UndeclaredRead        a person's own step reads a column that it does not say it reads
    │  └─ NotOwned              a topic or field with no owner, two, or another one than who writes it
    ├─ ContractError            a schema
    │  ├─ UnknownContract       no such contract in the registry
    │  ├─ InvalidSchema         not Avro, or refused by the lint
    │  ├─ IncompatibleEvolution a new version that cannot read, or be read by, an old one
    │  └─ RegistryUnavailable   the schema registry does not answer
    ├─ RuleBroken               a row breaks a rule whose action is to stop
    ├─ InputError               a file, flag or binding that cannot be used
    ├─ LogError                 the log
    │  ├─ UnknownTopic
    │  ├─ CorruptLog            a stored block is damaged: its checksum says so
    │  ├─ Fenced                another worker took over: this one must stop writing
    │  ├─ OffsetOutOfRange      the offset is not in the log (retention, compaction, or never written)
    │  └─ LogBusy               another process holds the log's writer lock for too long
    ├─ StateError               saved state
    │  ├─ ForeignFingerprint    state or journal of a different topology, version or build
    │  └─ CorruptSnapshot       a checkpoint file that is truncated, changed or missing
    └─ VerificationError        a replay and its journal disagree
       ├─ InputChanged          the stored input is not what the journal saw
       ├─ InputGone             the input is no longer there
       └─ ReplayDiverged        the code gives something else than it gave

Each message names the thing, the place and the way out. A bad *row* is not an error: it is a dead letter.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StreamprocError(Exception):
    """What every error of this project is; `hint` says the way out and is part of the text.

    >>> str(StreamprocError("no topic 'payment'", hint="create it with 'streamproc produce'"))
    "no topic 'payment'; create it with 'streamproc produce'"
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message + (f"; {hint}" if hint else ""))
        self.message = message
        self.hint = hint


class DefinitionError(StreamprocError):
    """A topology that cannot be planned."""


class UnknownColumn(DefinitionError):
    """A step reads a column that its input does not have."""


class TypeMismatch(DefinitionError):
    """A column has another type, unit or key than the step needs."""


class DuplicateName(DefinitionError):
    """Two steps, columns or sinks share a name."""


class NotElementWise(DefinitionError):
    """An expression whose value for a row depends on other rows."""


class UndeclaredRead(DefinitionError):
    """A step of a person's own reads a column that it does not say it reads."""


class NotOwned(DefinitionError):
    """A topic or field that has no owner, or two, or is written by somebody else than its owner."""


class StepFailed(StreamprocError):
    """A function of the topology raised while a step ran; names the step and the function's line."""


class RuleBroken(StreamprocError):
    """A row breaks a rule whose action is to stop: nothing of the step is committed."""


class ContractError(StreamprocError):
    """A schema that cannot be used."""


class UnknownContract(ContractError):
    """No such contract in the registry."""


class InvalidSchema(ContractError):
    """Not an Avro schema, or one that the lint refuses."""


class IncompatibleEvolution(ContractError):
    """A new schema version that breaks its compatibility mode."""


class RegistryUnavailable(ContractError):
    """The schema registry cannot be reached now; what it would say is not known."""


class InputError(StreamprocError):
    """A file, flag or binding that cannot be used."""


class LogError(StreamprocError):
    """Something that the log refuses."""


class UnknownTopic(LogError):
    """The log has no such topic."""


class CorruptLog(LogError):
    """A stored block is damaged: its checksum does not match its bytes."""


class Fenced(LogError):
    """Another worker took over; this one's writes are refused."""


class StaleMember(Fenced):
    """The group moved on without this member: its commit is refused, though nobody took its name.

    joined  the member has joined anew by itself: its membership goes on, and to leave now would only move more
    """

    joined: bool = False


class LogUnavailable(LogError):
    """The log cannot be reached now; nothing happened, and later it may answer."""


class UnknownOutcome(LogError):
    """Nobody can say whether a commit happened: only what the log shows as committed may be believed."""


class OffsetOutOfRange(LogError):
    """The log does not hold the offset that was asked for."""


class LogBusy(LogError):
    """Another process holds the log's write lock for longer than the time-out."""


class StateError(StreamprocError):
    """Saved state that cannot be used."""


class ForeignFingerprint(StateError):
    """State or journal that belongs to another topology, version or build."""


class CorruptSnapshot(StateError):
    """A checkpoint file that is truncated, changed or missing."""


class VerificationError(StreamprocError):
    """A replay and the journal that it follows disagree."""


class InputChanged(VerificationError):
    """The stored input is not what the journal saw."""


class InputGone(VerificationError):
    """Input that the journal names is no longer in the log."""


class ReplayDiverged(VerificationError):
    """The same input gives something else than was written; names the first differing row, column and both values."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known word, or lists what there is.

    >>> did_you_mean("amont", ["amount", "card_id"])
    "did you mean 'amount'? There are: amount, card_id"
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    there = f"There are: {', '.join(names)}" if names else "There are none"
    return f"did you mean '{near[0]}'? {there}" if near else there[0].lower() + there[1:]
