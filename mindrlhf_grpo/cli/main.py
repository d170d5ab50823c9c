"""The commands. Each imports its dependencies when it runs, so that ``--help`` is instant.

Results go to stdout (the last line is one JSON object where a program may want it), everything else to stderr.
``docs/operation.md`` has the table of exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..testing.commands import parity_commands
from .console import guarded, rank_of_process, show_summary
from .recipe import add_recipe_command

NAME = "mindrlhf-grpo"

app = typer.Typer(
    name=NAME,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exits the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--debug" in arguments:
        arguments.remove("--debug")
        os.environ["MINDRLHF_DEBUG"] = "1"
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # no progress bars in log files
    app(args=arguments, prog_name=NAME)


Config = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The configuration.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings that override the file, such as train.steps=20 or rewards.0.weight=2.")]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Backend = Annotated[str, typer.Option(help="torch, mindspore, or another installed backend.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, npu.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, or auto: the type of the stored weights.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Maximum completion length in tokens.")]
Samples = Annotated[int, typer.Option(min=1, help="Completions per prompt.")]
Temperature = Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")]
Checkpoint = Annotated[str, typer.Option(help="Checkpoint of a run: latest, best (by its held-out metric), or step_N.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of sampling.")]


def version(show: bool) -> None:
    if show:
        from .. import __version__

        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Start with `mindrlhf-grpo doctor`, then `mindrlhf-grpo train CONFIG.yaml`. "
    "`mindrlhf-grpo COMMAND --help` has examples."
)
def commands(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (also MINDRLHF_DEBUG=1).")] = False,
) -> None:
    """Post-training of language models: GRPO, PPO, DPO, reward models and SFT, on PyTorch and on MindSpore."""


@app.command()
@guarded
def train(config: Config, overrides: Overrides = None) -> None:
    """Train a model, or resume an interrupted run.

    \b
    mindrlhf-grpo train examples/tiny/train.yaml
    mindrlhf-grpo train examples/tiny/train.yaml train.steps=20 run_dir=runs/short
    torchrun --nproc-per-node 2 -m mindrlhf_grpo train examples/tiny/train.yaml
    msrun --worker_num=2 --local_worker_num=2 --join=True python -m mindrlhf_grpo train examples/tiny/train.yaml backend=mindspore

    A configuration with a section `objective` trains on a fixed dataset (SFT, preferences, a reward model), any other
    one online. Everything is written to run_dir, and the same command resumes an unfinished run there exactly. The
    last line of the output is the summary as JSON.
    """
    from ..config.file import read_config
    from ..trainers.preflight import check

    first = rank_of_process() == 0
    try:
        settings, draft = read_config(config, overrides or [])
        check(settings, draft)
    except ConfigError:
        if first:
            raise
        raise typer.Exit(ConfigError.exit_code) from None  # every rank finds the same problem: one prints it
    from ..trainers import train as run

    summary = run(settings)
    if rank_of_process() == 0:  # read again: on several machines msrun's workers learn their rank when they connect
        show_summary(summary)


@app.command()
@guarded
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, run, checkpoint, or hub id.")],
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Prompts.")] = None,
    file: Annotated[str | None, typer.Option(help="File of prompts: .txt or - for standard input (one per line), .jsonl or .parquet with a column `prompt`.")] = None,
    checkpoint: Checkpoint = "latest",
    max_tokens: MaxTokens = 256,
    samples: Samples = 1,
    temperature: Temperature = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample among the k most likely tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=1e-9, max=1, help="Sample within this probability mass.")] = 1.0,
    min_p: Annotated[float, typer.Option(min=0, max=1, help="Drop tokens less likely than this fraction of the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(min=1e-9, help="Penalty on tokens that have already occurred; 1: none.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends a completion; may be repeated.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="No chat template: the prompt is continued as text.")] = False,
    chat_template: Annotated[str, typer.Option(help="A Jinja file instead of the model's own chat template; auto: its own.")] = "auto",
    template_kwargs: Annotated[str | None, typer.Option(metavar="JSON", help="Names that the chat template reads, such as '{\"enable_thinking\": false}'.")] = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    backend: Backend = "torch",
    json: Json = False,
) -> None:  # fmt: skip
    """Complete prompts with a model.

    \b
    mindrlhf-grpo generate runs/tiny "41203=" --max-tokens 6
    mindrlhf-grpo generate runs/tiny --file questions.txt --temperature 1 --samples 4
    mindrlhf-grpo generate runs/tiny "41203=" --checkpoint best
    mindrlhf-grpo generate models/SmolLM2-135M-Instruct --plain "Once upon a time" --json
    """
    from ..json_lines import to_json
    from ..types import Sampling
    from .generate import as_json, model_settings, parse_template_kwargs, read_prompts, show_completions
    from .generate import generate as complete

    sampling = Sampling(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, stop=tuple(stop or ()), seed=seed,
    )  # fmt: skip
    rows = read_prompts(prompts or [], file)
    settings = model_settings(model, checkpoint=checkpoint, dtype=dtype, device=device)
    if plain and (chat_template != "auto" or template_kwargs):
        raise ConfigError("--plain takes no chat template: leave out --chat-template and --template-kwargs")
    groups = complete(
        settings, rows, sampling, samples=samples, backend=backend, system_prompt=system,
        chat_template="none" if plain else chat_template, template_kwargs=parse_template_kwargs(template_kwargs),
    )  # fmt: skip
    for group in groups:
        if json:
            typer.echo(to_json(as_json(group)))
        else:
            show_completions(group, with_prompt=len(groups) > 1)


@app.command()
@guarded
def evaluate(
    config: Annotated[list[str] | None, typer.Argument(metavar="[CONFIG.yaml] [key=value]...", help="A configuration (its rewards, held-out source and templates are used) and settings that override it.")] = None,
    model: Annotated[str | None, typer.Option(help="Model folder, run, checkpoint or hub id; default: the configuration's.")] = None,
    checkpoint: Checkpoint = "latest",
    source: Annotated[str | None, typer.Option(help="Problems, in the form of data.source; default: eval.source, else data.source.")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="Reward function; where the first one gives 0 or 1, it is the accuracy; may be repeated.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Completions per problem; default: eval.samples, 1.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Sampling temperature, 0 is greedy; default: eval.temperature, 0.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum completion length; default: rollout.max_tokens.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of problems, taken from the start; default: eval.limit, all.")] = None,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Measure how often a model is right, or what rewards it earns.

    Prints accuracy with a 95% interval and pass@k, and the mean of each reward, as one JSON line.

    \b
    mindrlhf-grpo evaluate examples/tiny/train.yaml --model runs/tiny
    mindrlhf-grpo evaluate --model models/SmolLM2-135M-Instruct --source test.jsonl --reward numeric_match
    mindrlhf-grpo evaluate examples/tiny/train.yaml --samples 8 --temperature 1
    mindrlhf-grpo evaluate examples/ladder/dpo.yaml --model runs/ladder/dpo

    There is an accuracy where every value of the first reward is 0 or 1: the share of 1, with several samples the mean
    over them. Other rewards are given as means. The interval is Wilson's. A configuration with an objective has its own
    metrics: loss, accuracy of preferences or scores, and their calibration.
    """
    from ..config.offline import OfflineConfig
    from ..json_lines import to_json
    from ..types import Sampling
    from .evaluate import evaluate as measure
    from .evaluate import headline
    from .generate import evaluation_config, resolve_checkpoint

    if model is None and checkpoint != "latest":
        raise ConfigError(f"--checkpoint {checkpoint} is a checkpoint of the run that --model names, and there is none")
    settings = evaluation_config(
        config or [], model=model, source=source, rewards=reward or [], max_tokens=max_tokens, checkpoint=checkpoint
    )
    if isinstance(settings, OfflineConfig):
        from ..trainers.offline_evaluation import evaluate_offline

        typer.echo(
            to_json(
                {
                    "model": model or settings.model.path,
                    **evaluate_offline(settings, resolve_checkpoint(model, checkpoint)),
                }
            )
        )
        return
    sampling = Sampling(
        max_tokens=settings.rollout.max_tokens,
        temperature=settings.eval.temperature if temperature is None else temperature,
        stop=tuple(settings.rollout.stop), seed=seed,
    )  # fmt: skip
    samples = samples or settings.eval.samples
    result = measure(settings, sampling, samples=samples, limit=limit or settings.eval.limit)
    typer.echo(headline(result), err=True)
    typer.echo(to_json({"model": settings.model.path, **result}))


@app.command()
@guarded
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Write RUN/report.html, the report of a run.

    Curves, rewards, health and every rollout, in one file that needs no network.

    \b
    mindrlhf-grpo report runs/tiny
    """
    if not (run / "metrics.jsonl").is_file():
        raise ConfigError(f"{str(run)!r} is no run: there is no {run / 'metrics.jsonl'}")
    from ..report import render

    typer.echo(render(run))


@app.command()
@guarded
def doctor(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="A configuration to check.")] = None,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(min=0, metavar="N", help="Show the first N rows that are drawn: rendered text, tokens, which of them are trained.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Predict memory on 8 x 80 GB CUDA and 8 x 64 GB Ascend; reads neither weights nor data.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Check this machine, or a configuration on it.

    Lists what is installed, what each backend can do here, and whether a configuration will run and fit.

    \b
    mindrlhf-grpo doctor
    mindrlhf-grpo doctor examples/tiny/train.yaml rollout.slots=128
    mindrlhf-grpo doctor sft.yaml --show 3
    mindrlhf-grpo doctor --dry-run model_configs/qwen2_5_7b.yaml rollout.slots=256

    With a configuration it prints the problems and the predicted peak memory of each phase, from the headers of the
    weight files; no weights are loaded. It runs the functions that the configuration names (data sources, rewards,
    metrics), as training does: check a file of somebody else before you give it to doctor. The exit code is 0 if it can
    run, 1 if not. With --dry-run neither weights nor
    data need to be here: sizes come from config.json in the model's folder or from a table of known models, and the
    exit code is 0 if it fits on the machine of its backend.
    """
    from ..json_lines import to_json

    if dry_run:
        from ..capacity.dry_run import examine_config
        from ..capacity.dry_run import shown as as_text

        findings = examine_config(config, overrides or [])
    else:
        from .doctor import as_text, examine

        findings = examine(config, overrides or [], show=show)
    typer.echo(to_json(findings) if json else as_text(findings))
    raise typer.Exit(0 if findings["ok"] else 1)


@app.command()
@guarded
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run or a checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    merge: Annotated[bool, typer.Option("--merge", help="Merge a LoRA adapter into its base weights.")] = False,
    checkpoint: Checkpoint = "latest",
) -> None:
    """Write a trained policy as a plain Hugging Face folder.

    \b
    mindrlhf-grpo export runs/tiny models/tiny-trained
    mindrlhf-grpo export runs/tiny models/tiny-best --checkpoint best
    mindrlhf-grpo export runs/lora models/merged --merge
    """
    from ..config.paths import local_path
    from ..json_lines import to_json
    from ..run.export import export as write

    typer.echo(to_json(write(local_path(str(source)), local_path(str(out)), merge=merge, which=checkpoint)))


@app.command()
@guarded
def explain(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="A key, a section, or another framework's name for a key.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a configuration, for editors.")] = False,
) -> None:  # fmt: skip
    """Explain a configuration key.

    Prints its meaning, default and accepted values, and its names in other frameworks.

    \b
    mindrlhf-grpo explain
    mindrlhf-grpo explain rollout.group_size
    mindrlhf-grpo explain num_generations
    mindrlhf-grpo explain --schema > config.schema.json
    """
    if schema:
        from ..config.file import schema_text

        typer.echo(schema_text(), nl=False)
        return
    from .explain import explain as explain_key

    typer.echo(explain_key(key))


add_recipe_command(app, guarded, program=NAME)
app.add_typer(parity_commands(guarded), name="parity")
