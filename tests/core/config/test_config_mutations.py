"""Two hundred wrong configurations: each ends with one clear message, a non-zero exit code and no traceback."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from mindrlhf_grpo.cli.main import main
from mindrlhf_grpo.config.keys import catalogue
from tests.support.tiny_run import needs_torch, write_run

COUNT = 200
IN_A_PROCESS = 10
SEED = 20


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change to the file's text, or an override, and what the message must speak of."""

    name: str
    edit: Callable[[str], str]
    override: str | None
    said: str


def same(text: str) -> str:
    return text


def override(key: str, value: str, said: str) -> Mutation:
    return Mutation(f"{key}={value}", same, f"{key}={value}", said)


def replaced(old: str, new: str, said: str) -> Mutation:
    return Mutation(f"{old} -> {new}"[:60], lambda text: text.replace(old, new), None, said)


def appended(text: str, said: str) -> Mutation:
    return Mutation(text[:60], lambda before: before + text, None, said)


def misspelt(draw: random.Random) -> Iterator[Mutation]:
    """Every key with a letter lost, doubled or exchanged."""
    for key in catalogue().leaves():
        path = key.path.replace(".N.", ".0.")
        section, _, name = path.rpartition(".")
        place = draw.randrange(1, max(2, len(name) - 1))
        wrong = draw.choice([name[:place] + name[place + 1 :], name[:place] + name[place] + name[place:], f"{name}_x"])
        yield override(f"{section}.{wrong}" if section else wrong, "1", "unknown key")


def wrong_type() -> Iterator[Mutation]:
    """Every key with a value of a type it does not take."""
    for key in catalogue().leaves():
        if key.numeric:
            for value in ("true", "abc", "[1]", "{a: 1}", ".inf"):
                yield override(key.path.replace(".N.", ".0."), value, "is not accepted; it takes")
        elif key.choices:
            yield override(key.path.replace(".N.", ".0."), "no_such_choice", "one of")
        elif key.accepted == "true or false":
            yield override(key.path, "perhaps", "it takes true or false")
        elif not key.textual:
            yield override(key.path.replace(".N.", ".0."), "5", "is not accepted; it takes")


def out_of_range() -> Iterator[Mutation]:
    """Every bounded number beyond its bound."""
    for key in catalogue().leaves():
        path = key.path.replace(".N.", ".0.")
        if "at least 0" in key.accepted and key.numeric:
            yield override(path, "-1" if not key.accepted.startswith("a list") else "[-1, 0]", "at least 0")
        if ("at least 1" in key.accepted or "above 0" in key.accepted) and "at least 0" not in key.accepted:
            yield override(path, "0", "it takes")
        if re.search(r"(at most|below) 1(?![0-9])", key.accepted):
            yield override(path, "1.5", "it takes")


def not_there() -> list[Mutation]:
    """Well formed, but what is named does not exist."""
    return [
        override("model.path", "models/nothing_of_that_name", "model.path"),
        override("model.path", "./rows.jsonl", "model.path"),
        override("model.path", "''", "model.path"),
        override("model.device", "gpu", "it takes one of auto, cpu"),
        override("data.source", "row.jsonl", "not found"),
        override("data.source", "hub", "not found"),
        override("data.source", "reasoning_gim:chain_sum", "did you mean 'reasoning_gym:chain_sum'"),
        override("data.source", "no_module:function", "no_module"),
        override("data.source", "{split: train}", "has no name"),
        override("data.prompt_column", "promt", "did you mean 'prompt'"),
        override("data.chat_template", "no.jinja", "there is no file 'no.jinja'"),
        override("data.max_prompt_tokens", "2", "max_prompt_tokens"),
        override("eval.source", "held_out.parquet", "eval.source"),
        override("rewards.0.function", "nummeric_match", "'numeric_match'"),
        override("rewards.0.function", "no_module:reward", "no_module"),
        override("rewards.0.function", "no_file.py:reward", "there is no file no_file.py"),
        override("rewards.0.arguments", "{tolerence: 1}", "tolerance"),
        override("rewards.1.arguments", "{limt: 1}", "limit"),
        override("rewards.1.arguments", "{}", "limit"),
        override("algorithm.name", "gpro", "did you mean 'grpo'"),
        override("algorithm.preset", "vrel", "did you mean 'verl'"),
        override("rollout.group_size", "1", "needs at least 2"),
        override("backend", "torsh", "backend 'torsh' is unknown"),
        override("backend", "no_package.backend", "no_package.backend"),
        override("backend", "../x", "no name of a backend"),
        override("run_dir", "rows.jsonl", "is a file"),
        override("tracking.to", "[wandb]", "WANDB_API_KEY" if find_spec("wandb") else "wandb needs wandb"),
        override("eval", "{stop_at: 0.9}", "eval.stop_at needs eval.source"),
        override("rollout.temperature", "0", "rollout.temperature must be above 0"),
        override("rollout.min_tokens", "9", "rollout.min_tokens (9) is above"),
        override("algorithm.updates_per_batch", "3", "must be a multiple of"),
        override("rewards.1.name", "numeric_match", "the same name twice"),
        override("rewards.7.weight", "1", "7 is no item of rewards"),
        override("train.steps.x", "1", "unknown key"),
    ]


def broken_files() -> list[Mutation]:
    """Files that are no configuration."""
    return [
        Mutation("empty", lambda _: "", None, "is empty"),
        Mutation("comment", lambda _: "# x\n", None, "is empty"),
        Mutation("list", lambda text: f"- {text.splitlines()[1]}\n", None, "not a mapping"),
        Mutation("text", lambda _: "config\n", None, "not a mapping"),
        Mutation("twice", lambda text: text + text, None, "duplicate key"),
        Mutation("two documents", lambda text: f"{text}---\n{text}", None, "second document"),
        Mutation("tab", lambda text: text.replace("  steps", "\tsteps"), None, "a tab"),
        Mutation("unclosed", lambda text: text.replace("{limit: 3}", "{limit: 3"), None, "invalid YAML"),
        Mutation("indented", lambda text: text.replace("  group_size", " group_size"), None, "invalid YAML"),
        Mutation("no space", lambda text: text.replace("steps: 3", "steps:3"), None, "invalid YAML"),
        Mutation("control", lambda text: f"{text}\x01", None, "is not allowed"),
        Mutation("alias", lambda text: f"{text}tracking: *nothing\n", None, "undefined alias"),
        Mutation("tag", lambda text: f"{text}seed: !!python/name:os.system\n", None, "is not accepted"),
        replaced("model:", "modle:", "unknown key modle"),
        replaced("data:", "dataset:", "missing section data"),
        replaced("rewards:", "reward:", "missing section rewards"),
        replaced("  path:", "  pth:", "missing key model.path"),
        replaced("  source:", "  source_:", "missing key data.source"),
        replaced("- function", "- funktion", "missing key rewards.0.function"),
        replaced("weight: 1.0", "weight: heavy", "rewards.0.weight: 'heavy'"),
        replaced("steps: 3", "steps: three", "train.steps: 'three'"),
        replaced("steps: 3", "steps: 3\n  steps: 4", "duplicate key train.steps"),
        replaced("steps: 3", "max_steps: 3", "here it is train.steps"),
        replaced("group_size: 4", "num_generations: 4", "here it is rollout.group_size"),
        replaced("algorithm:", "algorithm: grpo\nx:", "algorithm: 'grpo' is not accepted"),
        appended("train.steps: 3\n", "in a file it is nested"),
        appended("beta: 0.1\n", "here it is algorithm.kl_coef"),
        appended("tracking: [wandb]\n", "tracking: ['wandb'] is not accepted"),
        appended("seed: 1.5\n", "seed: 1.5 is not accepted"),
        appended("seed: -1\n", "at least 0"),
    ]


def mutations() -> list[Mutation]:
    """The same two hundred each time: all of the hand-written ones, the rest drawn from those over every key."""
    draw = random.Random(SEED)
    written = [*not_there(), *broken_files()]
    over_keys = [*misspelt(draw), *wrong_type(), *out_of_range()]
    return written + draw.sample(over_keys, COUNT - len(written))


MUTATIONS = mutations()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("mutations")).parent


@pytest.fixture(autouse=True)
def offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no tracker's key, and the run's own folder as the current one."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(folder)


def arguments(folder: Path, mutation: Mutation) -> list[str]:
    path = folder / "mutated.yaml"
    path.write_text(mutation.edit((folder / "config.yaml").read_text()))
    return ["train", str(path), *([mutation.override] if mutation.override is not None else [])]


def check(mutation: Mutation, code: int, out: str, err: str) -> None:
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err + out
    assert "pydantic" not in err
    assert mutation.said in err
    assert out == ""
    assert "mutated.yaml" in err or (mutation.override is not None and f"override {mutation.override}: " in err)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_wrong_configuration_is_refused(folder: Path, mutation: Mutation, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments(folder, mutation))
    captured = capsys.readouterr()
    check(mutation, int(stopped.value.code or 0), captured.out, captured.err)


@pytest.mark.parametrize("mutation", MUTATIONS[:: COUNT // IN_A_PROCESS], ids=lambda mutation: mutation.name)
def test_the_same_in_a_process_of_its_own(folder: Path, mutation: Mutation) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mindrlhf_grpo", *arguments(folder, mutation)],
        capture_output=True, text=True, timeout=60, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    check(mutation, done.returncode, done.stdout, done.stderr)


def test_there_are_two_hundred_different_mutations() -> None:
    assert len(MUTATIONS) == COUNT
    assert len({(mutation.name, mutation.said) for mutation in MUTATIONS}) == COUNT


@needs_torch
def test_the_unchanged_configuration_is_accepted(folder: Path) -> None:
    from mindrlhf_grpo.config.file import read_config
    from mindrlhf_grpo.trainers.preflight import problems_of

    config, _ = read_config(folder / "config.yaml", [])
    assert problems_of(config) == []
