"""Safe-Rank-GRPO: recommendation lists that keep what a user asked to avoid out, rank by rank.

Rank-GRPO (https://arxiv.org/abs/2510.20150) rewards each place of a list by itself; here a place also pays for a film
that breaks one of the user's constraints, and only the tokens of that place learn from it. GDPO
(https://arxiv.org/abs/2601.05242) keeps the two rewards apart. Written from the formulas of these sources.
"""
