"""SafeWork-R1 (arXiv:2507.18576): reinforcement learning with judges of value, safety, knowledge and more, by label.

A model registry lists the judges; a routing table tells which of them score a row's label. The numbers come from the
training code published with LightRFT; the prompts of the judges are our own.
"""

from __future__ import annotations
