"""One episode: what the policy reads, how far it has come, what it earns."""
