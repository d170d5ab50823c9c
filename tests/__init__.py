"""The test suite: core, both backends, whole runs, recipes; ``support`` holds what tests share."""
