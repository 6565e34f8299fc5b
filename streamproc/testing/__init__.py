"""Floor 9: what proves a topology, ours and yours: drive it, check its laws, compare with naive twins."""
