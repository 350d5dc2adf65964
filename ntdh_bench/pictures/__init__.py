"""What a run keeps for its page and its log: counts by class, a few samples, and its mask."""
