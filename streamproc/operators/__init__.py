"""The verbs: every operator that a topology is made of."""
