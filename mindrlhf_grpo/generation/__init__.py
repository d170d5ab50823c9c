"""Rollout generation without a framework: scheduling of slots, counter-based sampling, stop strings.

An engine of a backend supplies the forward passes; a new one drives ``generation.Generation`` from its runner.
"""
