"""Trackers: what reaches metrics.jsonl, what a resume keeps, and that no other tracker can stop a run."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.json_lines import parse_object, read_json_lines, to_json
from mindrlhf_grpo.rewards import RewardTable
from mindrlhf_grpo.run import progress, tracking, wandb_sink
from mindrlhf_grpo.run.completion_table import ShownCompletion, best_and_worst
from mindrlhf_grpo.run.tracking import Tracker, keep_until, silent
from mindrlhf_grpo.types import FinishReason, Prompt, Rollout, RolloutGroup


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def tracker(run_dir: Path, to: list[str] | None = None, *, resume_step: int = 0) -> Tracker:
    return Tracker(run_dir, to or [], config_text="seed: 3\n", steps=10, resume_step=resume_step)


def test_each_step_is_one_line_on_disk_before_the_next(tmp_path: Path) -> None:
    with tracker(tmp_path / "run") as opened:
        opened.log(1, {"reward/mean": 0.5, "tokens/generated": 12})
        assert lines(tmp_path / "run") == [{"step": 1, "reward/mean": 0.5, "tokens/generated": 12}]
        opened.log(2, {"loss": np.float32(0.25)})
        assert lines(tmp_path / "run")[1] == {"step": 2, "loss": 0.25}


def test_values_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with tracker(tmp_path) as opened:
        opened.log(1, {"loss": float("nan"), "kl/mean": float("inf"), "entropy": 1.0})
    assert lines(tmp_path) == [{"step": 1, "loss": None, "kl/mean": None, "entropy": 1.0}]


def test_resume_keeps_lines_up_to_its_step_and_drops_a_half_written_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1,"loss":1.5}\n{"step":2}\n{"step":3}\n{"step":4,"lo')
    with tracker(tmp_path, resume_step=2) as opened:
        opened.log(3, {"loss": 0.5})
    assert lines(tmp_path) == [{"step": 1, "loss": 1.5}, {"step": 2}, {"step": 3, "loss": 0.5}]


def test_a_complete_last_line_without_line_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}')
    keep_until(path, 2)
    assert path.read_bytes() == b'{"step":1}\n{"step":2}\n'


def test_a_fresh_start_drops_the_steps_of_an_abandoned_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step":1}\n{"step":2}\n')
    tracker(tmp_path, resume_step=0).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_interrupted_and_resumed_run_leaves_the_file_of_an_undisturbed_one(tmp_path: Path) -> None:
    for step in range(1, 6):
        with tracker(tmp_path / "cut", resume_step=step - 1) as opened:
            opened.log(step, {"loss": 1 / step})
            opened.log(step + 1, {"loss": 99.0})  # made after the checkpoint, lost with the process
    with tracker(tmp_path / "whole") as opened:
        for step in range(1, 6):
            opened.log(step, {"loss": 1 / step})
    tracker(tmp_path / "cut", resume_step=5).close()
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_silent_tracker_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet = silent()
    quiet.log(1, {"loss": 1.0})
    quiet.note("hello")
    quiet.close()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_each_step_is_one_aligned_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    display = progress.open_display(100, 0)
    display.log(9, {"reward/mean": 0.5, "time/step": 2.0, "tokens/generated": 2468})
    display.log(10, {"reward/mean": -0.25, "time/step": 4.0, "tokens/generated": 400, "eval/accuracy": 0.75})
    shown = capsys.readouterr()
    first, second = shown.err.splitlines()
    assert shown.out == ""
    assert first.startswith("step   9/100  reward   0.500    1,234 tok/s     2.00 s/step  eta ")
    assert second.startswith("step  10/100  reward  -0.250      100 tok/s     4.00 s/step  eta ")
    assert second.endswith("accuracy 0.750")


def test_notes_cannot_move_the_cursor_or_start_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress.Lines(10, 0).note("reward failed on '\x1b[2J\u202edone\nstep 9'")
    assert capsys.readouterr().err == "reward failed on '\\x1b[2J\\u202edone\\nstep 9'\n"


def test_bar_shows_figures_and_notes_on_a_terminal() -> None:
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    bar = progress.Bar(Console(file=screen, force_terminal=True, width=120), 4, 1)
    bar.log(2, {"reward/mean": 0.5, "time/step": 1.0, "tokens/generated": 1000})
    bar.note("[bold]held-out[/bold] accuracy 0.25")
    bar.close()
    assert "2/4" in screen.getvalue()
    assert "reward   0.500    1,000 tok/s" in screen.getvalue()
    assert "[bold]held-out[/bold] accuracy 0.25" in screen.getvalue()


def test_time_left_follows_the_pace_of_recent_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = progress.Pace(10, 2)
    now[0] = 6.0
    assert pace.seconds_left(4) == pytest.approx(18.0)  # 3 s a step, 6 steps left


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_clock(seconds: float | None, text: str) -> None:
    assert progress.clock(seconds) == text


def test_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'mlflow' is unknown; accepted: wandb, wandb-offline, tensorboard"):
        tracker(tmp_path, ["mlflow"])


@pytest.mark.parametrize("name", ["wandb", "wandb-offline", "tensorboard"])
def test_missing_package_is_one_warning_and_the_run_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    with tracker(tmp_path, [name]) as opened:
        opened.log(1, {"loss": 1.0})
        opened.log(2, {"loss": 1.0})
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert f"tracker {name} is off: pip install 'mindrlhf-grpo[" in warnings[0]
    assert len(lines(tmp_path)) == 2


class FakeWandb(types.ModuleType):
    """Stands for the ``wandb`` package with a network that behaves as told."""

    def __init__(self, behaviour: str) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.util.spec_from_loader("wandb", loader=None)
        self.behaviour, self.calls, self.forever = behaviour, [], threading.Event()

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def Table(self, **table: Any) -> dict[str, Any]:
        return table

    def init(self, **settings: Any) -> FakeWandb:
        self.calls.append(settings)
        if self.behaviour == "refuse":
            raise ConnectionError("no route to host")
        if self.behaviour == "hang":
            self.forever.wait()
        return self

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        self.calls.append((step, metrics))
        if self.behaviour == "die":
            raise BrokenPipeError("gone")

    def finish(self) -> None:
        self.calls.append("finish")


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeWandb:
    fake = FakeWandb(request.param)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wandb_sink, "CLOSE_SECONDS", 0.3)
    return fake


@pytest.mark.parametrize("fake_wandb", ["well"], indirect=True)
def test_wandb_gets_every_step_and_keeps_its_identity_on_resume(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    for step in (1, 2):
        with tracker(tmp_path, ["wandb"], resume_step=step - 1) as opened:
            opened.log(step, {"loss": 0.5})
    first, second = (call for call in fake_wandb.calls if isinstance(call, dict))
    assert first["id"] == second["id"]
    assert first["config"] == {"seed": 3}
    assert (first["mode"], first["project"]) == ("online", "mindrlhf-grpo")
    assert [call for call in fake_wandb.calls if not isinstance(call, dict)] == [
        (1, {"loss": 0.5}), "finish", (2, {"loss": 0.5}), "finish",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fake_wandb", "reason"),
    [
        ("refuse", "ConnectionError: no route to host"),
        ("die", "BrokenPipeError: gone"),
        ("hang", "it did not finish in 0 s"),
    ],
    indirect=["fake_wandb"],
)
def test_wandb_that_fails_or_hangs_is_one_warning(
    fake_wandb: FakeWandb, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracker(tmp_path, ["wandb"]) as opened:
        for step in range(1, 6):
            opened.log(step, {"loss": 1.0})
    fake_wandb.forever.set()
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [f"warning: tracker wandb is off: {reason}. metrics.jsonl goes on"]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("fake_wandb", ["well"], indirect=True)
def test_wandb_without_a_key_in_the_environment_is_off(
    fake_wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    tracker(tmp_path, ["wandb"]).close()
    assert "WANDB_API_KEY is not set" in capsys.readouterr().err
    assert fake_wandb.calls == []


@pytest.mark.parametrize("fake_wandb", ["well"], indirect=True)
def test_wandb_offline_needs_no_key(fake_wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    tracker(tmp_path, ["wandb-offline"]).close()
    assert fake_wandb.calls[0]["mode"] == "offline"


@pytest.mark.parametrize("fake_wandb", ["well"], indirect=True)
@pytest.mark.parametrize(("mode", "sent"), [("offline", "offline"), ("dryrun", "offline"), ("online", "online")])
def test_name_and_mode_of_the_environment_reach_wandb(
    fake_wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, sent: str
) -> None:
    """Finding F7: WANDB_NAME and WANDB_MODE had no effect; the name was always the folder's."""
    monkeypatch.setenv("WANDB_NAME", "my run")
    monkeypatch.setenv("WANDB_MODE", mode)
    tracker(tmp_path, ["wandb"]).close()
    assert (fake_wandb.calls[0]["name"], fake_wandb.calls[0]["mode"]) == ("my run", sent)


@pytest.mark.parametrize("fake_wandb", ["well"], indirect=True)
def test_wandb_is_off_where_the_environment_disables_it_and_other_modes_are_refused(
    fake_wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker(tmp_path, ["wandb", "wandb-offline"]).close()
    assert fake_wandb.calls == []
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ConfigError, match="WANDB_MODE is 'sometimes'; accepted: online, offline"):
        tracker(tmp_path, ["wandb"])


@pytest.mark.parametrize("fake_wandb", ["well"], indirect=True)
def test_completions_are_a_table_in_wandb_and_are_made_only_for_it(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    """Finding P2 (trackers): Weights & Biases got numbers only."""
    row = [1, "1+2=", "3", 1.0, 0.5, "stop"]
    with tracker(tmp_path / "run", ["wandb"]) as opened:
        opened.completion_table(1, lambda: [row])
        opened.log(1, {"loss": 0.5})
    columns = ["step", "prompt", "completion", "reward", "advantage", "finish"]
    assert fake_wandb.calls[1] == (1, {"completions": {"columns": columns, "data": [row]}})
    with tracker(tmp_path / "other") as opened:
        opened.completion_table(1, lambda: pytest.fail("no tracker has a table"))


def test_tensorboard_reads_back_the_scalars_and_forgets_steps_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracker(tmp_path, ["tensorboard"]) as opened:
        for step in (1, 2, 3):
            opened.log(step, {"reward/mean": step / 4, "loss": float("nan")})
    with tracker(tmp_path, ["tensorboard"], resume_step=1) as opened:
        opened.log(2, {"reward/mean": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.25), (2, 0.75)]
    assert events.Tags()["scalars"] == ["reward/mean"]


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        '{"text":"a\u2028b\x85c"}\n\n[1]\nnot json\n{"n":NaN}\n'.encode() + b'{"text":"\xff"}\n' + b"[" * 99_999
    )
    found = read_json_lines(path)
    assert found.rows == [{"text": "a\u2028b\x85c"}, {"n": None}]
    assert found.bad == [3, 4, 6, 7]


def test_json_lines_are_ascii_and_finite() -> None:
    assert to_json({"a": [1.5, float("nan")], "b": "é\u2028\x00"}) == '{"a":[1.5,null],"b":"\\u00e9\\u2028\\u0000"}'
    assert parse_object(b'{"a": Infinity}') == {"a": None}


FIGURES = {"reward/mean": 0.5, "loss": -0.0012, "kl/mean": 0.0034, "time/step": 1.0, "tokens/generated": 1000}


def test_the_line_of_a_step_has_loss_and_kl() -> None:
    """Finding F19: loss and KL were in metrics.jsonl only."""
    said = progress.status(FIGURES, 60.0)
    assert said == "reward   0.500  loss  -0.0012  kl  0.0034    1,000 tok/s     1.00 s/step  eta     1:00"
    offline = {"loss": 0.7, "tokens/read": 500, "time/step": 1.0, "eval/accuracy": 0.9}
    assert progress.status(offline, None) == (
        "loss   0.700      500 tok/s     1.00 s/step  eta        -  accuracy 0.900"
    )
    assert progress.status({"eval/reward/mean": -0.024}, None).endswith("held-out reward -0.024")  # F19: no accuracy


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_the_bar_keeps_steps_and_time_left_in_a_narrow_terminal(columns: int) -> None:
    """Newcomer P4: 80 columns lost the number of steps, 60 the time left."""
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    bar = progress.Bar(Console(file=screen, force_terminal=True, width=columns), 1000, 0)
    bar.log(999, FIGURES | {"eval/accuracy": 0.91})
    bar.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    line = [line for line in plain.splitlines() if "999" in line][-1]
    assert "step  999/1000" in line
    assert "eta     0:00" in line
    assert len(line) <= columns
    assert "…" not in line
    assert ("tok/s" in line, "accuracy 0.910" in line) == (columns >= 160, columns >= 80)


def test_messages_of_loading_are_shown_before_there_is_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """Newcomer P4: there was no line between the start and the first evaluation."""
    tracking.before_the_run().note("loading models/x")
    assert capsys.readouterr().err == "loading models/x\n"


def test_completions_are_printed_as_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ShownCompletion("1+1=", "[red]2[/red]\x1b[2J", 1.0), ShownCompletion("1+1=", "3", None)]
    progress.Lines(3, 0).completions("completions of step 1", rows)
    said = capsys.readouterr().err
    assert "completions of step 1" in said
    assert "[red]2[/red]\\x1b[2J" in said
    assert "1.000" in said


def test_of_each_prompt_the_best_and_the_worst_completion_are_shown() -> None:
    def group(number: int, *texts: str) -> RolloutGroup:
        ids, logps = np.zeros(1, np.int64), np.zeros(1, np.float32)
        prompt = Prompt(uid=number, ids=ids, text="p" * 200, columns={}, row=number)
        sampled = [
            Rollout(ids=ids, logps=logps, finish=FinishReason.STOP, text=text, sample=at, weight_version=0)
            for at, text in enumerate(texts)
        ]
        return RolloutGroup(prompt=prompt, rollouts=tuple(sampled))

    rewards = np.array([0.5, 2.0, -1.0, np.nan, np.nan, 7.0])[:, None, None]
    table = RewardTable(names=("a",), weights=np.ones(1), values=rewards)
    shown = best_and_worst([group(0, "a", "b", "c"), group(1, "d", "e"), group(2, "f")], table)
    assert [(row.completion, row.reward) for row in shown] == [("b", 2.0), ("c", -1.0), ("e", None), ("d", None)]
    assert shown[0].prompt == "…" + "p" * 160
