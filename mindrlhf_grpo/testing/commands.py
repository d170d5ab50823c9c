"""``mindrlhf-grpo parity``: the commands that compare one stack, one backend or one run with another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, get_args

import typer

if TYPE_CHECKING:
    from .parity.check import Result
    from .parity.workload import Dtype

P = ParamSpec("P")
Guard = Callable[[Callable[P, None]], Callable[P, None]]

TEXT, JSON, PAGE = "result.txt", "result.json", "result.html"
DIFFERENT = 1  # exit code of a check that found a deviation

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, npu.")]


def parity_commands(guarded: Guard[...]) -> typer.Typer:
    """The subcommands, each wrapped by ``guarded``, which turns errors into messages and exit codes."""
    commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=HELP, short_help=SHORT_HELP)
    for command in (record, check, conform, runs):
        commands.command()(guarded(command))
    return commands


SHORT_HELP = "Prove that one stack computes what another does."
HELP = f"""{SHORT_HELP}

\b
mindrlhf-grpo parity record bundle --backend torch
mindrlhf-grpo parity check bundle --backend mindspore

The two run apart: on different machines, with different frameworks. A bundle holds safetensors and JSON only."""


def record(
    bundle: BundleFolder,
    backend: Annotated[str, typer.Option(help="torch, mindspore, or another installed backend.")] = "torch",
    model: Annotated[str | None, typer.Option(help="Hugging Face folder, copied into the bundle; default: a tiny random Llama.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, tokens and sampling.")] = 0,
    lora_rank: Annotated[int, typer.Option(min=0, help="Train random LoRA adapters of this rank; 0: all weights.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="One loss and three samplings only: less to compile.")] = False,
    tolerance: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another tolerance for a quantity, like logps=1e-3; may be repeated.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16: of weights and arithmetic.")] = "float32",
    device: Device = "auto",
) -> None:  # fmt: skip
    """Write a bundle: a model, inputs, and what a backend computes from them.

    Log-probs after each layer, entropies, losses, gradients, weights after each optimizer step, sampled tokens. In 16
    bits the tolerances are numbers of roundings, and tokens that differ are reported only. float16 rehearses 16 bits
    on processors, where MindSpore multiplies no bfloat16.

    \b
    mindrlhf-grpo parity record bundle
    mindrlhf-grpo parity record bundle --model models/smollm2 --steps 2
    mindrlhf-grpo parity record bundle --dtype bfloat16 --tolerance logps=0.1
    mindrlhf-grpo parity record bundle --lora-rank 8 --device cuda
    """
    from ..json_lines import to_json
    from .parity.quantities import tolerances
    from .parity.record import record as write

    made = write(
        bundle, backend=backend, model=model, steps=steps, seed=seed, device=device, lora_rank=lora_rank,
        quick=quick, dtype=accepted_dtype(dtype), tolerances=tolerances(tolerance or [], dtype), say=say,
    )  # fmt: skip
    size = sum(size for size, _ in made.manifest.files.values())
    typer.echo(to_json({"bundle": str(bundle), "backend": backend, "files": len(made.manifest.files), "bytes": size}))


def check(
    bundle: BundleFolder,
    backend: Annotated[str, typer.Option(help="torch, mindspore, or another installed backend.")] = "mindspore",
    out: Annotated[Path | None, typer.Option(help=f"Folder for {TEXT}, {JSON} and {PAGE}; default: BUNDLE-BACKEND.")] = None,
    perturb: Annotated[str | None, typer.Option(metavar="NAME=VALUE", help="Add a number to every element of a weight first (NAME[3,5]=VALUE: to one), to see the check fail.")] = None,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Run a bundle on a backend, compare, and report where it deviates first.

    \b
    mindrlhf-grpo parity check bundle --backend mindspore
    mindrlhf-grpo parity check bundle --backend mindspore --perturb model.layers.1.mlp.up_proj.weight=0.01

    The exit code is 0 if everything is within tolerance, 1 if not. The last line of the output is JSON.
    """
    from ..json_lines import to_json
    from .parity.check import check as compare
    from .parity.perturbation import parse
    from .parity.summary import rows

    perturbation = None if perturb is None else parse(perturb)
    result = compare(bundle, backend=backend, device=device, perturbation=perturbation, say=say)
    folder = out or bundle.resolve().with_name(f"{bundle.resolve().name}-{backend}")
    write_result(result, folder)
    failed = [row.findings[0].quantity for row in rows(result) if not row.passed]
    last = {
        "passed": result.passed, "first_deviating_layer": result.first_layer, "failed": failed,
        "report": str(folder / PAGE),
    }  # fmt: skip
    typer.echo(to_json(last))
    raise typer.Exit(0 if result.passed else DIFFERENT)


def conform(
    backend: Annotated[str, typer.Option(help="torch, mindspore, or another installed backend.")] = "torch",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16: of weights and arithmetic.")] = "float32",
    device: Device = "auto",
) -> None:
    """Run the conformance suite: a backend against a Llama in NumPy and float64.

    \b
    mindrlhf-grpo parity conform --backend mindspore

    Checks of capabilities that the backend lists as unsupported are left out, with the reason. The exit code is 0 if
    every other check passes, 1 if not. The last line of the output is JSON.
    """
    import tempfile

    from ..json_lines import to_json
    from .conformance import CHECKS, BackendUnderTest, Deviates, left_out

    failed: dict[str, str] = {}
    not_claimed = left_out(backend)
    with tempfile.TemporaryDirectory() as folder:
        backend_under_test = BackendUnderTest(backend, Path(folder), device=device, dtype=accepted_dtype(dtype))
        for name, run in CHECKS.items():
            if name in not_claimed:
                say(f"skip {name}: {not_claimed[name]}")
                continue
            try:
                run(backend_under_test)
                say(f"ok   {name}")
            except Deviates as deviation:
                failed[name] = str(deviation)
                say(f"FAIL {name}: {deviation}")
    result = {"passed": not failed, "checks": len(CHECKS) - len(not_claimed), "failed": failed, "left_out": not_claimed}
    typer.echo(to_json(result))
    raise typer.Exit(DIFFERENT if failed else 0)


def runs(
    one: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    other: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of another.")],
) -> None:
    """Compare two training runs of the same configuration on different backends.

    \b
    mindrlhf-grpo parity runs runs/on-torch runs/on-mindspore

    Sampled tokens and rewards must be equal at every step, losses and final weights within 1e-4. The exit code is 0 if
    they are, 1 if not. The last line of the output is JSON.
    """
    from rich.console import Console

    from ..json_lines import to_json
    from .parity.runs import as_json, compare_runs, sentences, table

    result = compare_runs(one, other)
    console = Console(stderr=True)
    console.print(table(result))
    for line in sentences(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    typer.echo(to_json(as_json(result)))
    raise typer.Exit(0 if result.passed else DIFFERENT)


def accepted_dtype(name: str) -> Dtype:
    """The type of this name.

    Raises:
        ConfigError: there is none.
    """
    from ..errors import ConfigError, did_you_mean
    from .parity.workload import Dtype

    for dtype in get_args(Dtype):
        if dtype == name:
            return dtype  # type: ignore[no-any-return]
    raise ConfigError(f"--dtype {name}: accepted: {', '.join(get_args(Dtype))}{did_you_mean(name, get_args(Dtype))}")


def say(line: str) -> None:
    """Print progress to standard error."""
    typer.echo(line, err=True)


def write_result(result: Result, folder: Path) -> None:
    """Write the table to the terminal and to a file, the JSON, and the page."""
    from rich.console import Console

    from ..json_lines import replace_file
    from .parity.check import write_json
    from .parity.page import html_of
    from .parity.summary import places, table, verdict

    folder.mkdir(parents=True, exist_ok=True)
    terminal = Console(stderr=True)
    with (folder / TEXT).open("w", encoding="utf-8") as file:
        for console in (terminal, Console(file=file, width=160)):
            console.print(table(result))
            for line in [*places(result), verdict(result)]:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    write_json(result, folder / JSON)
    replace_file(folder / PAGE, html_of(result).encode(errors="replace"))
