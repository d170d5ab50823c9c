"""Algorithms: one file each in ``online``, a family of objectives each in ``offline``, and what a configuration makes of them.

To add one, write a file with its record there (docs/extend/add_an_algorithm.md); trainers and backends know no names.
"""
