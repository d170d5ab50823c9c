"""RAIDEN-R1: role awareness through GRPO with a verifiable reward (https://arxiv.org/abs/2505.10218).

Questions about a character's profile (script-based knowledge, SBK) and about what was said before (conversation
memory, CM) are written by a server from character profiles; the reward checks the answer's keywords; evaluation
reports SBK and CM. Chinese, Japanese, English and Korean throughout. All texts are data (``texts.yaml``).
"""
