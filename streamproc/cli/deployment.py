"""What a topology's workers are deployed with: the value from which compose and Kubernetes files are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from streamproc.runtime.memory import amount_bytes

HOME: Final = PurePosixPath("/app")
"""The project's folder in the image: its topologies, its contracts, and the binding."""
PORT: Final = 9464
STATE: Final = "state"
_BEYOND: Final = 1.2
"""A worker stays within its bound and a fifth: the container's limit is never met, which would kill it."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What both forms say.

    name        what everything is called: letters, digits and `-`
    topology    as `streamproc run` takes it in the image
    binding     path in the project and text of the binding
    flags       further flags of `run`
    state       folders in the image that must outlive a container
    variables   environment variables that hold secrets
    files       paths of secret files and certificates
    on_kafka    workers may run on many machines; else all must share one file
    bounded     the binding says what memory a worker may take
    """

    name: str
    topology: str
    version: int
    owner: str
    image: str
    binding: tuple[PurePosixPath, str] | None
    flags: tuple[str, ...]
    state: tuple[PurePosixPath, ...]
    variables: tuple[str, ...]
    files: tuple[PurePosixPath, ...]
    on_kafka: bool
    workers: int
    drain_s: int
    cpu: str
    memory: str
    bounded: bool

    def command(self, *, workers: int = 1, member: str = "") -> list[str]:
        """The command line of one container."""
        line = ["streamproc", "run", self.topology]
        if self.binding is not None:
            line += ["--bind", str(HOME / self.binding[0])]
        line += [*self.flags, "--http", f"0.0.0.0:{PORT}", "--drain-timeout", f"{self.drain_s}s"]
        if not self.bounded:
            line += ["--memory", f"{int(amount_bytes(self.memory) / _BEYOND) >> 20}MiB"]
        if workers > 1:
            line += ["--workers", str(workers)]
        return line + (["--member", member] if member and workers == 1 else [])
