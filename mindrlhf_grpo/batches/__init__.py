"""From rollouts or dataset rows to what a policy update computes: batches, loss weights, micro-batches, items.

A new aggregation is one more case of ``online.loss_weights``; everything downstream is a plain sum.
"""
