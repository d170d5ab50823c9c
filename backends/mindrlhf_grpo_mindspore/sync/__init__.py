"""Synchronisation: weights from policy to engine, their fingerprint, and moving them between device and host."""
