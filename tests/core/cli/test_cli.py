"""The command line: help that teaches, one clear block for errors, exit codes, one JSON line for programs."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo import __version__, errors
from mindrlhf_grpo.cli.console import BUG, rank_of_process
from mindrlhf_grpo.cli.generate import read_prompts
from mindrlhf_grpo.cli.main import main
from mindrlhf_grpo.errors import Interrupted, RunFailed, ServerError
from mindrlhf_grpo.rewards.resolve import BUILT_INS
from mindrlhf_grpo.run.stop_signals import Terminated
from tests.support.repository import ROOT
from tests.support.tiny_run import needs_torch, write_run

Run = Callable[..., tuple[int, str, str]]
COMMANDS = ("train", "generate", "evaluate", "report", "doctor", "export", "explain")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("MINDRLHF_DEBUG", "")
    monkeypatch.setenv("COLUMNS", "120")  # lines break where the terminal ends
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def replace_training(monkeypatch: pytest.MonkeyPatch, function: Callable[[Any], dict[str, Any]]) -> None:
    pytest.importorskip("mindrlhf_grpo.trainers.online")
    monkeypatch.setattr("mindrlhf_grpo.trainers.online.train", function)


def test_help_lists_the_commands_with_a_full_sentence_each(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"  {name} " in out for name in COMMANDS)
    assert "..." not in out.partition("Commands:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_an_example(run: Run, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"\n  mindrlhf-grpo {name}" in out


def test_no_command_shows_the_help(run: Run) -> None:
    code, out, err = run()
    assert "Commands:" in out + err
    assert code in (0, 2)  # 2 in newer versions of the library


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom mindrlhf_grpo.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'transformers', 'yaml', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_preflight_loads_no_framework(config: Path) -> None:
    program = (
        "import sys\nfrom mindrlhf_grpo.cli.main import main\n"
        f"try: main(['train', {str(config)!r}, 'rollout.group_size=1'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'mindspore', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"]
    assert "rollout.group_size is 1" in done.stderr


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"mindrlhf-grpo {__version__}\n", "")


def test_module_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mindrlhf_grpo", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"mindrlhf-grpo {__version__}\n"


# ---- training


@needs_torch
def test_training_ends_with_one_json_line(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = {"accuracy_before": 0.25, "accuracy_after": float("nan"), "problems": 9, "report": "x/report.html"}
    replace_training(monkeypatch, lambda config: {**summary, "seconds": config.train.steps})
    code, out, err = run("train", config, "train.steps=7")
    assert code == 0
    assert json.loads(out) == {**summary, "accuracy_after": None, "seconds": 7}
    assert "accuracy_before" in err
    assert "0.25" in err


@needs_torch
def test_other_ranks_print_nothing(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    replace_training(monkeypatch, lambda _: {"a": 1})
    assert run("train", config) == (0, "", "")
    assert run("train", config, "train.steps=x") == (2, "", "")


@needs_torch
def test_errors_of_another_rank_say_which(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> dict[str, Any]:
        raise RunFailed("step 3: the loss is NaN")

    monkeypatch.setenv("RANK", "1")
    replace_training(monkeypatch, fail)
    assert run("train", config) == (3, "", "error (rank 1): step 3: the loss is NaN\n")


@needs_torch
def test_interruption_says_how_to_go_on(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    replace_training(monkeypatch, interrupt)
    consequence = "the same command starts from the beginning"
    assert run("train", config) == (
        130, "", f"error: interrupted; {config.parent}/run has no checkpoint yet (checkpoint.every), so {consequence}\n"
    )  # fmt: skip
    (config.parent / "run" / "checkpoints" / "step_4").mkdir(parents=True)
    err = run("train", config)[2]
    assert (
        err
        == f"error: interrupted; the same command goes on after step 4, the last checkpoint in {config.parent}/run\n"
    )


@needs_torch
def test_bugs_are_one_line_and_a_traceback_only_if_asked(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> dict[str, Any]:
        raise ZeroDivisionError("division\nby zero")

    replace_training(monkeypatch, fail)
    code, out, err = run("train", config)
    assert (code, out) == (70, "")
    assert err == "error: ZeroDivisionError: division by zero\nThis is a bug; --debug shows the traceback.\n"
    with pytest.raises(ZeroDivisionError):
        main(["train", str(config), "--debug"])
    monkeypatch.setenv("MINDRLHF_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["train", str(config)])


@needs_torch
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MemoryError(), 3, "error: out of memory: MemoryError. Set swap={}, model.dtype=bfloat16, model.lora_rank=32."),
        (OSError(28, "No space left on device"), 3, "error: no space to write a file: [Errno 28] No space left"),
        (ServerError("http://x cannot be reached"), 4, "error: http://x cannot be reached"),
        (Interrupted("SIGTERM ended the run", 15), 143, "error: SIGTERM ended the run"),
        (Terminated(), 143, "error: terminated; "),
    ],
)
def test_errors_have_their_exit_codes(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    """Finding torch.md 5, newcomer P3.7: shortages are failed runs; issue part 6: one table of exit codes."""

    def fail(_: Any) -> dict[str, Any]:
        raise error

    replace_training(monkeypatch, fail)
    found, out, err = run("train", config)
    assert (found, out) == (code, "")
    assert err.startswith(text)
    assert "bug" not in err


def test_the_documented_exit_codes_are_those_of_the_program() -> None:
    table = (ROOT / "docs" / "operation.md").read_text().partition("## Exit codes")[2].partition("## ")[0]
    documented = {int(row.split("|")[1]) for row in table.splitlines() if row.startswith("| ") and row[2].isdigit()}
    of_errors = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.UserError)
    }
    signals = {128 + number for number in (signal.SIGINT, signal.SIGTERM)}
    assert documented == {0, 1, BUG} | of_errors | signals


def test_a_mistyped_option_is_a_usage_error(run: Run, config: Path) -> None:
    code, out, err = run("train", config, "--steps", "3")
    assert (code, out) == (2, "")
    assert "No such option" in err


# ---- explain


def test_explain_a_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # long lines are wrapped to the terminal
    code, out, _ = run("explain", "rollout.group_size")
    assert code == 0
    assert out.splitlines() == [
        "rollout.group_size",
        "  Completions per prompt (G).",
        "  takes    a whole number, at least 1 and at most 100000",
        "  default  8",
        "  peers    trl: num_generations; verl: rollout.n; openrlhf: --n_samples_per_prompt",
        "  write    rollout.group_size=8",
    ]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("num_generations", "rollout.group_size"), ("--n_samples_per_prompt", "rollout.group_size"),
        ("actor_rollout_ref.rollout.n", "rollout.group_size"), ("beta", "algorithm.kl_coef"),
        ("gradient_checkpointing", "model.recompute"), ("epsilon_high", "algorithm.clip_high"),
        ("max_num_seqs", "rollout.slots"), ("--init_kl_coef", "algorithm.kl_coef"),
    ],
)  # fmt: skip
def test_explain_finds_what_peers_call_a_key(run: Run, name: str, key: str) -> None:
    code, out, _ = run("explain", "--", name)
    assert code == 0
    assert f" is {key} here." in out
    assert f"\n{key}\n" in out


def test_explain_tells_what_presets_set(run: Run) -> None:
    assert "presets  (none) 0.0; trl 0.0; verl 3.0" in run("explain", "algorithm.dual_clip")[1]


def test_explain_all_keys_a_section_and_an_ambiguous_name(run: Run) -> None:
    everything = run("explain")[1]
    assert "[8] Completions per prompt (G)." in everything
    assert "(required) Folder or hub id" in everything
    assert "train.steps" in run("explain", "train")[1]
    assert [line for line in run("explain", "every")[1].splitlines() if line[:1].strip()] == [
        "algorithm.reference_sync.every",
        "eval.every",
        "checkpoint.every",
    ]


@pytest.mark.parametrize("name", BUILT_INS)
def test_explain_a_built_in_reward(run: Run, name: str) -> None:
    if BUILT_INS[name].library:
        pytest.importorskip(BUILT_INS[name].library)
    code, out, _ = run("explain", name)
    assert code == 0
    assert f"{name}, a built-in reward" in out
    assert name in run("explain", "rewards.0.function")[1]


def test_explain_lists_the_arguments_of_a_reward(run: Run) -> None:
    out = " ".join(run("explain", "numeric_match")[1].split())  # lines break where the terminal ends
    assert "rewards.0.arguments.tolerance: float, default 0.0" in out
    assert "rewards.0.arguments.notation: Literal['1,234.5', '1.234,5', '1 234.5', '1 234,5'], default '1,234.5'" in out
    assert "rewards.0.arguments.seconds: float, default 5.0" in run("explain", "unit_tests")[1]


def test_explain_an_unknown_key_names_the_nearest(run: Run) -> None:
    assert run("explain", "lerning_rate") == (
        2,
        "",
        "error: unknown key lerning_rate; did you mean train.learning_rate?\n",
    )


def test_explain_schema_is_json(run: Run) -> None:
    sections = json.loads(run("explain", "--schema")[1])["$defs"]
    assert sections["RunConfig"]["properties"]["seed"]["default"] == 0
    assert sections["OfflineConfig"]["properties"]["seed"]["default"] == 0


# ---- report, export, evaluate, generate: what can be said without a backend


def test_report_of_what_is_no_run(run: Run, tmp_path: Path) -> None:
    code, _, err = run("report", tmp_path)
    assert code == 2
    assert err == f"error: '{tmp_path}' is no run: there is no {tmp_path}/metrics.jsonl\n"


def test_export_of_what_is_no_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no complete checkpoint" in run("export", tmp_path / "empty", tmp_path / "out")[2]
    assert "there is no folder" in run("export", tmp_path / "nothing", tmp_path / "out")[2]


def test_generate_needs_a_model_and_a_prompt(run: Run, config: Path) -> None:
    model = config.parent / "model"
    assert run("generate", model)[2].startswith("error: no prompt: give texts, or a file")
    assert "cannot be read" in run("generate", model, "--file", "nothing.txt")[2]
    assert "there is no folder" in run("generate", "./nothing", "hello")[2]
    assert "--dtype int8 is not accepted" in run("generate", model, "hello", "--dtype", "int8")[2]


def test_prompts_come_from_arguments_files_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more.txt").write_text("b\n\nc\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("d\n"))
    assert read_prompts(["a"], str(tmp_path / "more.txt")) == [{"prompt": text} for text in "abc"]
    assert read_prompts([], "-") == [{"prompt": "d"}]


def test_evaluate_checks_what_it_was_given(run: Run, config: Path) -> None:
    assert "give --source FILE, with --model and --reward" in run("evaluate")[2]
    err = run(
        "evaluate", "--model", config.parent / "model", "--source", "nothing.jsonl", "--reward", "nummeric_match"
    )[2]
    assert "--source: data.source: data source 'nothing.jsonl' not found" in err
    assert "--reward: rewards.0: there is no built-in function 'nummeric_match'" in err
    assert "one configuration file at most" in run("evaluate", config, config)[2]


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        ({"RANK": "3"}, 3),
        ({"RANK_ID": "2", "MS_ROLE": "MS_WORKER"}, 2),
        ({"RANK_ID": "0", "MS_ROLE": "MS_SCHED"}, -1),
    ],
    ids=["alone", "torchrun", "msrun", "msrun's scheduler"],
)
def test_rank_is_that_of_the_launcher(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rank: int) -> None:
    for name in ("RANK", "RANK_ID", "MS_ROLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank_of_process() == rank
