"""The proof that a backend computes what it should, shipped for everyone: nothing here imports a framework.

``conformance.py`` holds any backend against a Llama written in NumPy; ``parity.py`` holds one stack against another
through a folder (``mindrlhf-grpo parity record`` here, ``mindrlhf-grpo parity check`` there); ``compare_runs.py``
holds one training run against another.
"""
