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


def test_rows_that_a_function_made_of_others_are_named_by_the_others(tmp_path: Path) -> None:
    """Finding F24: a recipe's rows were named ``...data:rows[8]``."""
    (tmp_path / "numbers.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n')
    (tmp_path / "placed.py").write_text(
        "from mindrlhf_grpo.data.rows import ChangedRows, PlacedRow\n"
        "from mindrlhf_grpo.data.sources import read_rows\n"
        "def rows(path):\n"
        "    yield from ChangedRows(read_rows(path), lambda row: {'prompt': str(row['n'])})\n"
        "    yield PlacedRow('elsewhere:7', {'prompt': ''})\n"
        "    yield {'prompt': 'here'}\n"
    )
    name = f"{tmp_path / 'placed.py'}:rows"
    rows = read_rows({"name": name, "path": str(tmp_path / "numbers.jsonl")})
    places = [rows.place(index) for index in range(4)]
    path = tmp_path / "numbers.jsonl"
    assert places == [f"{path}:1", f"{path}:3", "elsewhere:7", f"{name}[3]"]
    assert [rows[index] for index in range(2)] == [{"prompt": "1"}, {"prompt": "2"}]
