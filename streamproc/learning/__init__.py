"""Models that learn from the stream as managed state, and what they are worth."""
