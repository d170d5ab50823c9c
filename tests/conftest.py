from __future__ import annotations

import os

from hypothesis import settings

# A busy machine is no failure, and every machine tries the same examples. HYPOTHESIS_PROFILE=explore tries others.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
