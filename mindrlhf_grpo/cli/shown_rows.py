"""Rows as a run will see them (``doctor --show``): the rendered text, its tokens, which of them are trained, and rewards.

Rows come in the order in which the run draws them. Trained tokens stand in brackets; of a reward model's rows it is the
last token, where the score is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..algorithms.task import resolve_objective
from ..config.file import AnyConfig
from ..config.run import RunConfig
from ..data.examples import Example, ExampleStream
from ..rewards.references import ReferenceScores
from ..run.printable import printable
from ..tokenizers.tokenizer import Tokenizer
from ..trainers.preflight import open_tokenizer
from ..trainers.rows import open_prompts
from ..types import Prompt

Shown = dict[str, Any]
LONG = 4_000  # characters of a text that are shown


def shown_rows(config: AnyConfig, count: int, references: Sequence[ReferenceScores] = ()) -> list[Shown]:
    """The first ``count`` draws of a run as plain values.

    Returns:
        For each: ``row`` (its place in the source), ``prompt`` (``tokens`` in number, ``pieces``), and ``completions``
        (``name``, ``tokens``, ``trained``, ``pieces`` as pairs of text and whether it is trained); online ``columns`` and
        ``references`` (reward -> what it gives the row's own reference, where it was scored).

    Raises:
        DataError: a row cannot be used.
    """
    tokenizer = open_tokenizer(config)
    if isinstance(config, RunConfig):
        scores = {(one.row, of.reward): one.score for of in references for one in of.scores}
        return [shown_prompt(prompt, tokenizer, scores) for prompt in open_prompts(config, tokenizer).take(count)]
    task = resolve_objective(config)
    names = ("chosen", "rejected") if task.pairs else ("completion",)
    stream = ExampleStream(config.data, task.encoder, tokenizer, seed=config.seed)
    last_only = task.objective.model != "policy"
    return [shown_example(example, names, tokenizer, last_only=last_only) for example in stream.take(count)]


def shown_prompt(prompt: Prompt, tokenizer: Tokenizer, scores: Mapping[tuple[int, str], float | None]) -> Shown:
    """A prompt of an online run; all tokens of its completions will be trained."""
    columns = {name: str(value) for name, value in prompt.columns.items()}
    references = {reward: score for (row, reward), score in scores.items() if row == prompt.row}
    return {
        "row": prompt.row, "prompt": shown_tokens(prompt.ids, tokenizer), "completions": [], "columns": columns,
        "references": references,
    }  # fmt: skip


def shown_example(example: Example, names: tuple[str, ...], tokenizer: Tokenizer, *, last_only: bool) -> Shown:
    """A row of a fixed dataset with its masks."""
    completions = []
    for name, completion in zip(names, example.completions, strict=True):
        trained = [bool(one) and (not last_only or at == len(completion) - 1) for at, one in enumerate(completion.mask)]
        pieces = [(tokenizer.piece(int(token)), one) for token, one in zip(completion.ids, trained, strict=True)]
        completions.append({"name": name, "tokens": len(pieces), "trained": sum(trained), "pieces": pieces})
    columns = {name: f"{value:g}" for name, value in example.numbers.items()}
    prompt = shown_tokens(example.prompt, tokenizer)
    return {"row": example.row, "prompt": prompt, "completions": completions, "columns": columns}


def shown_tokens(ids: Any, tokenizer: Tokenizer) -> Shown:
    """The tokens of a prompt."""
    pieces = [tokenizer.piece(int(token)) for token in ids]
    return {"tokens": len(pieces), "pieces": pieces}


# ---- as text


def as_lines(rows: list[Shown]) -> Iterator[str]:
    """The rows for people."""
    yield "Rows, in the order in which they are drawn; tokens are parted by ·, trained ones stand in [brackets]"
    for row in rows:
        yield f"  row {row['row']}: {_counted(row)}"
        yield from _block("prompt", "·".join(row["prompt"]["pieces"]))
        for completion in row["completions"]:
            yield from _block(completion["name"], _marked(completion["pieces"]))
        for name, value in row["columns"].items():
            yield from _block(name, value)
        for name, score in row.get("references", {}).items():
            yield f"    {name}: its own reference scores {'nothing' if score is None else f'{score:g}'}"


def _counted(row: Mapping[str, Any]) -> str:
    parts = [f"prompt {row['prompt']['tokens']} tokens"]
    parts += [f"{one['name']} {one['tokens']} tokens, {one['trained']} trained" for one in row["completions"]]
    return "; ".join(parts)


def _marked(pieces: list[tuple[str, bool]]) -> str:
    """Token pieces, the trained ones in brackets."""
    return "".join(f"[{piece}]" if trained else f"{piece}·" for piece, trained in pieces)


def _block(name: str, text: str) -> Iterator[str]:
    """A text under its name, line by line, without control characters."""
    cut = text if len(text) <= LONG else f"{text[:LONG]}… ({len(text) - LONG:,} more characters)"
    lines = cut.split("\n")
    for at, line in enumerate(lines):
        end = "⏎" if at < len(lines) - 1 else ""
        yield f"    {name if at == 0 else '':<12}{printable(line)}{end}"
