"""What a run records while it trains: callbacks, metrics, samples, learning curves and the model card."""
