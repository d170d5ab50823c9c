"""The reference implementation: a Llama, its sampling and its training in NumPy, and tiny models made from seeds.

It is written for reading; a new family is added here only to hold a backend against it.
"""
