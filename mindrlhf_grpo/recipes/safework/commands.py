"""``mindrlhf-grpo recipe safework``: train, arguments, check-judges, ladder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...cli.recipe import ANY_ARGUMENTS, run_draft
from ...compat.arguments import read_arguments
from ...json_lines import to_json
from ...trainers.stages import run_stages
from .launcher import build_draft
from .registry import package_data

HELP = "SafeWork-R1: reinforcement learning with judges for safety, value and knowledge, routed by label"
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)


@app.command(context_settings={**ANY_ARGUMENTS, "allow_interspersed_args": True})
def train(context: typer.Context) -> None:
    """Train with the launchers' arguments (`arguments` lists them), a launch recipe, or both.

    \b
    train --recipe svki_deepseek --pretrain MODEL --prompt_data rows.jsonl --rm_engine_url http://HOST:8000
    train --pretrain MODEL --prompt_data rows.jsonl --n_samples_per_prompt 8 train.steps=20

    key=value changes any key of the configuration; --dry_run prints that and trains nothing.
    """
    from ...cli.console import rank_of_process

    first = rank_of_process() == 0
    words = [word for word in context.args if word != "--dry_run"]
    named = {name: values for name, values in package_data("launch.yaml").items() if name != "common"}
    values, overrides = read_arguments(words, package_data("arguments.yaml"), named)
    draft = build_draft(values, overrides, lambda text: typer.echo(text, err=True) if first else None)
    run_draft(draft, print_config="--dry_run" in context.args)


@app.command("check-judges", context_settings={**ANY_ARGUMENTS, "allow_interspersed_args": True})
def check_judges_command(context: typer.Context) -> None:
    """Load or ask each judge of the arguments of `train`, and show what it says about one row.

    \b
    check-judges --reward_pretrain safety:models/RM-Safety-7B,value:RM-Value-72B?engine=true --rm_engine_url http://HOST:8000
    check-judges --recipe svki_deepseek --rm_engine_url http://HOST:8000 --question "..." --response "..." --reference "..."

    Exit code 0: every judge gave a score; 2: one cannot be used; 4: only servers do not answer.
    """
    from .check_judges import ROW, check_judges, failure

    named = {name: values for name, values in package_data("launch.yaml").items() if name != "common"}
    values, _ = read_arguments(context.args, {**package_data("arguments.yaml"), **ROW}, named)
    results = []
    for result in check_judges(values):
        results.append(result)
        typer.echo(to_json({key: value for key, value in result.items() if key != "server"}))
    failed = failure(results)
    if failed is not None:
        raise failed


@app.command()
def arguments() -> None:
    """List the arguments of `train`: default, and the configuration key that each sets, or why it changes nothing."""
    for name, spec in package_data("arguments.yaml").items():
        only = "no counterpart: any other value is an error" if "only" in spec else ""
        typer.echo(f"--{name:38} {spec.get('default', '')!s:20} {spec.get('to') or spec.get('ignored', only)}")


@app.command()
def ladder(
    stages: Annotated[Path, typer.Argument(help="YAML with the stages, see examples/safework/ladder.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[STAGE.KEY=VALUE]...")] = None,
) -> None:
    """Train the stages of the SafeLadder in turn, each from the model of the one before; resumes where it stopped."""
    from ...cli.console import rank_of_process

    first = rank_of_process() == 0
    run_stages(stages, overrides or [], lambda text: typer.echo(text, err=True) if first else None)
