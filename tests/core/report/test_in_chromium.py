"""The page in a real browser: no error, curves and rollouts are there, hostile text stays text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from mindrlhf_grpo.report import render
from tests.support.report_rows import with_safety

MakeRun = Callable[..., Path]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--window-size=1400,2600",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: the report's scripts were not run in a browser here"
)

HOSTILE = "<script>document.documentElement.dataset.hacked=1</script></script><!--<img src=x onerror=document.documentElement.dataset.hacked=1>\u202e\u200b\u2028\x00"


def dom(run_dir: Path, profile: Path, fragment: str = "") -> str:
    """The page's elements after its scripts have run; fails on any error in page or console."""
    url = render(run_dir).as_uri() + fragment
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert 'data-errors=""' in done.stdout[:300], done.stdout[:300]
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def test_curves_and_rollouts_are_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    page = dom(make_run(steps=12, prompts=3, group=4), tmp_path / "profile")
    charts = re.findall(r'data-chart="([^"]+)"', page)
    assert charts[:3] == ["Reward", "Held-out accuracy", "Reward spread"]
    assert len(charts) >= 15
    paths = re.findall(r'<path class="n0 ?\w*" d="(M[^"]+)"', page)
    assert len(paths) >= len(charts) - 1
    assert "NaN" not in "".join(paths)
    assert page.count('class="card"') == 4
    assert len(re.findall(r"<li><button", page)) == 3
    assert "step 12" in page
    assert "held-out accuracy" in page


def test_alarms_and_intervals_are_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    page = dom(with_safety(make_run(steps=20), range(9, 14)), tmp_path / "profile")
    reward = page[page.index('data-chart="Reward"') : page.index('data-chart="Held-out accuracy"')]
    assert reward.count('<rect class="alarm"') == 1
    assert "<title>alarm held_out_falls, steps 9 to 13: training reward rose" in reward
    safety = page[page.index('data-chart="Safety, held-out"') : page.index('data-chart="Loss"')]
    assert re.search(r'<path class="n0 band" d="M[^"]+Z"', safety)
    assert "NaN" not in safety


def test_the_address_chooses_step_group_sorting_and_shading(make_run: MakeRun, tmp_path: Path) -> None:
    run_dir = make_run(steps=12, prompts=3, group=4)
    page = dom(run_dir, tmp_path / "profile", "#step=5&group=13&sort=reward-down&shade=logp&theme=dark&q=answer")
    assert 'data-theme="dark"' in page[:300]
    assert "uid 13" in page
    assert '<output id="step-name" for="step">step 5</output>' in page
    rewards = re.findall(r"<small>reward</small><b>([\d.]+)</b>", page)
    assert rewards == sorted(rewards, reverse=True)
    assert re.search(r'<span data-at="\d+" class="[^"]*unlikely" style="--w: ?\d+%', page)
    assert re.search(r'class="hit[^"]*"[^>]*> answer</span>', page)
    assert "3 of 3 groups match" in page


ZOOM = """
const svg = document.querySelector('[data-chart="Held-out accuracy"] svg');
const box = svg.getBoundingClientRect();
svg.setPointerCapture = () => {};
const at = (step) => box.left + 46 + (step / 35) * (box.width - 58);
const fire = (kind, step) => svg.dispatchEvent(new PointerEvent(kind, { clientX: at(step), button: 0, pointerId: 1, bubbles: true }));
fire("pointerdown", 9); fire("pointermove", 12); fire("pointerup", 12);
const root = document.documentElement;
root.dataset.zoomed = svg.querySelector("path").getAttribute("d");
root.dataset.reset = document.getElementById("unzoom").hidden;
svg.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
root.dataset.reset += " " + document.getElementById("unzoom").hidden;
const across = document.getElementById("across");
across.value = "tokens"; across.dispatchEvent(new Event("change"));
root.dataset.labels = [...svg.querySelectorAll("g text")].map((label) => label.textContent).join(" ");
"""


def test_a_zoom_between_two_evaluations_shows_the_curve_and_a_double_click_ends_it(
    make_run: MakeRun, tmp_path: Path
) -> None:
    """Newcomer, the report: such a zoom left an empty chart, and a double click did nothing."""
    run_dir = make_run(steps=35)
    page = render(run_dir).read_text(encoding="utf-8")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # it admits no script of a test
    (run_dir / "driven.html").write_text(page.replace("</body>", f"<script>{ZOOM}</script></body>"), encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    url = (run_dir / "driven.html").as_uri()
    shown = subprocess.run([*command, url], capture_output=True, text=True, timeout=120, check=True).stdout[:2000]
    assert 'data-errors=""' in shown
    zoomed = re.search(r'data-zoomed="M([^"]+)"', shown)
    assert zoomed is not None
    assert zoomed[1].count("L") == 1, "from the evaluation before the window to the one after it"
    assert 'data-reset="false true"' in shown
    assert re.search(r'data-labels="0 [\d.]+K', shown)


def test_hostile_text_is_shown_and_never_run(make_run: MakeRun, tmp_path: Path) -> None:
    page = dom(make_run(steps=2, prompts=1, group=2, hostile=HOSTILE), tmp_path / "profile")
    assert "data-hacked" not in page[:300]
    assert "<img" not in page
    shown = unescape(re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL))
    assert "onerror=document.documentElement.dataset.hacked=1>⟨U+202E⟩⟨U+200B⟩⟨U+2028⟩⟨U+0000⟩" in shown


def test_a_long_run_is_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    run_dir = make_run(steps=2000, prompts=2, group=4, rollout_steps=list(range(100, 2001, 100)))
    page = dom(run_dir, tmp_path / "profile")
    assert page.count("data-chart=") >= 15
    longest = max(len(path) for path in re.findall(r' d="([^"]+)"', page))
    assert longest < 60_000  # two points per pixel at most


def test_empty_and_unfinished_runs_are_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "nothing to draw" in dom(tmp_path / "empty", tmp_path / "profile")
    page = dom(make_run(steps=1, planned=10, finished=False, rollout_steps=[]), tmp_path / "profile")
    assert "Step 1 of 10." in page
    assert page.count("<circle") >= 10


def test_turns_calls_and_observations_are_shown_and_hostile_ones_stay_text(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(steps=2, prompts=1, group=2)
    path = run / "rollouts" / "step_2.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": HOSTILE}}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call], "reward": 0.25},
        {"role": "tool", "name": "search", "content": f"found {HOSTILE}"},
        {"role": "assistant", "content": "the end"},
    ]
    for record in records:
        record["environment_spans"] = [[2, 5]]
        record["episode"] = {"messages": messages, "turns": 2, "calls": {"search": 1}, "failed_calls": 1}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    page = dom(run, tmp_path / "profile")
    assert "data-hacked" not in page
    assert page.count('<ol class="turns"') == 2
    turns = page[page.index('<ol class="turns"') :]
    assert unescape(turns).count("found <script>") >= 1
    assert turns.index("search(query=") < turns.index("found &lt;script") < turns.index("the end")
    assert "reward 0.250</span>" in turns
    first = page[page.index('class="tokens"') :]
    assert len(re.findall(r'<span data-at="\d+" class="foreign">', first[: first.index("</pre>")])) == 3
    assert "2 turns" in page
    assert "1 call failed" in page
