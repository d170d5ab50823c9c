"""The command line: ``main`` has the commands, every other module is what one of them does.

To add a command, write its module here and a function in ``main`` that parses its arguments and calls it.
"""
