"""The embedded log: one SQLite file per log, nothing to install, for all processes of one machine."""

from connectors.embedded.log import EmbeddedLog
from connectors.embedded.verifying import Finding

__all__ = ["EmbeddedLog", "Finding"]
