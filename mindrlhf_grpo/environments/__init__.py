"""Environments: the other side of rollouts with several turns, whose methods a model calls as tools.

``environment_class`` reads a user's class, ``call_formats`` what a model writes to call a tool, ``turn_template`` writes
what stands between two turns, ``episodes`` runs all environments of one call of ``generate``. A form of tool calls is
added in ``call_formats.FORMATS``.
"""
