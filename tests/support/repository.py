"""The files under version control and the syntax trees of the Python ones, for tests of the repository."""

from __future__ import annotations

import ast
import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {".git", ".venv", ".venv-peers", "build", "dist", "runs", "models", "__pycache__"}


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file of the project, relative to its root: what git tracks or would track, else all but build output."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # no git, or not a clone
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        listed = [str(path) for path in found if not path_is_skipped(path)]
    return tuple(sorted(Path(name) for name in listed if (ROOT / name).is_file()))


def path_is_skipped(path: Path) -> bool:
    """Tell whether a path is in build output or caches."""
    return any(part in SKIPPED or part.endswith((".egg-info", "_cache")) for part in path.parts)


def python_files(*folders: str) -> list[Path]:
    """The Python files, of the given top folders or of all."""
    return [path for path in files() if path.suffix == ".py" and (not folders or path.parts[0] in folders)]


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse((ROOT / path).read_text(), str(path))
