"""The seed's two trainers as configurations of the engine: A, its own simple one, and B, TRL's (Open-R1).

Their YAML files and flags are taken as they are (``trainers.yaml`` maps the keys). Epochs become steps.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...compat.arguments import read_flags
from ...compat.translation import Table
from ...config.file import Draft
from ...config.run import RunConfig
from ...config.yaml_source import parse
from ...errors import ConfigError
from .data import Sample, read_items
from .rewards import check_weights

UNKNOWN = "{place}: there is no key {name!r}{near}; there are {known}"
REFUSED = "{place}: {name} is {value!r}; it takes {accepted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A run that the seed's keys ask for, where they were written, and the folder its model is to lie in."""

    config: RunConfig
    draft: Draft
    final: Path


def read_training(arguments: Sequence[str]) -> Training:
    """The run of a file of the seed's (first, or ``--config``), its keys as flags, and ``key=value`` settings of ours.

    Raises:
        ConfigError: an argument that is none of these, an unknown key, a value that is not accepted.
    """
    path, flags, own = read_flags(arguments)
    trainer, place = flags.pop("trainer", None), path or "flags"
    given = {**(Draft.from_file(Path(path)).values if path else {}), **flags}
    tables = parse(files(__package__).joinpath("trainers.yaml").read_text(encoding="utf-8")).value
    own_to_a = set(tables["A"]["keys"]) - set(tables["B"]["keys"])
    table = tables.get(trainer or ("A" if own_to_a & set(given) else "B"))
    if table is None:
        raise ConfigError(f"--trainer {trainer} is unknown; there are {', '.join(tables)}")
    draft = Draft(table["run"], place)
    found = Table.of(table["keys"], unknown=UNKNOWN, refused=REFUSED).read(given, lambda key: f"{place} ({key[-1]})")
    found.put_keys(draft)
    last = _steps(draft, table, found.named())
    config = draft.with_overrides(own).validated()
    if not isinstance(config, RunConfig):
        raise ConfigError("the recipe trains online; leave out objective")
    check_weights(*(component.weight for component in config.rewards[:2]))
    if config.rollout.group_size < 2:
        raise ConfigError(f"{place}: num_samples_per_prompt is 1; answers of a group are compared: at least 2")
    return Training(config=config, draft=draft, final=config.run_dir / str(table["final"]).format(last=last))


def _steps(draft: Draft, table: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """Put batch, steps and prompt length, computed from the seed's keys; returns the number of the last epoch."""
    values, place = draft.values, draft.name
    world = given["world_size"] or int(os.environ.get("WORLD_SIZE", os.environ.get("MS_WORKER_NUM", "1")))
    numbers = {name: value for name, value in given.items() if name != "world_size"}
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
    if not Path(values["eval"]["source"]["path"]).exists():
        draft.values["eval"] = {}  # the seed trains without held-out samples, too
    last: int = math.ceil(epochs) - 1
    return last


def finish(training: Training) -> None:
    """Write the model as a plain folder where the seed has it, and the metrics as ``training_log.jsonl``."""
    from ...run.export import export

    run_dir, out = training.config.run_dir, training.final
    if (out / "config.json").is_file():
        shutil.rmtree(out)  # of an earlier end of this run
    export(run_dir, out, merge=True)
    shutil.copyfile(run_dir / "metrics.jsonl", run_dir / "training_log.jsonl")
