from __future__ import annotations

from pathlib import Path

import pytest

from mindrlhf_grpo.data.rows import BadRow
from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import DataError

CODE = """
from __future__ import annotations
from dataclasses import dataclass

LIMIT = 3

@dataclass
class Problem:
    prompt: str

def rows(count: int = 2, *, word: str = "row"):
    for i in range(count):
        yield vars(Problem(f"{word} {i}"))

def mixed():
    return [{"prompt": "a"}, "text", {"prompt": "b"}]

def wrong():
    return "text"

def fails():
    raise KeyError("lost")

def needs(count):
    return []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_rows.py"
    path.write_text(CODE)
    return path


def test_a_generator_in_a_file_with_arguments(file: Path) -> None:
    rows = read_rows({"name": f"{file}:rows", "count": 3, "word": "line"})
    assert [rows[i] for i in range(len(rows))] == [{"prompt": f"line {i}"} for i in range(3)]
    assert rows.place(2) == f"{file}:rows[2]"


def test_a_function_of_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    assert len(read_rows("my_rows:rows")) == 2


def test_what_is_no_dict_is_a_bad_row(file: Path) -> None:
    rows = read_rows(f"{file}:mixed")
    assert rows[1] == BadRow(f"{file}:mixed[1]", "not a dict but str")
    assert [rows[0], rows[2]] == [{"prompt": "a"}, {"prompt": "b"}]
    assert list(rows.bad) == [1]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("row", {}, r"has no function 'row' \(did you mean 'rows'\?\); functions there: .*rows, mixed"),
        ("LIMIT", {}, "is a int, not a function"),
        ("wrong", {}, "returned str, not an iterable of dicts"),
        ("fails", {}, "failed: KeyError: 'lost'"),
        ("rows", {"cuont": 1}, r"argument 'cuont' is unknown \(did you mean 'count'\?\); accepted: count, word"),
        ("needs", {}, "missing a required argument: 'count'"),
    ],
)
def test_a_wrong_function_or_argument(file: Path, function: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows({"name": f"{file}:{function}", **arguments})


def test_a_missing_file_or_module_or_a_broken_one(file: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*my_row\.py \(did you mean '.*my_rows\.py'\?\)"):
        read_rows(f"{file.parent}/my_row.py:rows")
    with pytest.raises(DataError, match="no module 'no_such_module_here' on the import path"):
        read_rows("no_such_module_here.rows:function")
    file.write_text("import no_such_library\n")
    with pytest.raises(
        DataError, match=r"my_rows.py cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"
    ):
        read_rows(f"{file}:rows")
    file.write_text("def rows(:\n")
    with pytest.raises(DataError, match="SyntaxError"):
        read_rows(f"{file}:rows")
