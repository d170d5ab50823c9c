"""``mindrlhf-grpo recipe mindrlhf``: train, translate, convert, run, launch."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

HELP = "MindRLHF's configurations, scripts and checkpoints, on either backend"
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
ANY = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": True}
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[section.key=value]...", help="In MindRLHF's words or in ours.")
]
Config = Annotated[Path, typer.Option(help="A YAML file of either generation.")]
Backend = Annotated[
    str | None, typer.Option(help="torch or mindspore; default: MINDRLHF_BACKEND, else mindspore if installed.")
]


@app.command(context_settings=ANY)
def train(context: typer.Context, config: Config, backend: Backend = None) -> None:
    """Train from MindRLHF's YAML; resumes an unfinished run in its folder.

    Takes main.py's options (--dataset_file, --verifier_function a,b, ...) and section.key=value, in its words or ours.
    """
    from ...cli.console import rank_of_process, show_summary
    from ...compat.arguments import read_options
    from ...trainers import train as run
    from ...trainers.preflight import check
    from .keys import keys
    from .settings import read_settings

    options, overrides = read_options(context.args, list(keys()["options"]))
    settings = read_settings(config, overrides, options, backend=backend)
    if rank_of_process() == 0:
        typer.echo("\n".join(settings.notes), err=True)
    check(settings.config)
    summary = run(settings.config)
    if rank_of_process() == 0:
        show_summary(summary)


@app.command()
def translate(config: Config, overrides: Overrides = None, backend: Backend = None) -> None:
    """Print MindRLHF's YAML as our configuration; notes on what differs go to standard error."""
    from ...config.file import dump
    from .settings import read_settings

    settings = read_settings(config, overrides or [], backend=backend)
    typer.echo("\n".join(settings.notes), err=True)
    typer.echo(dump(settings.config), nl=False)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="A .ckpt or .safetensors file, a folder of them, or a Hugging Face folder.")
    ],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[
        Literal["hf", "ckpt", "safetensors"], typer.Option(help="hf: a Hugging Face folder; else MindSpore's.")
    ] = "hf",
    config: Annotated[Path | None, typer.Option(help="The model's YAML, for its sizes (to hf).")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of its tokenizer (to hf).")] = None,
) -> None:
    """Convert weights between MindFormers' names and Hugging Face's; needs no framework."""
    from ...errors import ConfigError
    from .conversion import from_folder, to_folder
    from .model_folders import add_tokenizer, architecture, shape_of
    from .weight_names import weight_names

    if out.exists():
        raise ConfigError(f"{out} is there already; name a new folder")
    if to == "hf":
        shape = shape_of(str(config) if config else None)
        if shape is None:
            raise ConfigError(f"--config is {config}; sizes come from the YAML file of the model (model.model_config)")
        done = to_folder(source, out, weight_names(), architecture(shape))
        if tokenizer is not None:
            add_tokenizer(out, [tokenizer])
    else:
        done = from_folder(source, out, weight_names(), to)
    left = f"; {len(done.left_out)} that are not weights were left out" if done.left_out else ""
    typer.echo(f"{done.tensors} tensors in {done.out}{left}")


@app.command(context_settings={**ANY, "allow_interspersed_args": False})
def run(context: typer.Context, script: Path) -> None:
    """Run a script that imports mindrlhf and mindformers; this recipe stands in for both."""
    from .import_names import install
    from .keys import keys

    install(keys()["imports"], __package__, first=True)
    sys.argv = [str(script), *context.args]
    runpy.run_path(str(script), run_name="__main__")


@app.command(context_settings={**ANY, "allow_interspersed_args": False})
def launch(
    context: typer.Context,
    workers: Annotated[int, typer.Option(help="Processes over all machines.")] = 8,
    local_workers: Annotated[int, typer.Option(help="Processes of this machine; 0: all.")] = 0,
    master_addr: str = "127.0.0.1",
    master_port: int = 9887,
    log_dir: str = "runs/logs",
    launcher: Annotated[Literal["msrun", "torchrun"], typer.Option(help="msrun for MindSpore.")] = "msrun",
    dry_run: Annotated[bool, typer.Option(help="Print the command only.")] = False,
) -> None:
    """Run a command of this recipe in several processes: launch --workers 8 train --config grpo.yaml"""
    words = launch_command(
        ["-m", "mindrlhf_grpo", "recipe", "mindrlhf", *context.args],
        launcher=launcher,
        workers=workers,
        local_workers=local_workers or workers,
        address=master_addr,
        port=master_port,
        log_dir=log_dir,
    )
    typer.echo(" ".join(words), err=not dry_run)
    if not dry_run:
        raise typer.Exit(subprocess.run(words, check=False).returncode)


def launch_command(
    program: Sequence[str], *, launcher: str, workers: int, local_workers: int, address: str, port: int, log_dir: str
) -> list[str]:
    """Return the words that start a program in several processes, with MindSpore's msrun or PyTorch's torchrun.

    Args:
        program: the words after ``python``.

    """
    # both launchers are started as modules of this Python, so that no other installation is picked up
    if launcher == "torchrun":
        machines = -(-workers // local_workers)
        return [
            sys.executable, "-m", "torch.distributed.run", f"--nnodes={machines}", f"--nproc-per-node={local_workers}",
            f"--master-addr={address}", f"--master-port={port}", f"--log-dir={log_dir}", *program,
        ]  # fmt: skip
    return [
        sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={workers}",
        f"--local_worker_num={local_workers}", f"--master_addr={address}", f"--master_port={port}", "--join=True",
        "--tail_worker_log=0", f"--log_dir={log_dir}", sys.executable, *program,
    ]  # fmt: skip
