"""What is done about a row: rules, thresholds, routing, the log of decisions, and alerts."""
