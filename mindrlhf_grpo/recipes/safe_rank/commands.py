"""``mindrlhf-grpo recipe safe-rank``: train, evaluate, check. Results are one JSON line on stdout."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from ...cli.recipe import ANY_ARGUMENTS, run_draft
from ...errors import ConfigError, DataError
from ...json_lines import read_json_lines, to_json
from .oracle import THRESHOLD, create_oracle

HELP = "Safe-Rank-GRPO: recommendation lists without what a user asked to avoid, learned rank by rank"
Catalog = Annotated[str, typer.Option("--catalog_path", help="Films that may be recommended: .json or .pkl.")]
Oracle = Annotated[
    str,
    typer.Option("--oracle_path", help="Folder of the risk table and the title map, or of the original repository."),
]
Threshold = Annotated[float, typer.Option("--risk_threshold", help="Risk from which a trait counts as a violation.")]
IMPORTS = {
    "libs.safety_oracle": ["oracle.create_oracle", "oracle.SafetyOracle"],
    "libs.safe_reward_funcs": [
        "rewards.make_safe_reward_func", "rewards.make_safe_reward_func_individual", "rewards.make_relevance_func",
        "rewards.make_relevance_func_individual", "rewards.make_safety_func", "rewards.make_safety_func_individual",
        "rewards.make_count_func", "rewards.safe_reward_func_log_decay",
    ],
}  # fmt: skip
LISTED = 8  # names of a folder that an error shows
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.command(context_settings=ANY_ARGUMENTS, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train with the arguments of the original script; `train --help` lists them."""
    from ...cli.console import rank_of_process
    from ...run.export import merged_model
    from .rewards import read_catalog, read_oracle
    from .settings import build_draft, notes, read, run_folder

    arguments, main = read(context.args), rank_of_process() == 0
    for text in notes(arguments) if main else ():
        print(text, file=sys.stderr)
    start = Path(
        arguments["sft_model_path"] or f"./results/{arguments['model_name']}/checkpoint-{arguments['sft_checkpoint']}"
    )
    draft = build_draft(arguments, str(start))
    if not arguments["print_config"]:  # a missing file is reported before a model is loaded
        read_catalog(arguments["catalog_path"]), read_oracle(arguments["oracle_path"], arguments["risk_threshold"])
    policy = merged_model(start, run_folder(arguments) / "sft_merged", base=arguments["base_model_path"], main=main)
    draft.put(("model", "path"), str(policy), "--sft_model_path")
    run_draft(draft, print_config=arguments["print_config"])


@app.command()
def evaluate(
    test_path: Annotated[str, typer.Option("--test_path", help="Rows with ground truth: a folder with `test`, or a file.")],
    model_path: Annotated[str | None, typer.Option("--model_path", help="Model folder, run or checkpoint.")] = None,
    completions: Annotated[Path | None, typer.Option(help="Lists from elsewhere: JSONL with `completion`, one per row.")] = None,
    catalog_path: Catalog = "gt_catalog.pkl", oracle_path: Oracle = ".", risk_threshold: Threshold = THRESHOLD,
    max_completion_length: Annotated[int, typer.Option("--max_completion_length", min=1)] = 1024,
    backend: str = "torch", device: str = "auto",
) -> None:  # fmt: skip
    """Report recall, NDCG and violations of a model's greedy lists, or of lists in a file."""
    from ...cli.generate import greedy_answers
    from .data import rows, split_path
    from .metrics import lists

    if (model_path is None) == (completions is None):
        raise ConfigError("evaluate takes lists from one of --model_path and --completions")
    folder = Path(test_path)
    if folder.is_dir() and split_path(test_path, "test") is None and not (folder / "dataset_info.json").is_file():
        raise DataError(f"--test_path {test_path} has no split test; it has {listed(folder)}")
    all_rows = rows(test_path, "test")
    data: list[dict[str, Any]] = [row for row in all_rows if isinstance(row, dict)]
    if not data:
        first = f"; the first: {all_rows[0]}" if all_rows else ""
        raise DataError(f"--test_path {test_path} has no usable row of {len(all_rows)}{first}")
    if completions is not None:
        texts = [str(row.get("completion", "")) for row in read_json_lines(completions).rows]
    else:
        texts = greedy_answers(model_path or "", data, max_tokens=max_completion_length, backend=backend, device=device)
    if len(texts) != len(data):
        raise DataError(f"{completions} has {len(texts)} lists for {len(data)} rows")
    names = ("groundtruth_with_release_year", "seen_titles", "constraints")
    columns: dict[str, Any] = {name: [row[name] for row in data] for name in names}
    columns |= {"catalog_path": catalog_path, "oracle_path": oracle_path, "risk_threshold": risk_threshold}
    typer.echo(to_json({"rows": len(data), "bad_rows": len(all_rows) - len(data), **lists(texts, **columns)}))


@app.command("check")
def check_command(
    catalog_path: Catalog = "gt_catalog.pkl",
    oracle_path: Oracle = ".",
    risk_threshold: Threshold = THRESHOLD,
    train_path: Annotated[str | None, typer.Option("--train_path", help="Rows whose constraints are counted.")] = None,
) -> None:
    """Report how much of a catalog the oracle knows, and how many of its films each trait rules out."""
    from .data import rows
    from .film_files import load_catalog

    oracle, catalog = create_oracle(oracle_path, risk_threshold), sorted(load_catalog(catalog_path))
    risks = [oracle.get_movie_traits(title, year) for title, year in catalog]
    risky = Counter(trait for films in risks for trait, risk in films.items() if risk >= risk_threshold)
    known = sum(oracle.has_movie(title, year) for title, year in catalog)
    report: dict[str, Any] = {"films": len(catalog), "coverage": known / max(1, len(catalog)), "risky": dict(risky)}
    if train_path is not None:
        all_rows = rows(train_path)
        asked = Counter(trait for row in all_rows if isinstance(row, dict) for trait in row["constraints"])
        unknown = [trait for trait in asked if not oracle.resolve([trait])]
        bad = [str(row) for row in all_rows if not isinstance(row, dict)]
        report |= {
            "rows": len(all_rows),
            "asked": dict(asked),
            "unknown_traits": unknown,
            "bad_rows": len(bad),
            "bad": bad[:3],
        }
    typer.echo(to_json(report))


@app.command(context_settings=ANY_ARGUMENTS)
def run(context: typer.Context, script: Path) -> None:
    """Run a script that imports libs.safety_oracle and libs.safe_reward_funcs; this recipe stands in for both."""
    from ...compat.scripts import run_script

    run_script(script, context.args, IMPORTS, __package__)


def listed(folder: Path) -> str:
    """Return the names in a folder, for messages."""
    return ", ".join(sorted(entry.name for entry in folder.iterdir())[:LISTED]) or "nothing"
