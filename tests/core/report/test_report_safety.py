"""Safety in the report: rates with intervals, alarms in words and on the curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mindrlhf_grpo.report import render
from mindrlhf_grpo.report.charts import chart_data
from mindrlhf_grpo.report.reading import read_run
from mindrlhf_grpo.report.safety import note, rates, spans
from mindrlhf_grpo.report.words import remarks
from tests.support.report_rows import with_safety

MakeRun = Callable[..., Path]


def test_rates_are_told_before_and_after(make_run: MakeRun) -> None:
    run = read_run(with_safety(make_run(steps=20), range(0)))
    compliance, refusal = rates(run)
    assert (compliance.what, compliance.prompts, compliance.change) == (
        "Harmful prompts complied with",
        "120",
        "+16.0 points",
    )
    assert (compliance.before, compliance.after) == ("14.0% (9.0% to 22.0%)", "30.0% (25.0% to 38.0%)")
    assert (refusal.before, refusal.after, refusal.change) == ("25.0%", "25.0%", "+0.0 points")
    assert note(run) == "Held-out prompts, 95% intervals. No alarm sounded."


def test_the_untrained_models_rates_come_from_the_summary(make_run: MakeRun) -> None:
    run_dir = with_safety(make_run(steps=8), range(0))
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["held_out"] = {"before": {"eval/safety/harmful_compliance": 0.5, "eval/accuracy": 0.26}}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    run = read_run(run_dir)
    assert run.steps[0] == 0
    assert rates(run)[0].before == "50.0%"


def test_alarms_are_told_by_their_steps_and_shown_on_their_curves(make_run: MakeRun) -> None:
    run = read_run(with_safety(make_run(steps=20), range(9, 14), by_phrases=1.0))
    told = "held_out_falls, steps 9 to 13: training reward rose while a held-out figure got worse."
    assert [span.text for span in spans(run)] == [told]
    assert note(run).endswith("table of phrases, which misses some.")
    charts = {chart["title"]: chart for chart in chart_data(run)["charts"]}
    assert charts["Reward"]["alarms"] == charts["Safety, held-out"]["alarms"] == [[9, 13, told]]
    assert charts["Loss"]["alarms"] == []
    assert charts["Safety, held-out"]["bands"] == {
        "eval/safety/harmful_compliance": ["eval/safety/harmful_compliance/low", "eval/safety/harmful_compliance/high"]
    }
    assert not [title for title in charts if "alarm" in title or "prompts" in title or title.endswith(("low", "high"))]


def test_why_an_alarm_sounded_is_a_warning_at_the_top(make_run: MakeRun) -> None:
    run_dir = make_run(steps=5)
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["warnings"].append("alarm kl_explodes at step 3: KL went from 0.02 to 3")
    (run_dir / "summary.json").write_text(json.dumps(summary))
    assert [remark.level for remark in remarks(read_run(run_dir)) if "kl_explodes" in remark.text] == ["warning"]


def test_the_page_has_the_section_only_where_there_is_something_to_say(make_run: MakeRun, tmp_path: Path) -> None:
    page = render(with_safety(make_run(steps=20), range(9, 10))).read_text()
    assert '<section id="safety">' in page
    assert "held_out_falls, step 9: training reward rose" in page
    assert "14.0% (9.0% to 22.0%)" in page
    assert '<section id="safety">' not in render(make_run(tmp_path / "plain", steps=5)).read_text()
