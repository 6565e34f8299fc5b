"""Nexmark: an auction house's events, twenty-two questions about them, and independent answers."""
