"""Floor 7: one step of one task, as a pure function of plan, state and input."""
