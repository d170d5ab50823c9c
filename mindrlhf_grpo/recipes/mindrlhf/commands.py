"""``mindrlhf-grpo recipe mindrlhf``: train, translate, convert, run, launch."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

HELP = "MindRLHF's configurations, scripts and checkpoints, on either backend"
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
ANY = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": True}
STARTED = ("train", "run")  # what launch starts
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
    from ...compat.scripts import run_script
    from .keys import keys

    run_script(script, context.args, keys()["imports"], __package__)


@app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def launch(
    context: typer.Context,
    workers: Annotated[int, typer.Option("--workers", "--worker_num", min=1, help="Processes over all machines.")] = 8,
    local_workers: Annotated[int, typer.Option("--local-workers", "--local_worker_num", min=0, help="Processes of this machine; 0: all.")] = 0,
    node_rank: Annotated[int | None, typer.Option("--node-rank", "--node_rank", min=0, help="Number of this machine among several; 0: that of the master address.")] = None,
    master_addr: Annotated[str, typer.Option("--master-addr", "--master_addr")] = "127.0.0.1",
    master_port: Annotated[int, typer.Option("--master-port", "--master_port", min=1, max=65535)] = 9887,
    log_dir: Annotated[str, typer.Option("--log-dir", "--log_dir")] = "runs/logs",
    launcher: Annotated[Literal["msrun", "torchrun"] | None, typer.Option(help="Default: that of the backend.")] = None,
    cluster_time_out: Annotated[int | None, typer.Option("--cluster-time-out", "--cluster_time_out", help="msrun: seconds to wait for all processes.")] = None,
    bind_core: Annotated[str | None, typer.Option("--bind-core", "--bind_core", help="msrun: binds processes to processor cores.")] = None,
    join: Annotated[str, typer.Option(help="msrun: taken from its own lines; this command always waits for the processes.")] = "True",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command only.")] = False,
) -> None:  # fmt: skip
    """Run train or run in several processes: launch --workers 8 train --config grpo.yaml

    Options of the launch go before that word, what follows it is the command's own.
    """
    from ...errors import ConfigError
    from .launching import LAUNCHERS, Launch

    backend = started_backend(context.args)
    fitting = LAUNCHERS.get(backend, launcher)
    if fitting is None or (launcher or fitting) != fitting:
        raise ConfigError(f"--launcher is {launcher}; the backend {backend} is started by {fitting or 'another one'}")
    if join != "True":
        raise ConfigError(f"--join is {join}; accepted: True, as this command ends with its processes")
    further = {"cluster_time_out": cluster_time_out, "bind_core": bind_core}
    started = Launch(
        launcher=fitting,
        workers=workers,
        local_workers=local_workers or workers,
        node_rank=node_rank,
        address=master_addr,
        port=master_port,
        log_dir=log_dir,
        further=tuple(f"--{name}={value}" for name, value in further.items() if value is not None),
    )
    program = ["-m", "mindrlhf_grpo", "recipe", "mindrlhf", *context.args]
    words = started.words(program)
    folder = started.first_in_path()
    typer.echo(f"PATH={folder}:$PATH " * bool(folder) + shlex.join(words), err=not dry_run)
    if not dry_run:
        path = os.pathsep.join([*([str(folder)] if folder else []), os.environ.get("PATH", "")])
        raise typer.Exit(started.run(program, {**os.environ, "PATH": path}))


def started_backend(words: Sequence[str]) -> str:
    """Return the backend of a command that is to be started; nothing starts if it would be refused.

    Raises:
        ConfigError: another command, or an option that it does not have.
    """
    from ...compat.arguments import read_options
    from ...errors import ConfigError, did_you_mean
    from .keys import keys
    from .settings import chosen_backend

    name, *rest = words or [""]
    if name not in STARTED:
        raise ConfigError(f"launch starts {' or '.join(STARTED)}, not {name!r}{did_you_mean(name, STARTED)}")
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    parsed = command.make_context(name, list(rest))
    if name == "train":
        read_options(parsed.args, list(keys()["options"]))
    return parsed.params.get("backend") or chosen_backend()
