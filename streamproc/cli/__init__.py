"""Floor 10: words that a person types."""

from streamproc.cli.app import main

__all__ = ["main"]
