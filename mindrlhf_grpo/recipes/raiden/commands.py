"""``mindrlhf-grpo recipe raiden``: make samples, train, evaluate. The options stand in a table (``options.yaml``)."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer

from ...chat.chat_server import ChatModel, ChatServer
from ...cli.generate import greedy_answers
from ...compat.arguments import ANY_OPTIONS, with_options
from ...config.yaml_source import parse
from ...errors import ConfigError, DataError
from ...json_lines import digest_of, replace_json, to_json
from ...user_functions import named_function
from .data import Sample, good_items, rows
from .evaluation import evaluate_responses, server_judge
from .generation import Job, Writer
from .journal import Journal
from .languages import LANGUAGES, detect_language, load_texts
from .profiles import profile_text, read_profiles
from .progress import Progress
from .splits import without_repeats, write_dataset
from .training import finish, read_training

HELP = "RAIDEN-R1: role awareness; samples from character profiles, GRPO with a verifiable reward, SBK and CM"
OPTIONS = parse(files(__package__).joinpath("options.yaml").read_text(encoding="utf-8")).value
BEDROCK = {name: row for name, row in OPTIONS["generate_bedrock"].items() if row}
DECISIVE = (
    "language",
    "auto_detect",
    "seed",
    "verify_n",
    "temperature",
    "enable_thinking",
)  # options that change the samples

MOST_LINES = 20  # lines without a profile that are named

app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@with_options(app, "generate", OPTIONS["generate"])
def generate(options: dict[str, Any]) -> None:
    """Make samples with an OpenAI-compatible server. After an interruption, run the same command again to go on."""
    thinking = {"enable_thinking": options["enable_thinking"], "thinking": options["enable_thinking"]}
    model = ChatServer(
        options["base_url"],
        model=options["model_name"],
        timeout=options["timeout"],
        retries=options["retries"],
        requests_per_second=options["requests_per_second"],
        body={"chat_template_kwargs": thinking},
    )
    typer.echo(to_json(make_samples(model, "sglang", options)))


@with_options(app, "generate-bedrock", BEDROCK)
def generate_bedrock(options: dict[str, Any]) -> None:
    """Make samples with a model on AWS Bedrock; boto3 finds the credentials."""
    from ...chat.bedrock import Bedrock

    if options.pop("enable_thinking"):
        tell("--enable_thinking has no effect on Bedrock")
    model = Bedrock(
        options["model_id"],
        region=options["region"],
        timeout=options["timeout"],
        concurrency=options["concurrency"],
        retries=options["retries"],
    )
    typer.echo(to_json(make_samples(model, "bedrock", options)))


def make_samples(model: ChatModel, source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Write the dataset that the options ask for; returns counts of samples wanted, kept and discarded, with reasons.

    Progress, lines without a profile and refused requests are told on standard error.

    Raises:
        UserError: a wrong option, no profile, no usable sample, or a server that has gone (finished samples are kept).
    """
    for name, accepted in (("language", LANGUAGES), ("split_by", ("sample", "character"))):
        if options[name] not in accepted:
            raise ConfigError(f"--{name} {options[name]} is unknown; there are {', '.join(accepted)}")
    profiles = read_profiles(options["profiles_file"], options["max_profiles"])
    tell_skipped(options["profiles_file"], profiles.skipped)
    writer = Writer(
        model=model,
        texts=load_texts(options["texts"]),
        source=source,
        refused=[],
        **{name: options[name] for name in ("attempts", "verify_n", "max_tokens", "temperature")},
    )
    distinct = {digest_of(profile): profile for profile in profiles.parsed}
    kinds = {"sbk": options["num_samples_per_profile"], "cm": int(options["include_cm"])}
    jobs: dict[str, Job] = {}
    for digest, profile in distinct.items():
        language = detect_language(profile_text(profile)) if options["auto_detect"] else options["language"]
        for key in (f"{digest}/{kind}/{number}" for kind, count in kinds.items() for number in range(count)):
            jobs[key] = Job(profile=profile, kind=key.split("/")[1], language=language, seed=f"{options['seed']}/{key}")
    decisive: dict[str, Any] = {"source": source, "texts": digest_of(writer.texts.content), "model": model.model}
    decisive |= {name: options.get(name) for name in DECISIVE}
    folder: Path = options["output_dir"]
    with Journal(folder / "journal.jsonl", decisive) as journal:
        done_before = len(journal.done.keys() & jobs.keys())
        progress = Progress(len(jobs), done_before, tell)
        journal.work_off(jobs, writer, threads=options["concurrency"], finished=progress.finished)
        results = [journal.done[key] for key in jobs if key in journal.done]
    if writer.refused:
        tell(
            f"{len(writer.refused)} samples were refused and are asked for again next time; the first: {writer.refused[0]}"
        )
    samples = [result["sample"] for result in results if result["sample"]]
    distinct_samples = without_repeats(samples)
    counts = {
        "profiles": len(distinct), "duplicates": len(profiles.parsed) - len(distinct), "skipped_lines": len(profiles.skipped), "wanted": len(jobs),
        "done_before": done_before, "kept": len(samples), "repeated": len(samples) - len(distinct_samples), "given_up": len(results) - len(samples),
        "refused": len(writer.refused), "discarded": Counter(why for result in results for why in result["discarded"]),
    }  # fmt: skip
    if not samples:
        reasons = [*counts["discarded"], *writer.refused[:1]]  # type: ignore[misc]
        raise DataError(f"not one of {len(jobs)} samples could be kept: {'; '.join(reasons) or 'none was asked for'}")
    if options["output_file"]:
        replace_json(options["output_file"], distinct_samples)
    split = write_dataset(folder, distinct_samples, options["train_ratio"], options["seed"], options["split_by"])
    return {**counts, **split}


def tell_skipped(file: Path, skipped: dict[int, str]) -> None:
    """Name the lines without a profile, each with its reason."""
    for number, why in list(skipped.items())[:MOST_LINES]:
        tell(f"{file}:{number}: {why}; the line is skipped")
    if len(skipped) > MOST_LINES:
        tell(f"{file}: {len(skipped) - MOST_LINES} more lines are skipped")


def tell(text: str) -> None:
    """Show one line on standard error."""
    typer.echo(text, err=True)


@app.command(context_settings=ANY_OPTIONS)
def train(context: typer.Context) -> None:
    """Train with a file of the original code (config A or B), its keys as flags, and our own settings as key=value.

    \b
    train examples/raiden/grpo_config.yaml
    train --train_data_path data/training/train.json --model_name_or_path MODEL --num_train_epochs 1
    train examples/raiden/openr1_config.yaml backend=mindspore train.steps=20
    """
    from ...cli.console import rank_of_process, show_summary
    from ...trainers import train as run
    from ...trainers.preflight import check as preflight

    training = read_training(context.args)
    preflight(training.config, training.draft)
    summary = run(training.config)
    if rank_of_process() == 0:
        finish(training)
        show_summary({**summary, "model": str(training.final)})


@app.command(context_settings=ANY_OPTIONS)
def check(context: typer.Context) -> None:
    """Check what train would do with the same arguments: files, model, samples, steps. Trains nothing."""
    from ...trainers.preflight import check as preflight

    training = read_training(context.args)
    preflight(training.config, training.draft)
    config = training.config
    samples = good_items(Path(config.data.source["path"]), Sample)  # type: ignore[index, call-overload]
    right = evaluate_responses(samples, [sample.answer for sample in samples])
    shown = {
        "steps": config.train.steps,
        "prompts_per_step": config.train.prompts_per_step,
        "samples": len(samples),
        "unscored": right["unscored"],
        "reference_answers": right["aggregate"],
        "model": str(training.final),
    }
    typer.echo(to_json(shown))


@with_options(app, "evaluate", OPTIONS["evaluate"])
def evaluate(options: dict[str, Any]) -> None:
    """Report SBK, CM and their weighted mean for a model's greedy answers."""
    samples = good_items(options["eval_data"], Sample, options["max_samples"])
    judge = named_function(options["judge"]) if options["judge"] else None
    if options["use_llm_judge"]:
        server = ChatServer(options["base_url"], model=options["model_name"])
        judge = server_judge(server, load_texts(options["texts"]))
    asked = [row for row in rows(str(options["eval_data"]), options["texts"]) if isinstance(row, dict)][: len(samples)]
    limits = {name: options[name] for name in ("backend", "device")}
    responses = greedy_answers(options["model_path"], asked, max_tokens=options["max_new_tokens"], **limits)
    weights = (options["sbk_weight"], options["cm_weight"])
    result = evaluate_responses(samples, responses, judge=judge, weights=weights)
    replace_json(options["output_file"], {"model": options["model_path"], **result})
    typer.echo(to_json({name: value for name, value in result.items() if name != "detailed_results"}))
