"""Synchronisation: weights from policy to engine, and moving them between device and host."""
