"""Makes ``tiny`` importable by the tests of whole runs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
