"""The table of ``model_configs/README.md``: every configuration there on every machine, as ``doctor --dry-run`` finds it.

``python -m docs.tables.model_configs --write`` writes it into the document, between its two markers; without
``--write`` it is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs.tables.document import between, print_or_write
from mindrlhf_grpo.capacity.dry_run import GIB, MACHINES, beyond, examine_config, quoted
from mindrlhf_grpo.capacity.memory import peak

FOLDER = Path(__file__).resolve().parents[2] / "model_configs"
DOCUMENT = FOLDER / "README.md"
BEGIN = "<!-- table: written by python -m docs.tables.model_configs --write -->"
END = "<!-- end of table -->"
PHASES = ("load", "generate", "score", "update", "checkpoint")


def table() -> str:
    """One table for each machine, a row for each file."""
    found = {path.stem: examine_config(path, []) for path in sorted(FOLDER.glob("*.yaml"))}
    return "\n\n".join(
        "\n".join([
            f"### {machine.name}", "",
            f"{machine.available // GIB} GiB of a device can be used. GiB of a device by phase, on the layout named.", "",
            f"| file | parameters | fits | layout | {' | '.join(PHASES)} |", "|---" * (4 + len(PHASES)) + "|",
            *(row(name, findings, index) for name, findings in found.items()),
        ])
        for index, machine in enumerate(MACHINES)
    )  # fmt: skip


def row(name: str, findings: Mapping[str, Any], index: int) -> str:
    """One configuration on one machine; where it does not fit, the smallest layout on which it would."""
    machine = findings["machines"][index]
    plan = machine["plan"] or {}
    shown = plan or machine
    layout = f"{plan['devices']} devices: {plan['layout']}{beyond(plan)}" if plan else machine["layout"]
    sizes = [f"{peak(shown['phases'][phase]) / GIB:,.1f}" for phase in PHASES]
    cells = [f"`{name}`", f"{findings['model']['parameters']:,}", verdict(machine), layout, *sizes]
    return f"| {' | '.join(cells)} |"


def verdict(machine: Mapping[str, Any]) -> str:
    """Say whether a model fits on these devices, and if not, the settings with which it does."""
    images = [text for text in machine["lacks"] if "images" in text]
    if images:
        return f"no, the {machine['backend']} backend has no {images[0]}"
    if machine["fits"]:
        return "yes"
    changed = f"; with `{' '.join(map(quoted, machine['change']))}`" if machine["change"] else ""
    return f"no, {machine['peak'] / GIB:,.0f} GiB on {machine['layout']}{changed}"


def in_document(text: str) -> str:
    """A document with its tables brought up to date. Raises ValueError where the markers are missing."""
    return between(text, BEGIN, END, table())


if __name__ == "__main__":
    print_or_write(DOCUMENT, table, in_document, module="docs.tables.model_configs")
