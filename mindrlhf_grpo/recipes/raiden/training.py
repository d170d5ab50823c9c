"""The original code's two trainers as configurations of ours: A, its own simple one, and B, TRL's (Open-R1).

Their YAML files and flags are read as they are (``trainers.yaml`` maps the keys). Epochs become steps.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...compat.arguments import read_flags
from ...compat.translation import Table
from ...config.file import Draft
from ...config.run import RunConfig
from ...config.yaml_source import parse
from ...errors import ConfigError, did_you_mean_file
from .data import Sample, read_items
from .rewards import check_weights

UNKNOWN = "{place}: there is no key {name!r}{near}; there are {known}"
REPORT_TO, TRACKERS = "report_to", ("wandb", "tensorboard")
REFUSED = "{place}: {name} is {value!r}; it takes {accepted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A run, the draft that knows where its keys were written, and the folder for the final model."""

    config: RunConfig
    draft: Draft
    final: Path


def read_training(arguments: Sequence[str]) -> Training:
    """Read a file of the original code (first, or ``--config``), its keys as flags, and ``key=value`` settings of ours.

    Raises:
        ConfigError: any other argument, an unknown key, or a value that is not accepted.
    """
    path, flags, our_settings = read_flags(joined(arguments, REPORT_TO))
    trainer, place = flags.pop("trainer", None), path or "flags"
    values = {**(Draft.from_file(Path(path)).values if path else {}), **flags}
    if REPORT_TO in values:
        values[REPORT_TO] = tracker_names(values[REPORT_TO])
    tables = parse(files(__package__).joinpath("trainers.yaml").read_text(encoding="utf-8")).value
    only_a = set(tables["A"]["keys"]) - set(tables["B"]["keys"])
    table = tables.get(trainer or ("A" if only_a & set(values) else "B"))
    if table is None:
        raise ConfigError(f"--trainer {trainer} is unknown; there are {', '.join(tables)}")
    draft = Draft(table["run"], place)
    translation = Table.parse(table["keys"], unknown=UNKNOWN, refused=REFUSED).read(
        values, lambda key: f"{place} ({key[-1]})"
    )
    translation.put_keys(draft)
    _put_evaluation(draft, {"eval_data", "eval_data_path"} & set(translation.places))
    last = _put_steps(draft, table, translation.named_values())
    config = draft.with_overrides(our_settings).validated()
    if not isinstance(config, RunConfig):
        raise ConfigError("the recipe trains online; leave out objective")
    check_weights(*(component.weight for component in config.rewards[:2]))
    if config.rollout.group_size < 2:
        raise ConfigError(f"{place}: num_samples_per_prompt is 1; answers of a group are compared: at least 2")
    return Training(config=config, draft=draft, final=config.run_dir / str(table["final"]).format(last=last))


def joined(words: Sequence[str], name: str) -> list[str]:
    """Return a command line where the words after ``--name``, up to the next flag or setting, are one word."""
    taken: list[str] = []
    for word in words:
        inside = len(taken) > 1 and taken[-2] == f"--{name}" and not taken[-1].startswith("--")
        if inside and not word.startswith("--") and "=" not in word:
            taken[-1] += f" {word}"
        else:
            taken.append(word)
    return taken


def tracker_names(value: Any) -> Any:
    """Return trackers as a list of names, from any form of TRL's ``report_to``: a name, several, ``none``, ``all``."""
    names = value.replace(",", " ").split() if isinstance(value, str) else value or []
    if not isinstance(names, list):
        return names
    every = [name for name in TRACKERS if find_spec(name)] if "all" in names else []
    return every + [name for name in names if name not in ("all", "none")]


def _put_evaluation(draft: Draft, given: Collection[str]) -> None:
    """Leave out the evaluation where there are no held-out samples: a path in the default may be absent, a given one not.

    Raises:
        ConfigError: a given path does not exist.
    """
    path = draft.values["eval"]["source"].get("path")
    if path is not None and Path(path).exists():
        return
    if path is not None and given:
        key = next(iter(given))
        raise ConfigError(
            f"{draft.place(('eval', 'source', 'path'))}: there is no file {path!r}{did_you_mean_file(Path(path))}; "
            f"{key}: null trains without held-out samples"
        )
    draft.values["eval"] = {}


def _put_steps(draft: Draft, table: Mapping[str, Any], named: Mapping[str, Any]) -> int:
    """Set batch, steps and prompt length, computed from their keys; returns the number of the last epoch."""
    values, place = draft.values, draft.name
    world = named["world_size"] or int(os.environ.get("WORLD_SIZE", os.environ.get("MS_WORKER_NUM", "1")))
    numbers = {name: value for name, value in named.items() if name != "world_size"}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"{place}: {name} is {value!r}; it must be a number above 0")
    batch = math.prod(numbers[name] for name in table["batch"]) * world
    group, longest = values["rollout"]["group_size"], values["rollout"]["max_tokens"]
    if table["counts"] == "completions" and isinstance(group, int) and group >= 2:
        if batch % group:
            raise ConfigError(f"{place}: {batch} completions a step are no multiple of the {group} to each prompt")
        batch //= group
    rows = len(read_items(Path(values["data"]["source"]["path"]), Sample))
    epochs, prompts = numbers[table["epochs"]], min(batch, rows)
    draft.put(("train", "prompts_per_step"), prompts, place)
    draft.put(("train", "steps"), math.ceil(rows / prompts * epochs), place)
    if isinstance(longest, int):
        draft.put(("data", "max_prompt_tokens"), numbers["max_length"] - longest, f"{place} (max_length)")
    last: int = math.ceil(epochs) - 1
    return last


def finish(training: Training) -> None:
    """Write the model as a plain folder where the original code puts it, and the metrics as ``training_log.jsonl``."""
    from ...run.export import export

    run_dir, out = training.config.run_dir, training.final
    if (out / "config.json").is_file():
        shutil.rmtree(out)  # of an earlier end of this run
    export(run_dir, out, merge=True)
    shutil.copyfile(run_dir / "metrics.jsonl", run_dir / "training_log.jsonl")
