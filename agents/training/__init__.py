"""The training loop, and what keeps a run safe: checkpoints, validation, health, weight sync."""
