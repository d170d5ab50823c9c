"""Tokenizers and chat templates: text to ids and back, the same ids on every backend.

To add a kind of tokenizer file, write a module with a class that follows ``tokenizer.Tokenizer`` and name it in ``tokenizer.load_tokenizer``.
"""
