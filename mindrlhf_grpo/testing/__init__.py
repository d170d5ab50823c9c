"""The proof that a backend computes what it should, for any backend; nothing here imports a framework.

``conformance`` compares a backend with a Llama written in NumPy (``numpy_model``); ``parity`` compares one stack with
another through a folder (``mindrlhf-grpo parity record`` here, ``mindrlhf-grpo parity check`` there), and one training
run with another.
"""
