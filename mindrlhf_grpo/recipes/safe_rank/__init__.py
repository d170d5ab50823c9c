"""Safe-Rank-GRPO: recommendation lists without what a user asked to avoid, learned rank by rank.

Rank-GRPO (https://arxiv.org/abs/2510.20150) rewards each rank of a list separately. Here a rank is also penalised for a
film that violates one of the user's constraints, and only the tokens of that rank learn from it. GDPO
(https://arxiv.org/abs/2601.05242) normalises the two rewards separately. Written from the formulas of these papers.
"""
