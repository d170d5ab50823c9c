"""RAIDEN-R1: role awareness through GRPO with a verifiable reward (https://arxiv.org/abs/2505.10218).

A chat server writes questions from character profiles: about the profile (script-based knowledge, SBK) and about the
earlier conversation (conversation memory, CM). The reward checks the keywords of the answer; evaluation reports SBK and CM.
Everything works in Chinese, Japanese, English and Korean, and all texts are data (``texts.yaml``).
"""
