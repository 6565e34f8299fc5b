"""People of several registers, brought together while their records come."""
