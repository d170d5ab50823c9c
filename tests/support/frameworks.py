"""Marks for tests of the core that check a configuration against an installed framework."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the configuration names the torch backend")
