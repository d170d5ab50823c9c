r"""Finds the final answer in a written solution, so that only this answer is compared and nothing around it.

In order: the last ``\boxed`` (or ``\fbox``); what follows the last "answer is", "Answer:" or ``####``; the last formula or
number. Bold, code, currency signs and separators of thousands are removed first. Expressions look at a window of bounded
length, so that no completion makes them slow.
"""

from __future__ import annotations

import re
from itertools import pairwise

from .answers import last_box, tagged

WINDOW = 600  # characters that may hold a final answer
MARKERS = 20  # "the answer is" that are looked at, from the end
LONGEST_RUN = 100  # characters of an expression that stands in prose
LETTERS = "A-J"

BOLD = re.compile(r"(?<![\w)\]}*])\*\*\*?(?=\S)|(?<=\S)\*\*\*?(?![\w(\[{*\\])|(?<!\w)__(?=\S)|(?<=[^\s_])__(?!\w)")
ITALIC = re.compile(r"(?<![\w)\]}*])\*(?=[^\s*])([^*\n]{1,80})(?<=[^\s*])\*(?![\w(\[{*\\])")
THIN = r"\\[,;:! ]|~|\{,\}|[\u00a0\u2007\u2009\u202f]"
THOUSANDS = re.compile(rf"(?<=\d)(?:{THIN})+(?=\d{{3}}(?!\d))")
SPACED = re.compile(r"(?<![\w.,])(?<!\d )\d{1,3}(?: \d{3})+(?![\w]|[.,/^]\d{3,}|\s*[-+*/^=])")
CURRENCY = re.compile(r"\\\$|[€£¥₹]\s?(?=\d)|(?<=\d)\s?[€£¥₹]|\bUS\$")
SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})")
LABEL = re.compile(
    rf"(?:\\(?:textbf|textrm|textit|text|mathrm|mathbf)\s*\{{)?\s*\(?(?P<letter>[{LETTERS}])\s*[).]\s*"
    r"(?:\\[ ,;:!~]|~|\\quad|\s)*\}?(?:\\[ ,;:!~]|~|\\quad|\s|[:.])*"
)
WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|mathit)\s*\{([^{}]*)\}")
JOINING_TEXT = re.compile(r"\\text\s*\{[^{}]*\b(?:and|or)\b[^{}]*\}")
NUMERIC_TEXT = re.compile(r"\\text\s*\{([^{}]*\d[^{}]*)\}|^\\text\s*\{([^{}]*(?:answer|Answer)[^{}]*)\}")
POWER = re.compile(r"(?:\^|\*\*)\s*(?:(-?\d{2,}|-\d)|(?<=\*)(\w))")
WHOLE_AND_PART = re.compile(r"(\d{1,9}) (\d{1,9})/(\d{1,9})")
SIGNS = str.maketrans({"−": "-", "–": "-", "×": r"\times ", "÷": "/", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ",
                       "²": "^{2}", "³": "^{3}", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge "})  # fmt: skip
VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
          "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
MIXED = re.compile(rf"(?:(\d{{1,9}})\s?)?([{''.join(VULGAR)}])")
ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[a-z]))")

MARKER = re.compile(
    r"####"
    r"|\b(?:answer|ANSWER|Answer)s?\b[^.:=\n!?]{0,60}?(?:\b(?:is|are|equals|be|was)(?P<negated>n['’]t\b)?|[:=])"
    r"|答案[^。：:\n]{0,10}?[是为：:]|答え[は：:]|정답[은:]"
)
FILLER = re.compile(
    r"(?:\s|[:*`>]|=(?!=)|\b(?:approximately|approx\.|about|around|roughly|exactly|simply|just|therefore|thus|then|clearly"
    r"|equal to|given by|option|choice|indeed|also|still|now|again|is)\b"
    r"|not\s[^.,;\n]{1,40}?,?\s*(?:\bbut\b|;\s*it is|,\s*it is|,\s*it's)\s)*"
)
VAGUE = re.compile(
    r"(?:not|no longer|between|from|more than|less than|greater than|fewer than|either|neither|never)\b|n't\b", re.I
)
START = re.compile(r"[-+(\[{\\$.\d√<>≤≥]|[a-zA-Z](?:\s*=|\b)|[£€¥]")
CORRECTION = re.compile(r"\b(?:wait|no,|actually|correction|sorry|oops|hmm|mistake|scratch that|should be)(?!\w)", re.I)
DELIMITED = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
BETWEEN = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b|,)\s*")
JOINED = re.compile(r"\s*,?\s*\b(?:and|or)\b\s*")
PIECE = r"(?:\d+(?::\d+)+|\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+|[\w\\{}^()]|%)+"
RUN = re.compile(rf"[-+]?{PIECE}(?:\s*(?:\*\*|[-+*/^])\s*{PIECE})*")
WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "sqrt",
        "pi",
        "max",
        "min",
        "gcd",
        "lcm",
        "mod",
        "arcsin",
        "arccos",
        "arctan",
        "deg",
    ]
)
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|/\d+)?%?")
UNIT = re.compile(
    r"(?P<number>[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+|/\d+)?)"
    r"(?:km|cm|mm|m|kg|g|mg|s|h|hr|hrs|min|mph|kph|l|L|ml|mL|ft|in|lb|lbs|oz|th|st|nd|rd|am|pm|m2|m3|cm2|cm3|k?Wh?)"
)


def after_thought(text: str) -> str:
    """Return the text after the last ``</think>``; without one, the full text."""
    return text.rpartition("</think>")[2]


def answer_region(completion: str, tag: str | None) -> str:
    """Return the part of a completion that may hold the answer: the last ``<tag>``, else the text after the thought."""
    return (tagged(completion, tag) or "") if tag is not None else after_thought(completion)


def without_markup(text: str) -> str:
    """Return a text without bold, italics, code marks, currency signs, and separators of thousands; signs in LaTeX."""
    text = ITALIC.sub(r"\1", BOLD.sub("", text)).replace("`", "").replace("＝", "=")
    text = THOUSANDS.sub("", CURRENCY.sub("", text))
    text = SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    return _without_dollars(_with_fractions(text)).translate(SIGNS)


def boxed_answers(text: str) -> list[str]:
    """Return the last box, and where boxes before it are joined to it by a comma or "and", all of them as one list."""
    last = last_box(text)
    if last is None:
        return []
    parts, rest = [last], text
    while len(parts) < 20:
        rest = rest[: _box_start(rest)].rstrip().rstrip("$").rstrip()
        joined = re.search(r"(?:,|\band|\bor)$", rest[-5:])
        rest = rest[: -len(joined[0])].rstrip().rstrip(",").rstrip().rstrip("$") if joined else ""
        before = last_box(rest)
        if before is None or not rest.endswith("}"):
            break
        parts.insert(0, before)
    return [last] if len(parts) == 1 else [last, ", ".join(parts)]


def stated_answer(text: str) -> str | None:
    """Return the answer that a text without boxes states, as LaTeX; None without one, or for more than one at a choice."""
    for marker in reversed(_markers(text)):
        tail = text[marker.end() : marker.end() + WINDOW]
        begin = FILLER.match(tail)
        start = begin.end() if begin else 0
        corrected = CORRECTION.search(tail, start)
        if corrected and re.search(r"\d", tail[corrected.end() :]):
            return _last_expression(text[marker.end() + corrected.end() :])
        if marker["negated"] or VAGUE.match(tail, start):
            return None
        if START.match(tail, start):
            answer = _leading_expression(tail[start:])
            if answer is not None:
                return answer
    return _last_expression(text)


def stated_text(text: str) -> list[str]:
    """Return the texts that may be a worded answer: what follows the last marker up to the end of its line, and all."""
    markers = _markers(text)
    tail = text[markers[-1].end() :].strip() if markers and not markers[-1]["negated"] else ""
    return [tail.partition("\n")[0][:WINDOW], text.strip()[:WINDOW]]


def as_latex(answer: str) -> str:
    """Return an answer in the form that math-verify reads: no label of a choice, no exponent as programs write it."""
    answer = " ".join(answer.replace("$", " ").split()).rstrip(".,;")
    answer = POWER.sub(lambda match: f"^{{{match[1] or match[2]}}}", answer)
    answer = NUMERIC_TEXT.sub(lambda match: match[1] or match[2], JOINING_TEXT.sub(" , ", answer))
    if marker := MARKER.search(answer):
        answer = answer[marker.end() :].strip(" {}")
    label = LABEL.match(answer)
    if label and answer[label.end() :].strip("{} "):
        answer = answer[label.end() :].strip()
    if mixed := WHOLE_AND_PART.fullmatch(answer):
        return f"{int(mixed[1]) * int(mixed[3]) + int(mixed[2])}/{mixed[3]}"
    scientific = SCIENTIFIC.fullmatch(answer)
    return rf"{scientific[1]} \times 10^{{{int(scientific[2])}}}" if scientific else answer


def folded(answer: str) -> str:
    """Return an answer for comparison as text: no case, spaces, text commands or full stop."""
    return re.sub(r"[\s{}$]+", "", WRAPPED.sub(r"\1", answer)).strip(".,;:*'\"").casefold()


def choice_label(reference: str) -> tuple[str, str] | None:
    """Return letter and text of a reference that is a choice, as ``B``, ``(B)`` or ``(B) 12``; None for any other."""
    text = re.sub(r"[{}]", "", WRAPPED.sub(r"\1", reference.strip().strip("$"))).strip()
    bare = re.fullmatch(rf"\(?\s*([{LETTERS}])\s*[).:]?", text)
    if bare:
        return bare[1], ""
    labelled = re.match(rf"\(([{LETTERS}])\)\s*(?=\S)", text)
    return (labelled[1], text[labelled.end() :]) if labelled else None


def chosen_letter(text: str) -> str | None:
    """Return the letter of the choice that a text without markup makes; None without one, or with several at once."""
    box = last_box(text)
    if box is not None:
        return _leading_letter(re.sub(r"[{}$]|\\[ ,;~]", " ", WRAPPED.sub(r"\1 ", box)).strip())
    for marker in reversed(_markers(text)):
        tail = text[marker.end() : marker.end() + WINDOW]
        begin = FILLER.match(tail)
        start = begin.end() if begin else 0
        if marker["negated"] or VAGUE.match(tail, start):
            return None
        letter = _leading_letter(re.sub(r"[{}$]", "", WRAPPED.sub(r"\1 ", tail[start:])).lstrip())
        if letter:
            return letter
    lines = [line.strip() for line in text[-WINDOW:].splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    named = list(re.finditer(rf"\b(?:[Oo]ption|[Cc]hoice)\s*\(?([{LETTERS}])\b|\(([{LETTERS}])\)", last))
    if named and not re.search(r"\bnot\b|n['’]t\b", last):
        letters = {one[1] or one[2] for one in named}
        return letters.pop() if len(letters) == 1 else None
    return _leading_letter(last)


def _leading_letter(text: str) -> str | None:
    """Return the letter at the start, where it stands for a choice and no second letter follows."""
    match = re.match(
        rf"\(?\s*(?P<letter>[{LETTERS}{LETTERS.lower()}])\s*(?P<mark>[).:,;。]|$|\n|-|–|because\b|since\b|as\b)", text
    )
    if match is None:
        return None
    after = re.match(
        rf"\s*(?:,|and|or|/|&|;)*\s*(?:and\s|or\s)?\s*\(?[{LETTERS}]\b(?!\w)", text[match.end("letter") :].lstrip(").:")
    )
    several = after is not None and re.match(r"\)?\s*(?:,|and\b|or\b|/|&|;)", text[match.end("letter") :]) is not None
    return None if several else match["letter"].upper()


def _leading_expression(text: str) -> str | None:
    """Return the expression at the start of a text; several joined by "and", "or" or a comma as a list."""
    text = text.lstrip("*_ ")
    formulas = _formulas(text)
    if formulas and formulas[0].start() == 0:
        contents = [_content(formulas[0])]
        for before, formula in pairwise(formulas):
            if not BETWEEN.fullmatch(text, before.end(), formula.start()):
                break
            contents.append(_content(formula))
        return ", ".join(contents)
    line = re.split(r"(?<![A-Za-z]\.)(?<=[.!?。])(?=\s|$)|\n|。", text.strip())[0].strip().rstrip(".!?。*_ ")
    if (
        0 < len(line) <= LONGEST_RUN
        and not _words(line)
        and not UNIT.match(line)
        and not re.fullmatch(r"[-+\d.,/]+\s+\S{1,4}", line)
    ):
        return _after_equals(line)
    if "=" in line and not _words(line.rpartition("=")[0]):
        line = line.rpartition("=")[2].strip()
    run = RUN.match(line)
    if run is None:
        return None
    numbers, end = [_value(run[0])], run.end()
    while (joint := BETWEEN.match(line, end)) and (run := RUN.match(line, joint.end())) and _value(run[0]):
        numbers, end = [*numbers, _value(run[0])], run.end()
    return None if None in numbers else ", ".join(str(number) for number in numbers)


def _last_expression(text: str) -> str | None:
    """Return the last formula or number of a text that names no answer."""
    text = text.rstrip()[-4 * WINDOW :]
    digits = max((at for at in range(len(text) - 1, -1, -1) if text[at].isdigit()), default=-1)
    formulas = _formulas(text)
    last = formulas[-1] if formulas else None
    if last is not None and not any(letter.isdigit() for letter in text[last.end() :]):
        contents = [_content(last)]
        for before, formula in zip(formulas[-2::-1], formulas[:0:-1], strict=False):
            if not JOINED.fullmatch(text, before.end(), formula.start()):
                break
            contents.insert(0, _content(before))
        return ", ".join(contents) if len(contents) > 1 else _after_equals(contents[0])
    if digits < 0:
        return None
    line = text[text.rfind("\n", 0, digits) + 1 :].partition("\n")[0][-WINDOW:]
    for run in reversed(list(RUN.finditer(line))):
        if any(letter.isdigit() for letter in run[0]):
            value = _value(_after_words(run[0]))
            if value is not None:
                return value
    return None


def _markers(text: str) -> list[re.Match[str]]:
    return list(MARKER.finditer(text))[-MARKERS:]


def _value(run: str) -> str | None:
    """Return a run of signs as LaTeX: a number without its unit, or an expression without words; else None."""
    run = run.strip("{}\\ ")
    if len(run) > LONGEST_RUN:
        return None
    if run.count("(") != run.count(")"):
        run = run.strip("()")
    unit = UNIT.fullmatch(run)
    if unit:
        return unit["number"]
    return None if _words(run) or not run else run


def _words(text: str) -> list[re.Match[str]]:
    return [word for word in WORDS.finditer(text) if word[0].lower() not in FUNCTIONS]


def _after_words(run: str) -> str:
    """Return the part of a run after its last word apart by a space: of ``falls to -7`` the number."""
    words = [word for word in _words(run) if re.match(r"\s", run[word.end() :])]
    return re.sub(r"^\s*[-+*/^]\s+", "", run[words[-1].end() :]).strip() if words else run


def _after_equals(expression: str) -> str:
    """Return the last side of a chain of equations; an equation or a list of them stays."""
    sides = re.split(r"(?<![\\<>!:])=", expression)
    return sides[-1].strip() if len(sides) > 2 and "," not in expression else expression.strip()


def _formulas(text: str) -> list[re.Match[str]]:
    return list(DELIMITED.finditer(text))


def _content(formula: re.Match[str]) -> str:
    return next(part for part in formula.groups() if part is not None).strip()


def _box_start(text: str) -> int:
    return max(text.rfind("\\boxed"), text.rfind("\\fbox"), text.rfind("\\framebox"))


def _with_fractions(text: str) -> str:
    """Write ½ as a fraction, 1½ as an improper one, and √2 as a command."""

    def improper(match: re.Match[str]) -> str:
        numerator, denominator = map(int, VULGAR[match[2]].split("/"))
        return f"{int(match[1] or 0) * denominator + numerator}/{denominator}"

    return (
        ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", MIXED.sub(improper, text))
        if not text.isascii()
        else text
    )


def _without_dollars(text: str) -> str:
    """Remove the dollar signs of prices.

    A sign opens a formula if no space follows, and closes one if no space comes before and no digit follows (Pandoc's
    rule); of those left over, the ones before a digit are prices.
    """
    if "$" not in text:
        return text
    lines = []
    for line in text.split("\n"):
        places = [match.start() for match in re.finditer(r"\$+", line)] if line.count("$") <= 200 else []
        prices: set[int] = set()
        opened = -1
        for at in places:
            after, before = line[at + 1 : at + 2], line[at - 1 : at]
            if line[at : at + 2] == "$$" or (opened >= 0 and before.strip() and not after.isdigit()):
                opened = -1
            else:
                prices.add(opened)
                opened = at if after.strip() else -1
        prices.add(opened)
        prices = {at for at in prices if at >= 0 and line[at + 1 : at + 2].isdigit()}
        lines.append("".join(letter for at, letter in enumerate(line) if at not in prices) if prices else line)
    return "\n".join(lines)
