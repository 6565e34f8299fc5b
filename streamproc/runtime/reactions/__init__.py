"""The reaction plane: asynchronous handlers with side effects on topics of decisions and alerts."""
