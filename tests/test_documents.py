"""The documents are true: links and code places exist, commands parse, and the quick ones are run.

Commands run in one temporary folder with a copy of the examples, the files that the README shows, and a tiny model
under the name of each model that is named. A command that is not run here must match a line of ``NOT_RUN``, which
says why; it is still parsed by the command line's own parser.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mindrlhf_grpo.capacity import machine
from mindrlhf_grpo.cli.explain import KINDS
from mindrlhf_grpo.cli.main import app, main
from mindrlhf_grpo.cli.recipe import recipe_names
from mindrlhf_grpo.data.sources import read_rows
from tests.support import documents as docs
from tests.support.documents import Command
from tests.support.repository import ROOT, files, tree
from tests.support.runs.commands import PROBED
from tests.support.tiny import environment, write_model

README = Path("README.md")
TOPICS = {
    "advantage", "KL", "loss", "reward", "packing", "sampling", "weight sync", "swap", "configuration key",
    "checkpoint", "resume", "dead groups", "parity", "command line", "a new backend", "add an algorithm", "add a model",
    "add a reward", "add a data source",
}  # fmt: skip
NOT_RUN = {
    r"^mindrlhf-grpo recipe (?!.*--help)(?!$)": "each recipe's commands are run in tests/recipes, with its own files",
    r"^mindrlhf-grpo parity check .*": "compiles for MindSpore: tests/on_torch/test_parity.py",
    r"^mindrlhf-grpo parity runs ": "two finished runs: tests/on_torch/test_parity.py",
    r"^mindrlhf-grpo parity conform --backend mindspore": "tests/on_mindspore has the conformance suite",
    r"^mindrlhf-grpo parity conform": "tests/on_torch has the conformance suite",
    r"backend[= ]mindspore": "compiles for MindSpore: tests/on_mindspore has whole runs",
    r"^mindrlhf-grpo parity record .*--(lora-rank|model)": "the form without options is run",
    r"model\.dtype=bfloat16": "minutes on a processor without bfloat16 instructions",
    r"^mindrlhf-grpo (train|doctor|evaluate) (?!examples/|sums\.yaml|dpo\.yaml|model_configs/|--)\S+": "a file of the reader's own",
    r"^mindrlhf-grpo (train|export) \S*(safe_rank|ladder|vision)": "tests/recipes and tests/integration run these examples",
    r"^mindrlhf-grpo evaluate examples/ladder": "tests/integration/test_offline.py",
    r"^mindrlhf-grpo (train|export|generate|evaluate|doctor|report) .*runs/(?!tiny|sums)": "a run of the reader's own",
}  # fmt: skip
EXIT_CODES = {"algorithm.name=examples/own_algorithm/gpg.py:policy_gradient": 1}  # a part of a command -> its code
THEIRS = {
    "utils.py", "my_rows.py", "path/file.py", "file.py", "run_check/_check_version.py", "grpo_configs.py",
    "ppo_configs.py", "my_grpo.py",
}  # fmt: skip
HELP_PAGES = [
    (), ("train",), ("generate",), ("evaluate",), ("report",), ("doctor",), ("export",), ("explain",), ("recipe",),
    ("parity",), ("parity", "record"), ("parity", "check"), ("parity", "conform"), ("parity", "runs"),
]  # fmt: skip

DOCUMENTS = docs.documents()
COMMANDS = [command for document in DOCUMENTS for command in docs.commands(document)]
OURS = [
    command for command in COMMANDS if command.words[0].endswith("mindrlhf-grpo") or "mindrlhf_grpo" in command.words
]


def arguments_of(command: Command) -> list[str]:
    """Return the arguments of our command line: the words after ``mindrlhf-grpo`` or ``-m mindrlhf_grpo``."""
    words = command.words
    return words[1:] if words[0].endswith("mindrlhf-grpo") else words[words.index("mindrlhf_grpo") + 1 :]


def is_run(command: Command) -> bool:
    text = " ".join(command.words)
    excused = command.has_placeholder or any(re.search(line, text) for line in NOT_RUN)
    return command in OURS and command.words[0].endswith("mindrlhf-grpo") and not excused and is_complete(command)


def is_complete(command: Command) -> bool:
    """Tell whether a command has all its arguments; one mentioned in a sentence may lack them."""
    try:
        parse(arguments_of(command))
    except Exception as error:
        if command.inline and type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError"):
            return False
        raise
    return True


def parse(arguments: list[str]) -> None:
    """Parse as the command line does, without running anything; raises its usage errors."""
    command: Any = typer.main.get_command(app)
    rest = [argument for argument in arguments if argument != "--debug"]
    name = "mindrlhf-grpo"
    while True:
        if "--help" in rest[:1]:
            return
        if hasattr(command, "commands"):
            if not rest:
                return
            name = rest[0]
            assert name in command.commands, f"no command {name!r} among {', '.join(command.commands)}"
            command, rest = command.commands[name], rest[1:]
        elif name == "recipe" and rest:
            assert rest[0] in recipe_names()
            module = importlib.import_module(f"mindrlhf_grpo.recipes.{rest[0].replace('-', '_')}.commands")
            name, command, rest = rest[0], typer.main.get_command(module.app), rest[1:]
        else:
            command.make_context(name, list(rest))
            return


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    assert [link for link in docs.links(document) if not (ROOT / document.parent / link).exists()] == []


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=str)
def test_places_in_the_code_exist(document: Path) -> None:
    tops = {path.name for path in ROOT.iterdir()}
    known = [place for place in docs.places(document) if place[0].split("/")[0] in tops - {"runs", "models"}]
    assert [path for path, _ in known if not (ROOT / path).is_file()] == []
    assert [place for place in known if place[1] and place[0].endswith(".py") and not defines(*place)] == []


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=str)
def test_python_files_that_a_page_names_exist(document: Path) -> None:
    """A page may name a module without the folders before it; the reader's own files are in ``THEIRS``."""
    named = set(re.findall(r"`([a-z\d_/]+\.py)(?::\w+)?`", docs.prose(document))) - THEIRS
    known = [f"/{path.as_posix()}" for path in files()]
    assert sorted(name for name in named if not any(path.endswith(f"/{name}") for path in known)) == []


def test_functions_that_configurations_name_exist() -> None:
    """``mindrlhf_grpo.module:function`` in any YAML file or page is a promise: users copy it."""
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in files() if path.suffix in (".yaml", ".yml", ".md")]
    named = {match for text in texts for match in re.findall(r"(mindrlhf_grpo(?:\.\w+)+):([a-zA-Z_]\w*)", text)}
    assert ("mindrlhf_grpo.rewards.judges", "JudgeReward") in named
    assert [pair for pair in sorted(named) if not hasattr(importlib.import_module(pair[0]), pair[1])] == []


def test_readme_answers_where_is_what() -> None:
    section = re.search(r"^## Where is what\n(.*?)(?=^## |\Z)", docs.text_of(README), re.MULTILINE | re.DOTALL)
    assert section
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", section[1], re.MULTILINE))
    assert set(rows) >= TOPICS
    assert all("`" in rows[topic] or "](" in rows[topic] for topic in TOPICS)


def test_readme_counts_the_keys_that_explain_lists() -> None:
    online, offline = ({key.path for key in keys.leaves()} for keys in KINDS)
    counted = re.search(
        r"lists all (\d+) configuration keys: (\d+) of online runs.* and (\d+) that only", docs.text_of(README)
    )
    assert counted
    assert [int(count) for count in counted.groups()] == [len(online | offline), len(online), len(offline - online)]


def test_index_lists_every_page() -> None:
    pages = {path.relative_to("docs").as_posix() for path in DOCUMENTS if path.parts[0] == "docs"}
    assert pages - set(docs.links(Path("docs/index.md"))) == {"index.md"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if "make" in command.words[:1]], ids=str)
def test_make_targets_exist(command: Command) -> None:
    named = [word for word in command.words[1:] if "=" not in word and not word.startswith("-")]
    assert set(named) <= docs.make_targets()


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_files_in_commands_exist(command: Command) -> None:
    own = {"examples", "tests", "benchmarks", "docs", "model_configs", "requirements"}
    named = [word.split("::")[0] for word in command.words if "/" in word and word.split("/")[0] in own]
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("command", OURS, ids=str)
def test_commands_parse(command: Command) -> None:
    if not command.has_placeholder:
        is_complete(command)


@pytest.mark.parametrize("page", HELP_PAGES, ids=" ".join)
def test_examples_of_the_help_parse_and_name_files_that_exist(
    page: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*page, "--help"])
    shown = capsys.readouterr().out
    lines = re.findall(r"^\s+((?:mindrlhf-grpo|torchrun|msrun) .*)$", shown, re.MULTILINE)
    assert lines or not page
    for line in lines:
        command = Command(README, line.strip())
        if not command.has_placeholder:
            parse(arguments_of(command))
        named = [word for word in command.words if word.startswith(("examples/", "model_configs/"))]
        assert all((ROOT / path).is_file() for path in named), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_blocks_of_python_yaml_and_json_parse(document: Path) -> None:
    for language, content in docs.blocks(document):
        if language == "python":
            ast.parse(content if not content.startswith('"') else f"{{{content}}}")  # or an entry of a dict
        elif language == "yaml":
            assert yaml.safe_load(content) is not None
        elif language == "json":
            json.loads(content)


# ---- run for real


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: the examples, the README's files, and tiny models under the names it uses."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("reader")
    for name in ("examples", "model_configs", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    model = write_model(folder / "models" / "tiny")
    (folder / "models" / "SmolLM2-135M-Instruct").symlink_to(model)
    shutil.copytree(model, folder / "models" / "tiny-sorter")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 4096}))
    for document in DOCUMENTS:
        for name, content in docs.named_files(document).items():
            (folder / name).write_text(content)
    sums = [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(4) for b in range(4)]
    pairs = [{"prompt": row["prompt"], "chosen": row["answer"], "rejected": row["answer"] + "0"} for row in sums]
    for name, rows in {"problems": sums, "held_out": sums[:4], "pairs": pairs, "held_out_pairs": pairs[:4]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SHORT = ["train.steps=2", "train.prompts_per_step=2"]
SHORT_ONLINE = [*SHORT, "rollout.group_size=4", "rollout.max_tokens=4", "model.device=cpu"]


def run(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command, run in this process and in the given folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(machine, "probe", PROBED)
    monkeypatch.setenv("MINDRLHF_DEBUG", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


@pytest.fixture
def reader(sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sandbox with two finished runs in it: ``runs/tiny`` and ``runs/sums``."""
    for config, name in (("examples/tiny/train.yaml", "tiny"), ("sums.yaml", "sums")):
        if not (sandbox / "runs" / name / "summary.json").exists():
            small = ["checkpoint.every=1", *(["eval.source=null"] if name == "tiny" else [])]
            assert run(["train", config, *SHORT_ONLINE, *small], sandbox, monkeypatch) == 0
    return sandbox


QUICK = sorted({command.text for command in COMMANDS if is_run(command)})


@pytest.mark.parametrize("text", QUICK, ids=str)
def test_quick_commands_run(text: str, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = Command(README, text).words[1:]
    shutil.rmtree(reader / "bundle", ignore_errors=True)
    monkeypatch.setattr("sys.stdin", None)
    if arguments[0] == "train":
        online = "objective" not in yaml.safe_load((reader / arguments[1]).read_text())
        short = SHORT_ONLINE if online else [*SHORT, "model.path=models/tiny", "model.device=cpu"]
        arguments += [*short, f"run_dir=runs/{abs(hash(text))}"]
        arguments += ["eval.source=null"] if arguments[1].startswith("examples/tiny") else []
    elif arguments[0] == "evaluate":
        arguments += ["--limit", "4", "--max-tokens", "4"]
    elif arguments[0] == "generate":
        arguments += ["--max-tokens", "4"]
    elif arguments[0] == "export":
        shutil.rmtree(reader / arguments[2], ignore_errors=True)
    code = next((code for part, code in EXIT_CODES.items() if part in text), 0)
    assert run(arguments, reader, monkeypatch) == code


def test_the_quickstart_of_make_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both lines of ``make quickstart-tiny``: the real pretraining, then GRPO for three steps instead of a hundred."""
    pytest.importorskip("torch")
    rule = re.search(r"^quickstart-tiny:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule
    pretrain, train = (line.strip().lstrip("@").split() for line in rule[1].splitlines())
    assert train[1:3] == ["train", "examples/tiny/train.yaml"]
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    subprocess.run([sys.executable, *pretrain[1:]], cwd=tmp_path, env=environment(), check=True, capture_output=True)
    assert run([*train[1:3], "train.steps=3"], tmp_path, monkeypatch) == 0
    summary = json.loads((tmp_path / "runs/tiny/summary.json").read_text())
    assert summary["problems"] == 300
    assert (tmp_path / "runs/tiny/report.html").is_file()


def test_the_page_on_data_sources_gives_rows(sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sandbox)
    rows = read_rows({"name": "my_rows.py:problems", "rows": 5})
    assert [set(rows[index]) for index in range(len(rows))] == [{"prompt", "answer"}] * 5


def defines(path: str, symbol: str) -> bool:
    """Tell whether a Python file defines ``name`` or ``Class.name`` at its top."""
    body: list[ast.stmt] = tree(Path(path)).body
    for name in symbol.split("."):
        matching = [node for node in body if name in names(node)]
        if not matching:
            return False
        body = getattr(matching[0], "body", [])
    return True


def names(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
