"""Recipes: data, rewards, metrics and commands of published systems, over the core.

A recipe changes no trainer and no backend, and holds everything that only it uses. To add one, write a package here with
a module ``commands``: ``mindrlhf-grpo recipe NAME`` runs its Typer ``app``.
"""
