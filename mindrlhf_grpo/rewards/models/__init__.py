"""Reward models as rewards: model folders with a head, and classes of a user that hold models of their own.

To support another way of turning outputs into one score per sequence, extend ``score_shapes``.
"""
