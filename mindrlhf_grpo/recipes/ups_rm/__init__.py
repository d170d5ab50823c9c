"""UPS-RM: GRPO on the prompts of PKU-SafeRLHF with a reward model that scores how unsafe an answer is.

A Llama body with an MLP head (model type ``myrm``) gives a logit, larger for less safe answers; ``sigmoid(-logit)`` turns
it into a reward. The commands read verl's dotted names.
"""
