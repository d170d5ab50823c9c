"""How weights are laid out over ranks and moved between layouts, and what stays on the device between phases.

A new layout is described by slices in ``resharding``; backends execute the plan.
"""
