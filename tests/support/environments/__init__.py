"""Environments, models that talk, and engines that say given texts, for the tests of rollouts with several turns."""
