"""Recipes: systems that users run today, as data, rewards, metrics and commands over the core.

None changes a trainer or a backend. Each is a package here; the Typer ``app`` of its module ``commands`` is what
``mindrlhf-grpo recipe NAME`` runs.
"""
