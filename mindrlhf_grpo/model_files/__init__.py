"""Model folders in the Hugging Face layout and the architectures they describe, without a framework.

To support another model family, add a function to ``families``; another kind of weight file is a module beside
``safetensors`` with the same reads and writes.
"""
