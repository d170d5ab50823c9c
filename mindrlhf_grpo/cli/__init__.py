"""The command line: ``main`` defines the commands, and each other module does the work of one of them.

To add a command, write its module here and a function in ``main`` that parses its arguments and calls it.
"""
