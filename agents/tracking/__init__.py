"""What a run reports while it trains: callbacks, metrics, samples and the model card."""
