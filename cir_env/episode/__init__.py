"""One episode: prompts and feedback, state, rewards."""
