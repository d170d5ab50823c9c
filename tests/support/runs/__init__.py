"""Commands in this process, and whole runs of tiny models that tests of both backends share."""
