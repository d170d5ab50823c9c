from __future__ import annotations

import gc
import os
from collections import Counter

import pytest
from hypothesis import settings

# A busy machine is no failure, and every machine tries the same examples. HYPOTHESIS_PROFILE=explore tries others.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_finish() -> None:
    """Leave what collection has made, millions of objects, out of every later garbage collection; releasing a model makes one."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skipped tests by their reason at the end of the output: a skip that nobody sees is a test that is lost."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}")
