from __future__ import annotations

from pathlib import Path

import pytest

from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import UserError
from mindrlhf_grpo.rewards.resolve import load_function
from mindrlhf_grpo.user_functions import absolute, import_function, named_function


def write(folder: Path, code: str) -> str:
    path = folder / "mine.py"
    path.write_text(code)
    return str(path)


def test_rows_and_rewards_of_one_file_share_its_module(tmp_path: Path) -> None:
    file = write(tmp_path, "seen = []\ndef rows(): seen.append(1); return []\ndef reward(completions): return seen\n")
    read_rows(f"{file}:rows")
    assert load_function(f"{file}:reward", label="r")([]) == [1]


def test_a_path_is_relative_to_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "def f(): return 1\n")
    monkeypatch.chdir(tmp_path)
    assert import_function("mine.py:f") is import_function(f"{file}:f")
    assert absolute("mine.py:f") == f"{file}:f"
    assert absolute("package.module:f") == "package.module:f"


def test_an_exit_while_importing_is_an_error_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.py cannot be imported: SystemExit: 3 \(.*mine\.py:1\)$"):
        import_function(write(tmp_path, "raise SystemExit(3)\n") + ":f")


def test_a_file_that_the_imported_one_misses_is_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.py cannot be imported: FileNotFoundError: .*'lost\.txt'"):
        import_function(write(tmp_path, "open('lost.txt')\n") + ":f")


def test_what_a_function_raises_is_a_mistake_in_it_with_its_line(tmp_path: Path) -> None:
    call = named_function(write(tmp_path, "def f(text, *, upper):\n    return text[upper]\n") + ":f")
    assert call("abc", upper=1) == "b"
    with pytest.raises(UserError, match=r"mine\.py:f failed: IndexError: string index .*mine\.py:2\)$"):
        call("abc", upper=7)


def test_a_file_that_failed_is_read_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SyntaxError"):
        import_function(write(tmp_path, "def f(:\n") + ":f")
    assert import_function(write(tmp_path, "def f(): return 'mended'\n") + ":f")() == "mended"


def test_a_module_that_is_missing_inside_an_imported_one_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_with_gap.py").write_text("\nimport no_such_library\n")
    monkeypatch.chdir(tmp_path)
    said = r"module_with_gap cannot be imported: ModuleNotFoundError: .*'no_such_library' \(.*module_with_gap\.py:2\)$"
    with pytest.raises(UserError, match=said):
        import_function("module_with_gap:f")
