"""What a worker shows of itself: metrics, and whether it gets on."""
