"""What ends a run early, and which metrics of an update exist."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mindrlhf_grpo.backend import UpdateResult
from mindrlhf_grpo.config.run import EvalConfig
from mindrlhf_grpo.run.folder import Progress
from mindrlhf_grpo.trainers.session import RunSession
from mindrlhf_grpo.trainers.step_metrics import update_metrics


@pytest.mark.parametrize(
    ("patience", "best_step", "step", "stops"),
    [(2, 10, 15, False), (2, 10, 20, True), (2, 10, 10, False), (0, 10, 100, False), (2, None, 20, False)],
)
def test_a_run_stops_after_evaluations_without_a_better_metric(
    patience: int, best_step: int | None, step: int, stops: bool
) -> None:
    """Finding P2 (features): there was no early stop by patience."""
    session = RunSession.__new__(RunSession)
    session.config = SimpleNamespace(eval=EvalConfig(source="rows.jsonl", every=5, patience=patience))  # type: ignore[assignment]
    session.progress = Progress(step=step, best_step=best_step)
    session.stop_without_progress(step)
    text = session.progress.stopped_because
    assert (text is not None) == stops
    assert text is None or text == "no better held-out metric in 2 evaluations since step 10 (eval.patience)"


def test_the_kl_is_left_out_where_no_reference_measured_it() -> None:
    """Finding P3.5: ``kl/mean`` was 0.0, and the report drew a distance of 0 from a reference that was not loaded."""
    sums = {"tokens": 4.0, "entropy": 2.0, "ratio": 4.0}
    assert "kl/mean" not in update_metrics([UpdateResult(loss=0.5, grad_norm=1.0, sums=sums)])
    measured = update_metrics([UpdateResult(loss=0.5, grad_norm=1.0, sums={**sums, "kl": 1.0})])
    assert measured["kl/mean"] == 0.25
