"""Whole runs of tiny models that tests of both backends share."""
