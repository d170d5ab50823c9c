"""Algorithms by name: which advantages, which loss, and which models and log-probs they need.

To add one, write its record beside the others; trainers and backends never ask for a name.
"""
