"""A real schema registry for tests: Apicurio, which speaks Confluent's REST interface, with its data in memory.

    with schema_registry() as registry:
        registry.url            # where /subjects lies

`python -m tests.services.apicurio` starts one and keeps it until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.services.processes import Server, cache, free_ports, locked, maven, need

VERSION = "2.6.13.Final"
"""The newest that runs on Java 17."""


def application() -> Path:
    """The folder with the registry, fetched once."""
    need("java", "mvn")
    home = cache() / f"apicurio-{VERSION}"
    with locked(cache() / f"apicurio-{VERSION}.lock"):
        if not (home / ".complete").exists():
            maven(
                Path(__file__).with_name("apicurio-pom.xml"),
                "dependency:unpack",
                f"-Dapicurio.version={VERSION}",
                f"-Dout={home}",
            )
            (home / ".complete").touch()
    return home


class ApicurioRegistry:
    """One registry; what was registered is gone when it stops."""

    def __init__(self, folder: Path) -> None:
        self._home = application()
        self._folder = folder
        (self.port,) = free_ports(1)
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """The address of its Confluent-compatible interface."""
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def start(self) -> None:
        """Starts it, empty, and waits until it answers."""
        self._server = Server(
            [
                "java", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self.port}",
                "-Dquarkus.datasource.jdbc.initial-size=2", "-Dquarkus.datasource.jdbc.min-size=2",
                "-jar", str(self._home / f"apicurio-registry-app-{VERSION}-runner.jar"),
            ],
            self._folder / "registry.log",
        )  # fmt: skip
        self._server.wait_until(self._answers, 90)

    def pause(self) -> None:
        """Freezes it: connections open, and nothing answers."""
        assert self._server is not None
        self._server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        assert self._server is not None
        self._server.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it."""
        if self._server is not None:
            self._server.stop(grace=0)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def schema_registry() -> Iterator[ApicurioRegistry]:
    """A registry that answers."""
    folder = Path(tempfile.mkdtemp(prefix="streamproc-apicurio-"))
    registry = None
    try:
        registry = ApicurioRegistry(folder)
        registry.start()
        yield registry
    finally:
        if registry is not None:
            registry.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    with schema_registry() as running:
        print(running.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
