"""SafeWork-R1 (arXiv:2507.18576): reinforcement learning with judges for value, safety, knowledge and more, by label.

A model registry says which judges there are, a routing table which of them score a row's label. Source of the numbers:
the training code published with LightRFT; prompts of the judges are our own.
"""

from __future__ import annotations
