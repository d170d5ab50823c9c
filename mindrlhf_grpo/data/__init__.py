"""Rows of any source become prompts and examples: sources, order, encoding, images.

To add a kind of source, write a reader that returns ``rows.Rows`` and name it in ``sources.read_rows``; a function in
your own file needs no change here.
"""
