"""`streamproc`, which kills itself, as `kill -9` would, just before it does something for the n-th time.

    python killed_child.py EVENT PART N COMMAND...

EVENT is an audit event of Python (`open`, `os.rename`, `tempfile.mkdtemp`, ...), PART what its first argument contains.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

event, part, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
times = itertools.count(1)


def strike(name: str, arguments: tuple[object, ...]) -> None:
    if name == event and arguments and part in str(arguments[0]) and next(times) == number:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    from streamproc.cli.app import run

    sys.addaudithook(strike)
    sys.exit(run(sys.argv[4:]))
