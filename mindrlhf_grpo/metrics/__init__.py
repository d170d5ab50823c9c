"""Metric functions for the ``metrics:`` section of a configuration, and alarms on a run's curves.

A new metric is a function like those of ``safety_metrics``, named in ``metrics:``; a new alarm is a row of ``alarms.ALARMS``.
"""
