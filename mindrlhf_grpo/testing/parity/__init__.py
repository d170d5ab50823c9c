"""Proof that two stacks agree: record on one, check on the other, and compare whole runs step by step.

To compare another quantity, add it to ``quantities`` and measure it in ``measurements``.
"""
