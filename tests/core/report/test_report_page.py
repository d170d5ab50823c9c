"""The page itself: self-contained, small, and deaf to what hostile text asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.json_lines import to_json
from mindrlhf_grpo.report import completions, render
from mindrlhf_grpo.report.page import FOLDER, SCRIPTS, asset, escaped, policy
from mindrlhf_grpo.run.printable import printable

MakeRun = Callable[..., Path]

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<!-- <script>",
    "<img src=x onerror=window.hacked=1>",
    '<a href="javascript:window.hacked=1">x</a>',
    "' onmouseover='window.hacked=1",
    "]]><svg onload=window.hacked=1>",
    "{{7*7}} {% for x in y %}",
    "\u202egnp.exe\u200b\u2028\u2029\ufeff",
    "a\x00b\x1b[2J",
    "__proto__",
    "&lt;b&gt; &#x3c;",
]


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, its text, and the texts of the data blocks."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1][1].get("type") == "application/json" and data.strip():
            self.blocks.append(data)


def page_of(run_dir: Path) -> str:
    return render(run_dir).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_element_and_no_attribute(text: str, make_run: MakeRun) -> None:
    plain = Elements(page_of(make_run("plain", steps=2, prompts=1, group=2, hostile="x")))
    hostile = Elements(page_of(make_run("plain", steps=2, prompts=1, group=2, hostile=text)))
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.tags] == [
        (tag, sorted(attributes)) for tag, attributes in plain.tags
    ]
    assert printable(text) in hostile.text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_survives_in_the_data_unchanged(text: str, make_run: MakeRun) -> None:
    blocks = [
        json.loads(block) for block in Elements(page_of(make_run(steps=1, prompts=1, group=2, hostile=text))).blocks
    ]
    (step,) = (block for block in blocks if "groups" in block)
    assert text in step["groups"][0]["prompt"]
    assert text in step["groups"][0]["columns"].values()
    assert f"format{text}" in step["groups"][0]["rollouts"][0]["components"]


@given(st.text())
def test_embedded_json_is_inert_and_exact(text: str) -> None:
    embedded = escaped(to_json({"a": text}))
    assert not set(embedded) & set("<>&")
    assert embedded.isascii()
    assert not re.search("[\x00-\x1f]", embedded)
    assert json.loads(embedded) == {"a": text}


def test_only_the_shipped_scripts_and_style_may_run(make_run: MakeRun) -> None:
    page = page_of(make_run(steps=1))
    (content,) = (a["content"] for tag, a in Elements(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert content is not None
    assert content.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in content
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(hashes) == len(SCRIPTS)
    assert all(f"'sha256-{one}'" in content for one in hashes)


def test_the_page_asks_for_nothing_from_outside(make_run: MakeRun) -> None:
    for tag, attributes in Elements(page_of(make_run(steps=2))).tags:
        assert not {"src", "action", "data", "style"} & attributes.keys(), tag
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_put_text_on_the_page_as_text_only(name: str) -> None:
    source = asset(name)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|</script|<!--", source
    )
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|sendBeacon|\bimport\b|localStorage", source)


@pytest.mark.parametrize(
    "path", [path for path in FOLDER.iterdir() if path.suffix in {".js", ".css", ".html"}], ids=lambda path: path.name
)
def test_assets_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400


def test_policy_names_each_text() -> None:
    assert policy("", ["a"]).count("sha256-") == 2


def test_completions_beyond_the_budget_leave_the_page_by_whole_steps(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "MAX_BYTES", 1_000_000)
    run_dir = make_run(steps=8, prompts=1, group=16, tokens=3_000)
    path = render(run_dir)
    shown = [int(a["data-step"] or 0) for _, a in Elements(path.read_text()).tags if a.get("class") == "rollouts"]
    assert 1 < len(shown) < 8
    assert (shown[0], shown[-1]) == (1, 8)
    assert f"{len(shown)} of 8 logged steps" in path.read_text()
    assert path.stat().st_size < 1_150_000


def test_a_run_of_two_thousand_steps_stays_light(make_run: MakeRun) -> None:
    path = render(make_run(steps=2000, prompts=4, group=16, tokens=100, rollout_steps=list(range(50, 2001, 50))))
    assert path.stat().st_size < 4_000_000


def test_rendering_again_replaces_the_page(make_run: MakeRun) -> None:
    run_dir = make_run(steps=1)
    assert render(run_dir) == render(run_dir) == run_dir / "report.html"
    assert not list(run_dir.glob("*.partial"))


def test_damaged_runs_render_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n{")
    (tmp_path / "config.yaml").write_bytes(b"\x00\xff: [")
    (tmp_path / "summary.json").write_text('{"accuracy_before": "high", "warnings": 3, "seconds": null}')
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts/step_1.jsonl").write_text("junk\n")
    (tmp_path / "rollouts/step_x.jsonl").write_text("junk\n")
    page = page_of(tmp_path)
    assert "No step has been recorded yet." in page
    assert "2 unreadable lines of metrics.jsonl; config.yaml (not readable as YAML)" in page
    assert "No completions are on disk that can be read." in page


def test_empty_folder_renders(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "No step has been recorded in metrics.jsonl yet" in page
    assert "There is no config.yaml" in page
