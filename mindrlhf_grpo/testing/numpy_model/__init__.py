"""The reference implementation: a Llama, its sampling and its training in NumPy, and tiny models made from seeds.

It is written to be read. It computes Llama-like families; a part that it lacks is added only to compare a backend.
"""
