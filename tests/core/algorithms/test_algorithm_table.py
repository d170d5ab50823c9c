"""``docs/algorithms.md`` shows what the code has, and every loss in it has a case with literal numbers."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from docs.tables.algorithms import BEGIN, DOCUMENT, END, as_row, first_sentence, in_document, linked, preset_cell, table
from mindrlhf_grpo.algorithms.corrections import CORRECTIONS
from mindrlhf_grpo.algorithms.presets import OURS, PRESETS, Preset
from mindrlhf_grpo.algorithms.registry import ALGORITHMS, OBJECTIVES, POLICY_LOSSES
from mindrlhf_grpo.losses import KL_ESTIMATORS
from tests.support.offline_losses import CASES as OFFLINE_CASES

SOURCES = {
    "Algorithms": {name: algorithm.source for name, algorithm in ALGORITHMS.items()},
    "Policy losses": {name: loss.source for name, loss in POLICY_LOSSES.items()},
    "KL estimators": {name: estimator.source for name, estimator in KL_ESTIMATORS.items()},
    "Train/rollout corrections": {name: named.source for name, named in CORRECTIONS.items()},
    "Preferences": {name: linked(objective.source) for name, objective in OBJECTIVES.items()},
}


def tables(text: str) -> dict[str, dict[str, str]]:
    """The lines of the tables under each heading, by the name in their first column."""
    parts = re.split(r"^### (.*)$", text.split(END)[0], flags=re.M)
    return {
        heading.split(" (")[0].split(",")[0]: {
            line.split("`")[1]: line for line in part.splitlines() if line.startswith("| `")
        }
        for heading, part in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.mark.parametrize("heading", SOURCES)
def test_document_has_a_row_for_every_name_with_its_source(heading: str) -> None:
    shown = tables(DOCUMENT.read_text(encoding="utf-8"))[heading]
    assert set(shown) == set(SOURCES[heading]), "run: make docs"
    assert [name for name, source in SOURCES[heading].items() if source not in shown[name]] == []


def test_document_shows_the_presets_as_they_are() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| | default |"))
    assert [cell.strip() for cell in header.split("|")[3:-1]] == list(PRESETS)
    for field in fields(Preset):
        line = next(line for line in text.splitlines() if line.startswith(f"| {field.name} |"))
        values = [preset_cell(getattr(preset, field.name), field.name) for preset in (OURS, *PRESETS.values())]
        assert [cell.strip() for cell in line.split("|")[2:-1]] == values, field.name


def test_no_cell_is_empty() -> None:
    assert not re.search(r"\|[ \t]*\|", table().replace("\\|", ""))
    with pytest.raises(ValueError, match="an empty cell in the row of ppo"):
        as_row(["ppo", "-r A", ""])


def test_losses_have_cases() -> None:
    """The same cases run on NumPy, torch and MindSpore."""
    assert {type(loss) for loss, _, _ in OFFLINE_CASES.values()} >= {entry.loss for entry in OBJECTIVES.values()}


def test_tables_are_written_between_their_markers() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert in_document(in_document(text)) == in_document(text)
    with pytest.raises(ValueError, match="lacks the line"):
        in_document(BEGIN)


def test_the_formula_of_an_objective_is_the_first_sentence_of_its_loss() -> None:
    def loss() -> None:
        """-log sigmoid(h), ``beta`` as in Ouyang et al. https://arxiv.org/abs/2203.02155.

        More.
        """

    assert first_sentence(loss) == "-log sigmoid(h), `beta` as in Ouyang et al"
    assert linked("arXiv:2305.18290") == "[arXiv:2305.18290](https://arxiv.org/abs/2305.18290)"
