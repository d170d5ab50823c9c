"""Reward models as rewards: model folders with a head, and user-defined classes.

To support another way of turning outputs into one score per sequence, extend ``score_shapes``.
"""
