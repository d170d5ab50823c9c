"""``docs/algorithms.md`` shows what the code has, and what it says is tested is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.tables.algorithms import BEGIN, DOCUMENT, END, Entry, described, in_document, matched, rows, table
from mindrlhf_grpo.advantages import ESTIMATORS
from mindrlhf_grpo.algorithms.corrections import CORRECTIONS
from mindrlhf_grpo.algorithms.task import OBJECTIVES
from mindrlhf_grpo.losses import KL_ESTIMATORS, POLICY_LOSSES
from tests.support.loss_cases import CASES
from tests.support.offline_losses import CASES as OFFLINE_CASES

HERE = Path(__file__).parents[1] / "advantages"


def test_document_has_the_tables_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert in_document(text) == text, "run: python -m docs.tables.algorithms --write"


def test_every_name_has_a_row_and_no_row_an_empty_cell() -> None:
    found = table()
    for name in [
        *ESTIMATORS,
        *POLICY_LOSSES,
        *KL_ESTIMATORS,
        *CORRECTIONS,
        *OBJECTIVES,
        "gae",
        "reinforce_pp",
        "value",
    ]:
        assert f"\n| `{name}` |" in found, name
    assert not re.search(r"\|[ \t]*\|", found.replace("\\|", ""))


def test_losses_said_to_be_tested_have_cases() -> None:
    """The same cases run on NumPy, torch and MindSpore."""
    assert {type(case.loss) for case in CASES.values()} == set(POLICY_LOSSES.values())
    assert {type(loss) for loss, _, _ in OFFLINE_CASES.values()} >= {entry.loss for entry in OBJECTIVES.values()}


def test_estimators_said_to_be_tested_are_named_in_tests() -> None:
    tests = "".join((HERE / f"test_advantages{part}.py").read_text() for part in ("", "_of_peers", "_tokens"))
    for name in [*ESTIMATORS, "token_rewards", "gae", "reinforce_pp", "whiten_tokens"]:
        assert re.search(rf"\b{name}\(", tests), name


def test_a_name_without_an_entry_is_named() -> None:
    with pytest.raises(ValueError, match="differ in other"):
        matched(["ppo", "other"], {"ppo": Entry("-r A", "paper", "all")})
    with pytest.raises(ValueError, match="an empty cell in the row of ppo"):
        rows({"ppo": Entry("-r A", "", "all")}, ("yes", "yes", "yes"))
    with pytest.raises(ValueError, match="lacks the line"):
        in_document(BEGIN)
    assert in_document(f"a\n{BEGIN}\nold\n{END}\nb").endswith(f"\n\n{END}\nb")


def test_the_formula_of_an_objective_is_the_first_sentence_of_its_loss() -> None:
    def loss() -> None:
        """-log sigmoid(h), ``beta`` as in Ouyang et al. https://arxiv.org/abs/2203.02155.

        More.
        """

    entry = described(loss, source="arXiv:2305.18290", peers="trl")
    assert entry == Entry(
        "-log sigmoid(h), `beta` as in Ouyang et al", "[arXiv:2305.18290](https://arxiv.org/abs/2305.18290)", "trl"
    )
