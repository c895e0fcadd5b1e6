"""From trajectories to gradients: batches, advantages, losses and the update. It samples nothing."""
