"""The tables of ``docs/algorithms.md``, from the records of algorithms, losses, objectives and presets.

``python -m docs.tables.algorithms --write`` writes them into the document between their markers; without ``--write``
they are printed. ``make docs`` writes every generated part of the documentation.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from docs.tables.document import between, print_or_write
from mindrlhf_grpo.advantages import WHITENINGS
from mindrlhf_grpo.algorithms.algorithm import Algorithm
from mindrlhf_grpo.algorithms.corrections import CORRECTIONS
from mindrlhf_grpo.algorithms.presets import OURS, PRESETS, Preset
from mindrlhf_grpo.algorithms.registry import ALGORITHMS, OBJECTIVES, POLICY_LOSSES
from mindrlhf_grpo.losses import KL_ESTIMATORS

DOCUMENT = Path(__file__).resolve().parents[1] / "algorithms.md"
BEGIN = "<!-- tables: written by python -m docs.tables.algorithms --write -->"
END = "<!-- end of tables -->"
BEGIN_PRESETS = "<!-- presets: written by python -m docs.tables.algorithms --write -->"
END_PRESETS = "<!-- end of presets -->"

Row = tuple[str, str, str, str]  # name, formula, source, peers
TOKENS = {
    "same": "the advantage of their completion or item",
    "sum": "`reinforce_pp` of it",
    "gae": "`gae` of it",
}


def arxiv(number: str, title: str) -> str:
    """A link to a paper."""
    return f"[{title}](https://arxiv.org/abs/{number})"


# Functions of advantages/tokens.py and losses/value.py, which several algorithms share.
TOKEN_ROWS: tuple[Row, ...] = (
    ("token_rewards", "r_t = −β KL_t, + R at the last token", arxiv("2203.02155", "InstructGPT"),
     "trl PPO, verl `use_kl_in_reward`, openrlhf, lightrft, mindrlhf (there with + β KL)"),
    ("gae", "Â_t = δ_t + γλ Â_{t+1}, δ_t = r_t + γ V_{t+1} − V_t; returns Â + V", arxiv("1506.02438", "GAE"),
     "trl, lightrft, mindrlhf: λ 0.95; verl, openrlhf: λ 1"),
    ("reinforce_pp", "G_t = r_t + γ G_{t+1}, whitened over the tokens of the batch", arxiv("2501.03262", "REINFORCE++"),
     "verl `reinforce_plus_plus`; openrlhf `reinforce`"),
    ("whiten_tokens", "(A − mean) / √(var + 1e-8) over all ranks", "verl `masked_whiten`",
     "`verl`: unbiased variance; `openrlhf`: biased, at least 1e-8"),
)  # fmt: skip
VALUE_ROW: Row = (
    "value", "½ max((V − R)², (clip(V, Vo ± c) − R)²)", arxiv("1707.06347", "PPO"), "trl, verl, openrlhf, mindrlhf"
)  # fmt: skip


def table() -> str:
    """All tables but that of the presets as Markdown. Raises ValueError for an empty cell."""
    losses = [(name, loss.formula, loss.source, loss.peers) for name, loss in POLICY_LOSSES.items()]
    estimators = [(name, kl.formula, kl.source, kl.peers) for name, kl in KL_ESTIMATORS.items()]
    corrections = [(name, named.formula, named.source, named.peers) for name, named in CORRECTIONS.items()]
    objectives = [
        (name, first_sentence(entry.loss), linked(entry.source), entry.peers) for name, entry in OBJECTIVES.items()
    ]
    return "\n\n".join(
        [
            "### Algorithms (`algorithm.name`)\n\n" + algorithm_rows(),
            f"`gdpo` ends in one of {', '.join(f'`{name}`' for name in WHITENINGS)}: see below.",
            "### Advantages of tokens\n\n" + rows(TOKEN_ROWS),
            "### Policy losses (`algorithm.loss`)\n\n" + rows(losses),
            "### KL estimators (`algorithm.kl_estimator`)\n\n" + rows(estimators),
            "### Loss of a critic\n\n" + rows([VALUE_ROW]),
            "### Train/rollout corrections (`algorithm.correction`)\n\n" + rows(corrections),
            "### Preferences, reward models, supervised (`objective.name`)\n\n" + rows(objectives),
        ]
    )


def algorithm_rows() -> str:
    """Return the parts of each algorithm as a Markdown table."""
    lines = ["| name | advantages | tokens get | loss | prescribes | needs | source | peers |", "|---" * 8 + "|"]
    for name, algorithm in ALGORITHMS.items():
        cells = [
            f"`{name}`", algorithm.formula, TOKENS[algorithm.returns], losses_of(algorithm),
            ", ".join(f"{key} {value}" for key, value in algorithm.prescribes.items()) or "nothing",
            ", ".join([*(["groups of 2 or more"] if algorithm.group_size > 1 else []), *sorted(algorithm.needs)]) or "nothing",
            algorithm.source, algorithm.peers,
        ]  # fmt: skip
        lines.append(as_row(cells))
    return "\n".join(lines)


def losses_of(algorithm: Algorithm) -> str:
    """The loss of an algorithm, and those it brings besides."""
    names = [name for name, loss in POLICY_LOSSES.items() if loss is algorithm.loss]
    return ", or ".join(f"`{name}`" for name in [*names, *(loss.name for loss in algorithm.other_losses)])


def first_sentence(loss: Any) -> str:
    """The first sentence of a loss's docstring, without links: the formula of an offline objective."""
    text = " ".join((inspect.getdoc(loss) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z)\]`])(?<!et al)\.(?:\s|$)", text)[0]
    return re.sub(r"[:,]?\s*https?://\S+", "", sentence).rstrip(".:, ").replace("``", "`")


def linked(source: str) -> str:
    """A source as Markdown: ``arXiv:NUMBER`` becomes a link."""
    paper = re.fullmatch(r"arXiv:(\S+)", source)
    return arxiv(paper[1], source) if paper else source


def rows(entries: Iterable[Row]) -> str:
    """A table of formulas as Markdown. Raises ValueError for an empty cell."""
    lines = ["| name | formula | source | peers |", "|---" * 4 + "|"]
    return "\n".join([*lines, *(as_row([f"`{name}`", *cells]) for name, *cells in entries)])


def as_row(cells: list[str]) -> str:
    """One line of a table. Raises ValueError for an empty cell."""
    if not all(cell.strip() for cell in cells):
        raise ValueError(f"an empty cell in the row of {cells[0]}")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def preset_table() -> str:
    """Every number of every preset."""
    columns: dict[str, Preset] = {"default": OURS, **PRESETS}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for field in fields(Preset):
        values = [preset_cell(getattr(preset, field.name), field.name) for preset in columns.values()]
        lines.append(f"| {field.name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def preset_cell(value: Any, name: str) -> str:
    """A preset's value as the document writes it."""
    if name == "kl_clamps":
        return ", ".join(f"{estimator}: {bound:g}" for estimator, bound in value) or "off"
    if name == "losses":
        numbers = {loss: ", ".join(f"{k} {v}" for k, v in settings.items()) for loss, settings in value.items()}
        return "; ".join(f"{loss}: {text}" for loss, text in numbers.items()) or "none"
    if value is None:
        return "= low"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "off" if value == 0 and name in ("dual_clip", "kl_coef", "log_ratio_clamp") else str(value)


def in_document(text: str) -> str:
    """A document with its tables brought up to date. Raises ValueError where the markers are missing."""
    return between(between(text, BEGIN, END, table()), BEGIN_PRESETS, END_PRESETS, preset_table())


if __name__ == "__main__":
    print_or_write(DOCUMENT, table, in_document, module="docs.tables.algorithms")
