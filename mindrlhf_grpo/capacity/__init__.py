"""Prediction of a run's memory by phase, on this machine or on others, from the sizes of its models alone.

To make another model known by its hub id, add it to ``known_models.yaml``; another phase is a function in ``memory.py``.
"""
