"""The conformance suite: any backend held against a Llama written in NumPy.

To add a check, write a function in the module of its subject; ``suite.CHECKS`` lists them all.
"""
