"""Quality of data: rules that rows and windows of rows must keep, and what happens where they do not.

`rules` is the step, `rule` has what a rule can be; alerts are a stream beside the rows.
"""

from streamproc.operators.quality import rule

__all__ = ["rule"]
