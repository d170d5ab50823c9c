"""Print every line that names a path of one machine or the address of a package index, and every large file.

Neither works for the next reader. Exits with 1 if there is any.

python -m tests.support.hygiene
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.support.repository import ROOT, files

TEXT = {".py", ".js", ".css", ".html", ".md", ".txt", ".toml", ".yaml", ".yml", ".json", ".sh", ".cfg", ".cff", ""}
LARGE = 500_000
# In pieces, so that this file passes its own check.
ELSEWHERE = re.compile(
    "|".join([r"(?<![\w./-])/(?:work" + r"|root|home/\w+|Users/\w+)/", r"\b(?:pypi|test\.pypi)\." + r"org\b",
              r"files\.pythonhosted" + r"\.", r"registry\.npmjs" + r"\.", "--(?:extra-)?index" + "-url"])
)  # fmt: skip


def findings(path: Path) -> list[str]:
    """Everything wrong with one file."""
    size = (ROOT / path).stat().st_size
    large = [f"{path}: {size:,} bytes"] if size > LARGE else []
    lines = (ROOT / path).read_text(errors="replace").splitlines() if path.suffix in TEXT else []
    return large + [
        f"{path}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if ELSEWHERE.search(line)
    ]


if __name__ == "__main__":
    problems = [problem for path in files() for problem in findings(path)]
    print("\n".join(problems), end="\n" if problems else "")
    sys.exit(bool(problems))
