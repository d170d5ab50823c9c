"""Metric functions for ``metrics:`` of a configuration, and alarms on the curves that they draw."""
