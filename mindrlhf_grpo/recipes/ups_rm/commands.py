"""``mindrlhf-grpo recipe ups-rm``. Results are one JSON line on stdout; names with underscores are the original scripts'."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ...json_lines import to_json

HELP = "GRPO on PKU-SafeRLHF with a reward model of safety; verl's dotted names."
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Backend = Annotated[str, typer.Option(help="torch, mindspore, or another installed backend.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, npu.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
MaxTokens = Annotated[int, typer.Option(min=0, help="Longer conversations are cut at their end; 0: never.")]


@app.command("preprocess", context_settings={"allow_extra_args": True})
def preprocess_command(
    context: typer.Context,
    source: Annotated[Path, typer.Option("--local-dataset-path", "--local_dataset_path", help="Folder with data/SUBSET/train.jsonl and test.jsonl.")] = Path("Data/PKU-SafeRLHF"),
    out: Annotated[Path, typer.Option("--local-save-dir", "--local_save_dir", help="Folder for train and val.")] = Path("Data/pku_saferlhf_verl"),
    subsets: Annotated[list[str] | None, typer.Option(help="One or more subsets; default: all three, or the files of a folder without subsets.")] = None,
    train_ratio: Annotated[float, typer.Option("--train-ratio", "--train_ratio", help="Share for training where there is no test file.")] = 0.9,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle each split.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order.")] = 42,
    dedup_prompts: Annotated[bool, typer.Option("--dedup-prompts", "--dedup_prompts", help="Keep each prompt once.")] = False,
    bad_rows: Annotated[Literal["stop", "skip"], typer.Option("--bad-rows", help="A line that cannot be used stops, or is skipped and counted.")] = "stop",
    file_format: Annotated[Literal["parquet", "jsonl"], typer.Option("--format", help="parquet or jsonl.")] = "parquet",
) -> None:  # fmt: skip
    """Turn PKU-SafeRLHF into prompts for training."""
    from ...errors import ConfigError
    from .data import Preprocessing, preprocess

    if context.args and not subsets:
        raise ConfigError(f"{context.args[0]!r} is no option; subsets are named as --subsets A B")
    settings = Preprocessing(
        subsets=[*subsets, *context.args] if subsets else None,  # words that follow --subsets A
        train_ratio=train_ratio,
        shuffle=shuffle,
        seed=seed,
        dedup_prompts=dedup_prompts,
        skip_bad=bad_rows == "skip",
    )
    typer.echo(to_json(preprocess(source, out, settings, file_format)))


@app.command("check-data")
def check_data_command(files: Annotated[list[str], typer.Argument(help="Prepared files.")]) -> None:
    """Check prepared files: columns, prompts, counts."""
    from .data import check_data

    typer.echo(to_json(check_data(files)))


@app.command("train-head")
def train_head_command(
    body: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of the Llama whose embeddings are read.")],
    files: Annotated[list[str], typer.Argument(help="Labelled pairs, as PKU-SafeRLHF has them.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("head.safetensors"),
    widths: Annotated[str, typer.Option(help="Widths of the layers before the last one.")] = "256,64",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 30,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of AdamW.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and order.")] = 0,
    max_tokens: MaxTokens = 0,
    backend: Backend = "torch",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Train a head: unsafe or not, on frozen embeddings."""
    from ...errors import ConfigError
    from .head_training import HeadTraining
    from .reward_model import learn_head

    if not all(width.strip().isdigit() and int(width) for width in widths.split(",")):
        raise ConfigError(f"--widths {widths!r}; accepted: whole numbers with commas, like 256,64")
    training = HeadTraining(
        widths=[int(width) for width in widths.split(",")], epochs=epochs, learning_rate=learning_rate, seed=seed
    )
    model = {"backend": backend, "device": device, "dtype": dtype, "max_tokens": max_tokens}
    typer.echo(to_json(learn_head(body, files, out, training, model)))


@app.command("merge")
def merge_command(
    body: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of the Llama.")],
    head: Annotated[Path, typer.Argument(help="File of the head.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Put a head beside its Llama: a whole reward model."""
    from .reward_model import merge

    typer.echo(to_json(merge(body, head, out)))


@app.command("check-rm")
def check_rm_command(
    folder: Annotated[str, typer.Option("--model-path", "--model_path", help="Folder of the reward model.")],
    prompt: Annotated[str | None, typer.Option(help="A question.")] = None,
    response: Annotated[list[str] | None, typer.Option(help="An answer; may be repeated.")] = None,
    own_code: Annotated[
        bool, typer.Option("--own-code", help="Compare with the Python code in the folder (it is run).")
    ] = False,
    backend: Backend = "torch",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Load a reward model and score an answer."""
    from .reward_model import ANSWERS, QUESTION, check

    model = {"backend": backend, "device": device, "dtype": dtype}
    typer.echo(to_json(check(folder, (prompt or QUESTION, response or ANSWERS), model, own_code=own_code)))


@app.command("train", context_settings={"ignore_unknown_options": True})
def train_command(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[FILE.yaml] [name=value]...", help="verl's names, in a file and after it; +key=value for keys of ours.")] = None,
    backend: Backend = "torch",
    show: Annotated[bool, typer.Option("--show", help="Print the configuration instead of running it.")] = False,
) -> None:  # fmt: skip
    """Train with verl's dotted names."""
    from ...cli.console import rank_of_process, show_summary
    from ...config.file import dump
    from ...errors import UserError
    from ...trainers import train
    from ...trainers.preflight import check
    from .settings import configuration, read_names, refuse_to_resume

    words, main = list[str](arguments or []), rank_of_process() == 0
    file = Path(words.pop(0)) if words and "=" not in words[0] and not words[0].startswith("~") else None
    names = read_names(file, words)
    try:
        config, draft = configuration(names, backend)
        for line in names.notes() if main else ():
            typer.echo(line, err=True)
        if show:
            typer.echo(dump(config), nl=False)
            return
        if main:  # another rank may look after this one has begun the folder
            refuse_to_resume(names, config.run_dir)
        check(config, draft)
        for variable, name in (("WANDB_PROJECT", "trainer.project_name"), ("WANDB_NAME", "trainer.experiment_name")):
            os.environ.setdefault(variable, str(names.get(name)))  # where the tracker looks for it
        summary: dict[str, Any] = train(config)
    except UserError as error:
        raise type(error)(names.in_their_words(str(error))) from error
    if main:
        show_summary(summary)
