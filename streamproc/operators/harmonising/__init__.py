"""Canonical values: one form for times, money, units, text, contacts and places, whatever form a source wrote.

`harmonise` is the step; `canonical` has the types that a field can be brought to.
"""

from streamproc.operators.harmonising import canonical

__all__ = ["canonical"]
