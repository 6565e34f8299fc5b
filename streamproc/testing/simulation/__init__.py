"""The simulated log, and the worker run on it under faults, on a clock that a seed moves."""
