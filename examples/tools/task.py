"""Sums that a small model cannot do in its head, and a calculator: rows, made conversations, and the environment.

The environment has the form of TRL's ``environment_factory``: ``reset(**row)``, and every public method is a tool.
"""

from __future__ import annotations

import ast
import operator
import random
from typing import Any

HELD_OUT = 200
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
# The definition that the calculator's method has by its type hints and docstring.
CALCULATE = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Computes an expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "The expression, such as 12 + 3"}},
            "required": ["expression"],
        },
        "return": {"type": "string", "description": "Its value."},
    },
}


class Calculator:
    """The environment: one tool. The answer is the model's last turn, which a reward of the run compares."""

    def reset(self, **row: Any) -> None:
        """Begin an episode; there is nothing to remember."""

    def calculate(self, expression: str) -> str:
        """
        Computes an expression.

        Args:
            expression: The expression, such as 12 + 3

        Returns:
            Its value.
        """
        return str(value(ast.parse(expression.strip(), mode="eval").body))


def value(node: ast.expr) -> int:
    """Return the value of sums, differences and products of whole numbers; ValueError for anything else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        result: int = OPERATIONS[type(node.op)](value(node.left), value(node.right))
        return result
    raise ValueError("an expression has whole numbers, +, - and *")


def sums(count: int, seed: int) -> list[list[int]]:
    """Return ``count`` sums of three numbers of four digits."""
    draw = random.Random(seed)
    return [[draw.randint(1000, 9999) for _ in range(3)] for _ in range(count)]


def row(numbers: list[int]) -> dict[str, str]:
    """Make one question."""
    return {"prompt": f"What is {' + '.join(map(str, numbers))}?", "answer": str(sum(numbers))}


def train(rows: int = 2000) -> list[dict[str, str]]:
    """Return questions to train on."""
    held_out_sums = {tuple(numbers) for numbers in sums(HELD_OUT, seed=1)}
    return [row(numbers) for numbers in sums(rows, seed=0) if tuple(numbers) not in held_out_sums]


def held_out(rows: int = HELD_OUT) -> list[dict[str, str]]:
    """Return questions that are never trained on."""
    return [row(numbers) for numbers in sums(rows, seed=1)]


def conversations(rows: int = 200) -> list[dict[str, Any]]:
    """Return made conversations for the warm-up: the tool is called, its result is the answer."""
    made = []
    for numbers in sums(rows, seed=2):
        expression, answer = " + ".join(map(str, numbers)), str(sum(numbers))
        call = {"type": "function", "function": {"name": "calculate", "arguments": {"expression": expression}}}
        messages = [
            {"role": "user", "content": row(numbers)["prompt"]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "calculate", "content": answer},
            {"role": "assistant", "content": answer},
        ]
        made.append({"messages": messages, "tools": [CALCULATE]})
    return made
