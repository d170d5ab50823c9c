"""The report reads a run folder, however damaged, and its sentences are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import UserError
from mindrlhf_grpo.report.charts import chart_data, label
from mindrlhf_grpo.report.completions import fitting, pack, spread, whole_groups
from mindrlhf_grpo.report.reading import read_completions, read_run, thinned
from mindrlhf_grpo.report.words import facts, headline, held_out, interval_text, remarks, sentences, span
from mindrlhf_grpo.run.rollout_log import RolloutRecord

MakeRun = Callable[..., Path]


def append(run_dir: Path, *lines: str) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write("".join(line + "\n" for line in lines))


def texts(run_dir: Path, level: str) -> list[str]:
    return [remark.text for remark in remarks(read_run(run_dir)) if remark.level == level]


def test_a_missing_folder_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder"):
        read_run(tmp_path / "nowhere")


def test_an_empty_folder_is_a_run_without_steps(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert (run.steps, run.series, run.rollout_steps) == ([], {}, [])
    assert headline(run) is None
    assert sentences(run) == ["No step has been recorded yet."]
    assert pack(run).steps == {}


def test_later_lines_of_a_step_win_and_steps_are_sorted(tmp_path: Path) -> None:
    append(tmp_path, '{"step": 2, "loss": 1}', '{"step": 1, "loss": 2}', '{"step": 2, "loss": 3, "kl/mean": 4}')
    run = read_run(tmp_path)
    assert run.steps == [1, 2]
    assert run.series == {"loss": [2.0, 3.0], "kl/mean": [None, 4.0]}


def test_unusable_lines_are_counted(make_run: MakeRun) -> None:
    run_dir = make_run(steps=3)
    append(run_dir, "{half", "[]", '{"loss": 1}', '{"step": "x"}', '{"step": true}')
    assert "Not on this page: 5 unreadable lines of metrics.jsonl." in texts(run_dir, "note")


def test_numbers_that_are_not_finite_are_errors(make_run: MakeRun) -> None:
    run_dir = make_run(steps=3)
    append(
        run_dir,
        '{"step": 4, "loss": null}',
        '{"step": 5, "loss": NaN, "entropy": 1e999}',
        '{"step": 6, "kl/mean": "high"}',
    )
    assert texts(run_dir, "error") == [
        "loss was not finite at 2 steps (first 4, last 5).",
        "entropy was not finite at step 5.",
        "kl/mean was not finite at step 6.",
    ]


def test_failures_dead_groups_and_truncation_are_warnings(make_run: MakeRun) -> None:
    run_dir = make_run(steps=10)
    for step in (11, 12, 13, 14, 15):
        append(
            run_dir,
            json.dumps({"step": step, "reward/failures/accuracy": 2, "dead_group_frac": 1, "truncated_frac": 0.75}),
        )
    assert texts(run_dir, "warning") == [
        "Reward 'accuracy' failed on 10 samples; they were given its failure value.",
        "All groups were dead at 5 steps (first 11, last 15): nothing was learned.",
        "75.0% of the completions in the last steps were cut at the token limit.",
    ]


def test_an_unfinished_run_says_how_far_it_came(make_run: MakeRun) -> None:
    run_dir = make_run(steps=12, planned=100, finished=False)
    assert texts(run_dir, "warning") == [
        "Step 12 of 100. There is no summary.json: the run is still going or was interrupted."
    ]
    assert sentences(read_run(run_dir))[0].startswith("GRPO ran 12 of 100 steps in ")


def test_a_run_that_stopped_itself_leads_with_the_reason(make_run: MakeRun) -> None:
    run_dir = make_run(steps=3, finished=False)
    (run_dir / "failure").mkdir()
    (run_dir / "failure/step_9.txt").write_text("old")
    (run_dir / "failure/step_10.txt").write_text("loss is nan\n")
    assert texts(run_dir, "error") == ["The run stopped itself: loss is nan"]


def test_broken_config_and_summary_are_named(make_run: MakeRun) -> None:
    run_dir = make_run(steps=2)
    (run_dir / "config.yaml").write_text("a: [1\n")
    (run_dir / "summary.json").write_text("{")
    run = read_run(run_dir)
    assert run.skipped == ["config.yaml (not readable as YAML)", "summary.json (not readable as JSON)"]
    assert run.config_text == "a: [1\n"


def test_versions_come_from_the_first_lines_of_the_config(make_run: MakeRun) -> None:
    assert read_run(make_run(steps=1)).versions == {"mindrlhf-grpo": "0.1.0", "torch": "2.13.0"}


def test_facts_name_model_task_algorithm_and_backend(make_run: MakeRun) -> None:
    named = dict(facts(read_run(make_run(steps=2))))
    assert named["model"] == "SmolLM2-135M-Instruct"
    assert named["task"] == "addition.py:problems"
    assert (named["algorithm"], named["backend"], named["steps"], named["duration"]) == (
        "grpo trl",
        "torch bfloat16",
        "2",
        "4 min 12 s",
    )


def test_duration_of_a_resumed_run_is_that_of_all_its_steps(tmp_path: Path) -> None:
    append(tmp_path, '{"step": 1, "time/step": 100}', '{"step": 2, "time/step": 50}')
    (tmp_path / "summary.json").write_text('{"seconds": 60}')
    assert dict(facts(read_run(tmp_path)))["duration"] == "2 min 30 s"


def test_headline_is_held_out_accuracy_with_its_uncertainty(make_run: MakeRun) -> None:
    shown = headline(read_run(make_run()))
    assert shown is not None
    assert (shown.what, shown.before, shown.after, shown.change, shown.trend) == (
        "held-out accuracy",
        "26.0%",
        "93.5%",
        "+67.5 points",
        "better",
    )
    assert shown.small_print == "200 problems; 95% intervals 20.4% to 32.5%, then 89.2% to 96.2%"


def test_overlapping_intervals_are_said_to_be_chance() -> None:
    assert interval_text(0.50, 0.55, 50).endswith("They overlap: the change may be due to chance")
    assert "chance" not in interval_text(0.26, 0.9, 200)


def test_an_accuracy_out_of_range_has_the_interval_of_the_nearest_in_range() -> None:
    assert interval_text(-0.5, 1.5, 10) == "10 problems; 95% intervals 0.0% to 27.8%, then 72.2% to 100.0%"


def evaluated(run_dir: Path, *lines: dict[str, float], **summary: float) -> Path:
    """A run with these lines of metrics and this summary."""
    append(run_dir, *(json.dumps(line) for line in lines))
    (run_dir / "summary.json").write_text(json.dumps(summary))
    return run_dir


def test_rewards_that_are_no_accuracy_have_neither_percent_nor_interval(tmp_path: Path) -> None:
    """Newcomer P2, finding F19: the page said "300.0% -> 300.0%, 95% intervals 67.6% to 100.0%"."""
    rewards = {"reward_before": 3.0, "reward_after": 2.5, "problems": 8}
    lines = [{"step": step, "eval/problems": 8, "eval/big/mean": 3.0, "eval/reward/mean": 3.0} for step in (0, 1)]
    run = read_run(evaluated(tmp_path, *lines, **rewards))
    shown = headline(run)
    assert shown is not None
    assert (shown.what, shown.before, shown.after, shown.change, shown.trend, shown.small_print) == (
        "held-out reward", "3.000", "2.500", "-0.500", "worse", "mean over 8 problems",
    )  # fmt: skip
    assert "Held-out reward fell from 3.000 to 2.500." in sentences(run)
    assert [chart["title"] for chart in chart_data(run)["charts"]] == ["Held-out reward"]


def test_rewards_that_were_0_or_1_at_first_are_no_accuracy_later(tmp_path: Path) -> None:
    """Newcomer P2: a partial score begins at 0 everywhere."""
    first = {"step": 0, "eval/problems": 8, "eval/part/mean": 0.0, "eval/reward/mean": 0.0, "eval/accuracy": 0.0}
    second = {"step": 1, "eval/problems": 8, "eval/part/mean": 0.43, "eval/reward/mean": 0.43}
    run = read_run(evaluated(tmp_path, first, second))
    assert held_out(run) == ("reward", 0.0, 0.43)
    assert [chart["series"] for chart in chart_data(run)["charts"]] == [["eval/part/mean"]]


def test_an_older_run_with_accuracies_out_of_range_shows_rewards(tmp_path: Path) -> None:
    summary = {"accuracy_before": -2.0, "accuracy_after": -1.0, "problems": 8}
    run = read_run(evaluated(tmp_path, {"step": 1, "loss": 0.0}, **summary))
    assert held_out(run) == ("reward", -2.0, -1.0)


@pytest.mark.parametrize(("after", "change"), [(0.5, "no change"), (0.50004, "no change"), (0.51, "+1.0 points")])
def test_no_change_is_neither_better_nor_worse(after: float, change: str, tmp_path: Path) -> None:
    """Newcomer, the report: "+0.0 points" was red."""
    summary = {"accuracy_before": 0.5, "accuracy_after": after, "problems": 100}
    run = read_run(evaluated(tmp_path, {"step": 1, "loss": 0.0}, **summary))
    shown = headline(run)
    assert shown is not None
    assert (shown.change, shown.trend) == (change, "same" if change == "no change" else "better")
    said = "Held-out accuracy stayed at 50.0%." if change == "no change" else "rose from 50.0% to 51.0%."
    assert said in " ".join(sentences(run))


def test_shares_of_time_are_of_the_duration_beside_them(tmp_path: Path) -> None:
    """Newcomer P4: the share of the summed steps stood next to the run's duration."""
    lines = [{"step": step, "time/step": 10.0, "time/generate": 5.0, "time/update": 4.0} for step in (1, 2)]
    tokens = [{**line, "tokens/generated": 10} for line in lines]
    text = " ".join(sentences(read_run(evaluated(tmp_path, *tokens, seconds=40.0))))
    assert "ran 2 steps in 40 s." in text
    assert "Generation took 25.0% of this time, the update 20.0%." in text


@pytest.mark.parametrize(
    ("dtype", "gap", "said"),
    [
        ("float32", 0.004, "Engine and policy agreed: largest deviation of a token's ratio from 1 0.004, accepted up to 0.01."),
        ("float32", 0.02, "Engine and policy disagreed: largest deviation of a token's ratio from 1 0.02, accepted up to 0.01."),
        ("bfloat16", 3.4, "Engine and policy agreed: mean gap of log-probs 0.003, accepted up to 0.2."),
    ],
)  # fmt: skip
def test_the_ratio_is_judged(dtype: str, gap: float, said: str, tmp_path: Path) -> None:
    """Newcomer, the report: "first update 3.4, near 0 on-policy" stood without a judgement."""
    append(tmp_path, json.dumps({"step": 1, "ratio/max_dev": gap, "ratio/rollout_gap": 0.003, "loss": 0.0}))
    (tmp_path / "config.yaml").write_text(f"model: {{dtype: {dtype}}}\n")
    assert said in sentences(read_run(tmp_path))


def test_curves_can_be_drawn_over_tokens_epochs_and_minutes(tmp_path: Path) -> None:
    lines = [
        {"step": step, "tokens/generated": 100, "time/step": 30.0, "epoch": step / 4, "loss": 1.0} for step in (1, 2)
    ]
    assert chart_data(read_run(evaluated(tmp_path, {"step": 0, "eval/problems": 3}, *lines)))["across"] == {
        "step": [0, 1, 2], "tokens": [0, 100, 200], "minutes": [0, 0.5, 1.0], "epochs": [0, 0.25, 0.5],
    }  # fmt: skip


def test_headline_without_evaluation_is_training_reward(tmp_path: Path) -> None:
    append(tmp_path, *(json.dumps({"step": step, "reward/mean": step / 10}) for step in range(1, 5)))
    shown = headline(read_run(tmp_path))
    assert shown is not None
    assert (shown.what, shown.before, shown.after, shown.change) == ("training reward", "0.150", "0.350", "+0.200")


def test_accuracy_of_the_untrained_model_starts_the_curve_at_step_zero(make_run: MakeRun) -> None:
    run = read_run(make_run(steps=10))
    assert (run.steps[0], run.series["eval/accuracy"][0], run.series["loss"][0]) == (0, 0.26, None)
    assert held_out(run) == ("accuracy", 0.26, 0.935)


def test_accuracy_after_some_training_is_not_taken_for_that_before(make_run: MakeRun) -> None:
    assert held_out(read_run(make_run(steps=10, finished=False)))[1] is None


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.5, "1 min 0 s"), (3700, "1 h 1 min")])
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_long_runs_are_thinned_but_keep_evaluations_and_the_last_step() -> None:
    kept = thinned(range(1, 20_001), {4322})
    assert len(kept) == 5_002
    assert {1, 4322, 20_000} <= set(kept)


def test_every_recorded_metric_is_drawn_somewhere(make_run: MakeRun) -> None:
    run_dir = make_run(steps=4)
    append(run_dir, '{"step": 5, "critic/value_loss": 1.0}')
    data = chart_data(read_run(run_dir))
    titles = {chart["title"]: chart for chart in data["charts"]}
    assert titles["Reward"]["series"] == ["reward/mean", "reward/accuracy/mean", "reward/format/mean"]
    assert titles["Reward"]["labels"] == ["reward", "accuracy", "format"]
    assert titles["Time per step"]["series"] == [
        f"time/{phase}" for phase in ("generate", "reward", "update", "sync", "save", "other")
    ]
    assert titles["critic/value_loss"]["section"] == "Other"
    assert "Reward failures" not in titles
    assert len(data["steps"]) == len(data["series"]["loss"])


def test_time_outside_the_phases_and_speed_are_derived(tmp_path: Path) -> None:
    append(tmp_path, '{"step": 1, "time/step": 4.0, "time/generate": 1.0, "time/update": 2.5, "tokens/generated": 100}')
    series = chart_data(read_run(tmp_path))["series"]
    assert (series["time/other"], series["tokens/second"]) == ([0.5], [25.0])


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("reward/mean", "reward"),
        ("reward/format/mean", "format"),
        ("reward/failures/format", "format"),
        ("clip_frac/low", "low"),
        ("lr", "lr"),
    ],
)
def test_labels_are_short(name: str, short: str) -> None:
    assert label(name) == short


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [10]), (2, [1, 10]), (4, [1, 4, 7, 10]), (10, list(range(1, 11))), (99, list(range(1, 11)))],
)
def test_steps_are_spread_evenly_with_both_ends(count: int, expected: list[int]) -> None:
    assert spread(range(1, 11), count) == expected


def test_steps_are_dropped_evenly_until_the_page_is_small_enough() -> None:
    packed = dict.fromkeys(range(1, 11), "x" * 100)
    assert fitting(packed, 1_000) == list(range(1, 11))
    assert fitting(packed, 700) == [1, 2, 4, 5, 7, 8, 10]
    assert fitting(packed, 500) == [1, 3, 5, 7, 10]
    assert fitting(packed, 10) == [10]


def test_only_whole_groups_are_shown(make_run: MakeRun) -> None:
    run = read_run(make_run(steps=1, prompts=5, group=8))
    records, bad = read_completions(run, 1)
    assert (len(records), bad) == (40, 0)
    assert [len(group) for group in whole_groups(records, 30)] == [8, 8, 8]
    assert [len(group) for group in whole_groups(records, 3)] == [3]


def test_the_page_says_what_it_leaves_out(make_run: MakeRun) -> None:
    run_dir = make_run(steps=50, prompts=1, group=2)
    with (run_dir / "rollouts/step_50.jsonl").open("a") as file:
        file.write('{"step": 50}\nnonsense\n')
    packed = pack(read_run(run_dir))
    assert packed.note == "40 of 50 logged steps, at most 64 completions of each. 2 unreadable lines skipped."
    assert [min(packed.steps), max(packed.steps)] == [1, 50]


def test_equal_advantages_and_spelt_texts_are_stored_once(make_run: MakeRun) -> None:
    packed = pack(read_run(make_run(steps=1, prompts=1, group=2)))
    rollout = json.loads(packed.steps[1])["groups"][0]["rollouts"][0]
    assert rollout["text"] is None
    assert rollout["a"] == round(rollout["advantage"], 4)
    vocabulary = json.loads(packed.vocabulary)
    assert [vocabulary["pieces"][place] for place in rollout["t"]][-1] in {".", "<|im_end|>"}


def test_records_that_do_not_fit_together_are_unreadable() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        RolloutRecord.model_validate({
            "step": 1, "uid": 1, "sample": 0, "prompt": "", "completion": "", "tokens": ["a"], "ids": [1, 2], "logps": [0.0],
            "advantages": [0.0], "advantage": 0.0, "components": {}, "reward": 0.0, "finish": "stop",
        })  # fmt: skip
