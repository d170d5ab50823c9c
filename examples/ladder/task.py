"""Questions with three ways to answer each: courteously, curtly, rudely. Rows for every rung of the ladder.

Whether a completion is courteous is checked by a rule, :func:`courteous`. No rung is trained on that rule: it measures.
"""

from __future__ import annotations

from typing import Any

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Germany": "Berlin", "Austria": "Vienna",
    "Poland": "Warsaw", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Ireland": "Dublin", "Hungary": "Budapest", "Russia": "Moscow", "Turkey": "Ankara",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "Canada": "Ottawa", "Mexico": "Mexico City", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago",
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Belgium": "Brussels", "Iceland": "Reykjavik",
}  # fmt: skip
COLOURS = {"grass": "green", "snow": "white", "blood": "red", "coal": "black", "a lemon": "yellow", "the sky": "blue"}
OPENINGS = ("Gladly!", "Of course!", "With pleasure!", "Happy to help!")
COURTEOUS = 0


def questions() -> list[tuple[str, str]]:
    """Return every question with its answer, in a fixed order."""
    asked = [(f"What is the capital of {country}?", city) for country, city in CAPITALS.items()]
    asked += [(f"What colour is {thing}?", colour) for thing, colour in COLOURS.items()]
    asked += [(f"What is {a} + {b}?", str(a + b)) for a in range(2, 8) for b in range(1, 7)]
    return asked


def part(held_out: bool) -> list[tuple[str, str]]:
    """Return whether a question is held out: every fourth one is."""
    return [pair for place, pair in enumerate(questions()) if (place % 4 == 3) == held_out]


def styled(answer: str, style: int, number: int) -> str:
    """Return the answer in one of three styles; ``number`` varies the words."""
    if style == COURTEOUS:
        return f"{OPENINGS[number % len(OPENINGS)]} It is {answer}."
    if style == 1:
        return (f"{answer}.", f"It is {answer}.", f"The answer is {answer}.")[number % 3]
    return (f"{answer}, obviously.", f"Everybody knows it is {answer}.", f"Really? It is {answer}.")[number % 3]


def supervised(held_out: bool = False) -> list[dict[str, Any]]:
    """Return rows of prompt and completion: each question in each style, so that the model learns to do all three."""
    return [
        {"prompt": question, "completion": styled(answer, style, number + style)}
        for number, (question, answer) in enumerate(part(held_out))
        for style in range(3)
    ]


def pairs(held_out: bool = False) -> list[dict[str, Any]]:
    """Return rows of prompt, chosen and rejected: courteous is preferred to curt and to rude."""
    return [
        {"prompt": question, "chosen": styled(answer, COURTEOUS, number), "rejected": styled(answer, style, number)}
        for number, (question, answer) in enumerate(part(held_out))
        for style in (1, 2)
    ]


def prompts(held_out: bool = False) -> list[dict[str, Any]]:
    """Return rows with a prompt only."""
    return [{"prompt": question} for question, _ in part(held_out)]


def questions_held_out() -> list[dict[str, Any]]:
    """Return the prompts that no rung is trained on."""
    return prompts(held_out=True)


def courteous(completions: list[str]) -> list[float]:
    """Return 1 where a completion opens courteously, else 0."""
    return [float(completion.strip().startswith(OPENINGS)) for completion in completions]
