"""Other programs' settings and arguments, read as they are: what at least two recipes use.

To read another program, write its table in YAML and hand it to ``translation``; code that one recipe needs belongs there.
"""
