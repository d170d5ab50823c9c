"""Tests the judges before a run: each is loaded or asked about one exchange, and its answer and score are shown."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...backend import Backend, load_backend
from ...config.run import ModelConfig
from ...errors import ConfigError, DataError, ServerError, UserError
from ...model_files.folder import find_folder
from ...rewards.models.written_answers import bare_config
from ...types import Prompt
from ...user_functions import describe
from .launcher import routed
from .registry import JudgeEntry, read_registry
from .rewards import Exchange, RoutedReward, exchange, judge_place

ROW: Mapping[str, Mapping[str, str]] = {  # further arguments of the command: the exchange that is judged
    "question": {"kind": "text", "default": "What is 4 + 5?"},
    "response": {"kind": "text", "default": "<think>4 + 5 is 9.</think>9"},
    "reference": {"kind": "text", "default": "9"},
}


def check_judges(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what each judge of the arguments of ``train`` says about one row: ``judge, place, answer, score, seconds``.

    A judge that fails, or whose answer cannot be read, has ``error`` in place of a score.

    Raises:
        ConfigError: no judge, or a registry that cannot be read.
    """
    settings = routed(arguments)
    server = {"engine": arguments["rm_use_engine"], "url": arguments["rm_engine_url"]}
    registry = read_registry(settings["models"], **server)
    if not registry:
        raise ConfigError("--reward_pretrain is missing: it names the judges")
    backend = backend_for(registry, arguments)
    try:
        for name, entry in registry.items():
            began = time.monotonic()
            found = answer_or_error(name, {name: settings_of(entry)}, backend, arguments)
            place = entry.url if entry.engine else entry.path
            yield {"judge": name, "place": place, **found, "seconds": round(time.monotonic() - began, 2)}
    finally:
        if backend is not None:
            backend.comm.close()


def answer_or_error(
    name: str, models: Mapping[str, Any], backend: Backend | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what ``ask_one`` returns, or the text of what it raises."""
    try:
        return ask_one(name, models, backend, arguments)
    except UserError as error:
        return {"error": str(error), "server": isinstance(error, ServerError)}
    except Exception as error:  # of the user's class, or of a framework that has no memory left
        return {"error": describe(error), "server": False}


def ask_one(
    name: str, models: Mapping[str, Any], backend: Backend | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return one judge's answer, where it has one in words, and its score."""
    reward = RoutedReward(backend, policy_folder(arguments["pretrain"]), models=models, routing={})
    columns = {"label": name, "reference": arguments["reference"]}
    asked = ({"role": "user", "content": arguments["question"]},)
    prompt = Prompt(uid=0, ids=np.zeros(0, np.int32), text=arguments["question"], messages=asked, columns=columns)
    row = exchange(prompt, arguments["response"])
    try:
        said = {} if name in reward.custom else {"answer": words_of(reward, name, row)}
        score = float(reward.ask(name, [row])[0])
    finally:
        reward.close()
    if reward.unread or not np.isfinite(score):
        what = "this answer cannot be read as a verdict" if said else "its score is no finite number"
        return {**said, "error": what, "server": False}
    return {**said, "score": score}


def words_of(reward: RoutedReward, name: str, row: Exchange) -> str | None:
    """Return a judge's answer as text."""
    judge = reward.judges[name]
    model = reward.models.use(judge_place(reward.registry[name]))
    return model.answers([judge.message(row)], judge.max_tokens)[0]


def failure(results: list[dict[str, Any]]) -> UserError | None:
    """Return the error that ends the command: exit code 4 if only servers failed, else 2; None if all judges work."""
    failed = [result for result in results if "error" in result]
    if not failed:
        return None
    kind = ServerError if all(result["server"] for result in failed) else DataError
    text = "; ".join(f"{result['judge']} ({result['place']}): {result['error']}" for result in failed)
    return kind(f"{len(failed)} of {len(results)} judges cannot be used: {text}")


def backend_for(registry: Mapping[str, JudgeEntry], arguments: Mapping[str, Any]) -> Backend | None:
    """Return the backend that computes judges in this process; None where all are on servers."""
    here = [entry.path for entry in registry.values() if not entry.engine]
    model = ModelConfig(path=here[0], device=arguments["device"]) if here else None
    return None if model is None else load_backend(bare_config(model, arguments["backend"]))


def settings_of(entry: JudgeEntry) -> dict[str, Any]:
    """Return a registry entry as it is written in a registry."""
    written = {field: getattr(entry, field) for field in JudgeEntry.__dataclass_fields__ if field != "cls"}
    return {**written, "class": entry.cls} if entry.cls else written


def policy_folder(path: str | None) -> Path | None:
    """Return the policy's folder, whose tokenizer a custom class may need; None if it is not on this machine."""
    return find_folder(path) if path and Path(path).expanduser().is_dir() else None
