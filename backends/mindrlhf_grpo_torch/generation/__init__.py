"""Generation: the rollout engine, its decoder, its key-value cache and its sampler."""
