"""Training: policy, critic and reward model, their log-probs, layouts of micro-batches and optimizer."""
