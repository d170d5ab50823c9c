"""The references of a data set, scored by the rewards that compare with them: a right answer must get full marks.

Each verifier is given the reference itself as a completion, in the form in which it reads answers. A row whose own
reference scores less cannot be learned from: its reference is written in a form that the verifier does not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.run import RewardConfig, RunConfig
from ..data.stream import PromptStream
from ..errors import UserError
from ..tokenizers.tokenizer import Tokenizer
from ..types import Prompt
from .builtin.answers import COLUMNS
from .guard import InProcess, Worker, run_guarded
from .protocol import Inputs
from .resolve import BUILT_INS, resolve
from .rows import Failure, Row
from .sources import MODEL_PREFIX, component_name

ROWS = 256  # rows drawn from the data
SHOWN = 5  # rows named in a message
CODE = ("canonical_solution", "code")  # columns of programs that pass the tests of their row


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScore:
    """The score of one row's reference; None where the reward failed or does not apply."""

    row: int
    reference: str
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScores:
    """What a reward gives the references of the data.

    Attributes:
        full: full marks: 1 for a built-in reward, else the most that a reference got.
    """

    reward: str
    full: float
    scores: tuple[ReferenceScore, ...]

    @property
    def below(self) -> list[ReferenceScore]:
        """The references with less than full marks."""
        return [one for one in self.scores if one.score is None or one.score < self.full - 1e-9]

    @property
    def text(self) -> str:
        """One line: how many references get full marks, and the first that do not."""
        below = self.below
        line = f"{self.reward}: {len(self.scores) - len(below)} of {len(self.scores)} references score {self.full:g}"
        if not below:
            return line
        named = ", ".join(
            f"row {one.row} ({one.reference[:40]!r}) {'none' if one.score is None else format(one.score, 'g')}"
            for one in below[:SHOWN]
        )
        return f"{line}; less: {named}{' ...' if len(below) > SHOWN else ''}"


def score_references(config: RunConfig, tokenizer: Tokenizer) -> list[ReferenceScores]:
    """Score the references of up to ROWS rows by each reward that reads them; rewards with models are left out.

    It calls the user's functions. Rows that cannot be read are a matter of other checks.
    """
    try:
        drawn = PromptStream(config.data, tokenizer, seed=config.seed).take(ROWS)
    except UserError:
        return []
    prompts = list({prompt.row: prompt for prompt in drawn}.values())  # a short source is drawn more than once
    return [scores for scores in (scores_of(reward, prompts) for reward in config.rewards) if scores is not None]


def scores_of(config: RewardConfig, prompts: Sequence[Prompt]) -> ReferenceScores | None:
    """The scores of the rows' references by one reward; None where it compares with none, or cannot be called."""
    if config.function.startswith(MODEL_PREFIX) or config.completions == "messages":
        return None
    name = component_name(config)
    try:
        reward = resolve(config.function, config.arguments, label=f"reward {name!r}")
    except UserError:
        return None
    built_in = config.function in BUILT_INS
    reads = {*reward.required, *reward.optional}
    if not (reward.references or config.function in WRITTEN or reads & set(COLUMNS)):
        return None
    written = [(prompt, written_reference(config, prompt.columns)) for prompt in prompts]
    rows = [(prompt, text) for prompt, text in written if text]
    if not rows:
        return None
    inputs = inputs_of(rows)
    runner = Worker(reward, config.timeout) if config.timeout > 0 else InProcess(reward)
    try:
        values, _ = run_guarded(runner, reward.inputs(inputs), len(rows))
    except UserError:
        return None
    finally:
        runner.close()
    first = next(iter(values.values()))
    scores = tuple(
        ReferenceScore(row=prompt.row, reference=reference_text(config, prompt.columns), score=number(row))
        for (prompt, _), row in zip(rows, first, strict=True)
    )
    best = max((one.score for one in scores if one.score is not None), default=0.0)
    return ReferenceScores(reward=name, full=1.0 if built_in else best, scores=scores)


def inputs_of(rows: Sequence[tuple[Prompt, str]]) -> Inputs:
    """The columns of a call: one entry per row, its reference as the completion."""
    names = dict.fromkeys(name for prompt, _ in rows for name in prompt.columns)
    return {name: [prompt.columns.get(name) for prompt, _ in rows] for name in names} | {
        "prompts": [prompt.text for prompt, _ in rows],
        "completions": [text for _, text in rows],
        "completion_ids": [[0] for _ in rows],
    }


def written_reference(config: RewardConfig, columns: Mapping[str, Any]) -> str:
    """The reference of a row in the form of a completion; empty where it has none."""
    text = reference_text(config, columns)
    tag = config.arguments.get("tag")
    if not text or config.function == "unit_tests":
        return f"```python\n{text}\n```" if text else ""
    return f"<{tag}>{text}</{tag}>" if isinstance(tag, str) and tag else text


def reference_text(config: RewardConfig, columns: Mapping[str, Any]) -> str:
    """The reference of a row as text; empty where it has none."""
    if config.function == "reasoning_gym":
        entry = columns.get("entry")
        value = entry.get("answer") if isinstance(entry, Mapping) else None
    else:
        chosen = config.arguments.get("column")
        names = CODE if config.function == "unit_tests" else (chosen,) if isinstance(chosen, str) else COLUMNS
        value = next((columns[name] for name in names if columns.get(name) is not None), None)
    return str(value) if isinstance(value, (str, int, float)) else ""


def number(row: Row) -> float | None:
    """The score of a row: the least of its segments; None for a failure and where the reward does not apply."""
    values = row if isinstance(row, tuple) else (row,)
    if isinstance(row, Failure) or any(value != value for value in values if not isinstance(value, Failure)):
        return None
    return min(float(value) for value in values if not isinstance(value, Failure))


WRITTEN = ("unit_tests", "reasoning_gym")  # built-in rewards whose references are no answers in a column
