"""Files, servers and whole runs of the recipes, for their tests on both backends; their acceptance table."""
