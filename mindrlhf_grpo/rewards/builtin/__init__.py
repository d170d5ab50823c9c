"""Built-in reward functions, one file each.

To add one, write a function in a file here and one row in ``resolve.BUILT_INS``.
"""
