"""Online algorithms, one per file; each file ends with its record ``ALGORITHM``, which the registry finds by a scan.

To add one, write a file here and its test: docs/extend/add_an_algorithm.md.
"""
