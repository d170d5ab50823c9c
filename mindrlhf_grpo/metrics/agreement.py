"""How far the log-probs of training may be from those of sampling, in the first update of a batch: they are of the same weights.

In float32 the largest deviation of a token's ratio from 1 counts. In bfloat16 single tokens scatter by rounding, so the
mean absolute log-ratio counts.
"""

from __future__ import annotations

MAX_RATIO_DEV_FLOAT32 = 0.01
MEAN_LOG_RATIO_BFLOAT16 = 0.2
ACCEPTED = {  # type of the weights -> the metric that is judged, and what is accepted
    "float32": ("ratio/max_dev", MAX_RATIO_DEV_FLOAT32),
    "bfloat16": ("ratio/rollout_gap", MEAN_LOG_RATIO_BFLOAT16),
}
