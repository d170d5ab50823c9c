"""A run on disk: its folder, checkpoints, rollout log, exported model, metric sinks and progress.

To add a place that metrics are sent to, write a sink like ``wandb_sink`` and name it in ``tracking``.
"""
