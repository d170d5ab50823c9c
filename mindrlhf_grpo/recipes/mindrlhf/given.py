"""Reward functions that a script hands over as objects; a configuration names them here."""
