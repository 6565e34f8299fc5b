"""Floor 7: from a topology to the stages that run it."""
