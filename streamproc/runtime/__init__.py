"""Floor 8: the shell. What reads clocks, logs and disks, and drives the pure step."""
