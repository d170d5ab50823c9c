"""The arguments of another program's training script, from a table: parsed as it did, each put where it belongs here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..config_file import Draft, dump

KINDS: Mapping[str, type] = {"text": str, "float": float, "int": int}


def read_arguments(program: str, table: Mapping[str, Mapping[str, Any]], arguments: Sequence[str]) -> dict[str, Any]:
    """Values by argument; a mistake is told on stderr and ends the process with code 2, ``--help`` with 0.

    Args:
        table: argument -> ``default`` (false: a switch), ``help``; where wanted ``kind`` (of ``KINDS``, for a default of
            null), ``many`` (several values), ``choices``, ``required``.
    """
    parser = argparse.ArgumentParser(program, allow_abbrev=False)
    for name, row in table.items():
        default = row.get("default")
        options: dict[str, Any] = {"default": default, "help": f"{row['help']} [{default}]".replace("%", "%%")}
        if default is False:
            options["action"] = "store_true"
        else:
            example = default[0] if isinstance(default, list) else default
            options["type"] = KINDS[row["kind"]] if "kind" in row else type(example)
            options |= {"nargs": "+"} if row.get("many") else {}
            options |= {key: row[key] for key in ("choices", "required") if key in row}
        parser.add_argument(f"--{name}", **options)
    return vars(parser.parse_args(arguments))


def put_arguments(draft: Draft, table: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> None:
    """Give a draft each value that is not null under the keys that its row names as ``to`` (one or a list)."""
    for name, row in table.items():
        to = row.get("to", [])
        for key in [to] if isinstance(to, str) else to:
            if given[name] is not None:
                draft.put(
                    tuple(int(part) if part.isdigit() else part for part in key.split(".")), given[name], f"--{name}"
                )


def world_size() -> int:
    """Processes of this run, as torchrun, accelerate and msrun tell them."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("MS_WORKER_NUM") or 1)


def run_draft(draft: Draft, *, print_config: bool = False) -> None:
    """Check and run a configuration as ``mindrlhf-grpo train`` does, or print it.

    Raises:
        ConfigError: listing everything that would stop the run.
    """
    from ..cli import rank_of_process, show_summary
    from ..preflight import check
    from ..trainers import train

    config = draft.validated()
    if print_config:
        print(dump(config), end="")
        return
    check(config, draft)
    summary = train(config)
    if rank_of_process() == 0:
        show_summary(summary)
