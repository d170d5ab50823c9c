"""Scripts of other programs: modules under their names, and messages where a name has no counterpart."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindrlhf_grpo.compat.scripts import run_script
from mindrlhf_grpo.errors import ConfigError, UserError

HOME = "mindrlhf_grpo"
TABLE = {"other_program.utils.files": ["json_lines.to_json"], "other_program.api": ["errors.did_you_mean"]}


@pytest.fixture(autouse=True)
def unchanged_imports() -> Iterator[None]:
    """Leave no module and no finder behind."""
    finders, words = list(sys.meta_path), list(sys.argv)
    yield
    sys.meta_path[:], sys.argv[:] = finders, words
    for name in [name for name in sys.modules if name.startswith("other_program")]:
        del sys.modules[name]


def run(folder: Path, text: str, *arguments: str) -> None:
    (folder / "script.py").write_text(text)
    run_script(folder / "script.py", arguments, TABLE, HOME)


def test_a_script_runs_with_its_arguments_and_the_other_programs_names(tmp_path: Path) -> None:
    run(
        tmp_path,
        "import sys\nfrom other_program.utils.files import to_json\nfrom other_program import api\n"
        "open(sys.argv[1], 'w').write(to_json({'near': api.did_you_mean('stepz', ['steps'])}))\n",
        str(tmp_path / "out"),
    )
    assert (tmp_path / "out").read_text() == '{"near":" (did you mean \'steps\'?)"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from other_program.utils.files import to_jsn", r"other_program.utils.files has no to_jsn here \(did you mean 'to_json'\?\); it has to_json"),
        ("from other_program.utils import adam", r"other_program.utils has no adam here; it has files"),
        ("import other_program.trainer.ppo", r"other_program has no trainer here; it has api, utils"),
    ],
)  # fmt: skip
def test_a_name_without_a_counterpart_is_said_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    """Finding F6b: it was a ModuleNotFoundError that was called a bug."""
    with pytest.raises(ConfigError, match=message + r".*script.py:2\)$"):
        run(tmp_path, f"x = 1\n{line}\n")


def test_what_a_script_raises_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"script.py failed: ZeroDivisionError: .*script.py:2\)"):
        run(tmp_path, "x = 0\nprint(1 / x)\n")
    with pytest.raises(ConfigError, match=r"there is no script .*scrpt.py \(did you mean .*script.py'\?\)"):
        run_script(tmp_path / "scrpt.py", (), TABLE, HOME)
    with pytest.raises(SystemExit):
        run(tmp_path, "raise SystemExit(3)\n")
