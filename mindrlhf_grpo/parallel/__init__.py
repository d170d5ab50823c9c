"""Layouts of weights over ranks, resharding between them, and swap: the parts on the device in each phase.

A new layout is described by slices in ``resharding``; backends execute the plan.
"""
