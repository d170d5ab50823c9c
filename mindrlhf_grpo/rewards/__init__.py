"""Reward functions, their weights and their guards."""
