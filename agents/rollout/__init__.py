"""From episode specifications to trajectories, for training and for evaluation."""
