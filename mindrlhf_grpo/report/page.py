"""Renders a run as one HTML file that needs nothing else.

Text from a model or a dataset is treated as hostile. Text in the page goes through jinja2's autoescape; data for
scripts is JSON in which ``<``, ``>``, ``&`` and every non-ASCII character are escapes, and scripts put it on the
page as text nodes only. The content security policy allows exactly the scripts and the style shipped here, by
their hashes, and no network at all: if something slipped through, it could not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .. import __version__
from ..json_lines import replace_file, to_json
from .charts import chart_data
from .completions import pack
from .reading import Run, read_run
from .safety import note, rates, spans
from .words import facts, headline, legend, remarks, sentences, when_kept

FOLDER = Path(__file__).parent
SCRIPTS = ("page.js", "axes.js", "charts.js", "tokens.js", "browser.js")
REPORT = "report.html"


def render(run_dir: Path) -> Path:
    """Write ``RUN/report.html`` from what the run folder holds; an unfinished or damaged run renders too.

    Raises:
        UserError: no such folder.
    """
    replace_file(run_dir / REPORT, html_of(read_run(run_dir)).encode(errors="replace"))
    return run_dir / REPORT


def html_of(run: Run) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    completions = pack(run)
    scripts = {name: asset(name) for name in SCRIPTS}
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        name=run.path.resolve().name,
        headline=headline(run),
        sentences=sentences(run),
        facts=facts(run),
        remarks=remarks(run),
        rates=rates(run),
        alarms=[span.text for span in spans(run)],
        safety_note=note(run),
        versions=run.versions,
        config_text=run.config_text,
        resolved_text=run.resolved_text,
        has_steps=bool(run.steps),
        note=f"{completions.note} {legend(run)}".strip() if completions.note else "",
        when_kept=when_kept(run),
        version=__version__,
        policy=policy(asset("style.css"), scripts.values()),
        style=Markup(asset("style.css")),
        scripts={name: Markup(text) for name, text in scripts.items()},
        charts=Markup(escaped(to_json(chart_data(run)))),
        vocabulary=Markup(escaped(completions.vocabulary)),
        rollouts={step: Markup(escaped(text)) for step, text in completions.steps.items()},
    )


@cache
def asset(name: str) -> str:
    """A style sheet or script of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def policy(style: str, scripts: Iterable[str]) -> str:
    """A content security policy that admits these texts and nothing else."""
    allowed = " ".join(f"'{digest(text)}'" for text in scripts)
    return f"default-src 'none'; script-src {allowed}; style-src '{digest(style)}'; base-uri 'none'; form-action 'none'"


def digest(text: str) -> str:
    """Hash of an inline script or style, as a policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def escaped(json_text: str) -> str:
    """ASCII JSON that can stand inside a script element: no character in it means anything to HTML."""
    assert json_text.isascii()
    return json_text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
