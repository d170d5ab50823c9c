"""Other programs' settings and arguments, read as they are; shared by several recipes.

To read another program, write a table of its keys in YAML (``translation.py`` shows the language) and read it with
``Table``. Code for a single recipe belongs to that recipe.
"""
