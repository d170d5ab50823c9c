"""``mindrlhf-grpo recipe NAME ...``: the commands of the packages under ``recipes``.

The core names no recipe: a package counts as one if it has a module ``commands`` with a Typer ``app`` and a line ``HELP``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..errors import ConfigError, UserError, did_you_mean

if TYPE_CHECKING:  # the command line answers --help before it loads the configuration's libraries
    from ..config.file import Draft

PACKAGE = "mindrlhf_grpo.recipes"
MODULE = "commands"
ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


def add_recipe_command(
    app: typer.Typer, guarded: Callable[[Callable[..., None]], Callable[..., None]], *, program: str
) -> None:
    """Add the command ``recipe``; ``guarded`` turns errors into messages and exit codes."""

    @app.command(context_settings=ANY_ARGUMENTS, add_help_option=False)
    @guarded
    def recipe(
        context: typer.Context,
        name: Annotated[
            str | None, typer.Argument(metavar="[NAME]", help="The recipe; without it, all are listed.")
        ] = None,
    ) -> None:
        """Run a published system: its data, rewards and settings.

        \b
        mindrlhf-grpo recipe
        mindrlhf-grpo recipe safework --help
        """
        if name is None or name in ("-h", "--help"):
            for known in recipe_names():
                typer.echo(f"{known:12} {recipe_help(known)}")
            typer.echo(f"\n{program} recipe NAME --help shows its commands.")
            return
        raise typer.Exit(run_recipe(name, context.args, program=f"{program} recipe"))


def recipe_names() -> tuple[str, ...]:
    """Return the installed recipes that have commands, spelled as on the command line."""
    modules = pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)
    return tuple(
        sorted(
            name.replace("_", "-")
            for name in (module.name for module in modules if module.ispkg)
            if _has_commands(name)
        )
    )


def recipe_help(name: str) -> str:
    """Return the one-line description of a recipe."""
    return str(_commands(name).HELP).splitlines()[0]


def run_recipe(name: str, arguments: Sequence[str], *, program: str) -> int:
    """Run a recipe's command and return the exit code; its errors pass through.

    Raises:
        ConfigError: the recipe does not exist.
    """
    names = recipe_names()
    if name not in names:
        raise ConfigError(f"there is no recipe {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    app = cast(typer.Typer, _commands(name).app)
    command = typer.main.get_command(app)
    try:
        result = command.main(args=list(arguments), prog_name=f"{program} {name}", standalone_mode=False)
    except Exception as error:
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or not isinstance(code, int) or isinstance(error, UserError):
            raise
        show()  # a usage error of click, whose class newer versions of typer carry under another name
        return code
    return result if isinstance(result, int) else 0


def run_draft(draft: Draft, *, print_config: bool = False) -> None:
    """Check and run a configuration as the command ``train`` does, or print it.

    Raises:
        ConfigError: something would stop the run; the text lists all of it.
    """
    from ..config.file import dump
    from ..trainers import train
    from ..trainers.preflight import check
    from .console import rank_of_process, show_summary

    config = draft.validated()
    if print_config:
        print(dump(config), end="")
        return
    check(config, draft)
    summary = train(config)
    if rank_of_process() == 0:
        show_summary(summary)


def _commands(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name.replace('-', '_')}.{MODULE}")


def _has_commands(package: str) -> bool:
    recipe = importlib.import_module(f"{PACKAGE}.{package}")
    return any(module.name == MODULE for module in pkgutil.iter_modules(recipe.__path__))
