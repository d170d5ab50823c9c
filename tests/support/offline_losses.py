"""Offline losses on two pairs, with the numbers that their formulas give: one table for every array library.

Chosen and rejected have 3, 2, 2 and 1 tokens; log-ratios are 1, -0.75, -0.75, 0.5. What stands past the masks must not
count: it is NaN. ``EXPECTED`` was computed from the formulas with scalars, apart from the code under test.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mindrlhf_grpo.algorithms.offline import aot, bco, dpo, kto, reference_free, reward_models
from mindrlhf_grpo.losses import preference
from mindrlhf_grpo.losses.supervised import NegativeLogLikelihood

NAN = float("nan")
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]], np.float64)
LOGPS = np.array([[-0.5, -0.25, -1.0], [-1.5, -0.75, NAN], [-2.0, -0.5, NAN], [-0.25, NAN, NAN]])
REF = np.array([[-1.0, -0.75, -1.0], [-1.0, -0.5, NAN], [-1.5, -0.25, NAN], [-0.75, NAN, NAN]])
VALUES = np.array([[0.3, 0.6, 1.2], [0.1, -0.4, NAN], [-0.7, 0.2, NAN], [0.9, NAN, NAN]])
LAST = np.array([[0, 0, 1], [0, 1, 0], [0, 1, 0], [1, 0, 0]], np.float64)


def rowwise(*numbers: float) -> np.ndarray:
    """A number for each row, written to every token."""
    return np.repeat(np.array(numbers, np.float64)[:, None], 3, axis=1)


CHOSEN = rowwise(1, 0, 1, 0)
PAIRS = {"mask": MASK, "weights": MASK * CHOSEN / 5, "row_weight": rowwise(0.5, 0.5, 0.5, 0.5)}
REFERENCE = {"ref_logps": REF}
LABELLED = {"mask": MASK, "row_weight": rowwise(0.25, 0.25, 0.25, 0.25), "label": CHOSEN}
SCORED = {"last": LAST, "mask": MASK, "row_weight": PAIRS["row_weight"]}

# name -> loss, outputs, tensors
CASES: dict[str, tuple[Any, np.ndarray, dict[str, np.ndarray]]] = {
    "sigmoid": (preference.Sigmoid(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "reference_free": (preference.Sigmoid(beta=0.5, reference_free=True), LOGPS, PAIRS),
    "sft": (preference.Sigmoid(beta=0.5, sft_coef=0.3), LOGPS, PAIRS | REFERENCE),
    "sigmoid_norm": (dpo.SigmoidNorm(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "cdpo": (dpo.CDPO(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "robust": (dpo.Robust(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "hinge": (dpo.Hinge(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "ipo": (dpo.IPO(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "ipo_sum": (dpo.IPOSum(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "apo_zero": (dpo.APOZero(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "apo_down": (dpo.APODown(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "nca_pair": (dpo.NCAPair(beta=0.5), LOGPS, PAIRS | REFERENCE),
    # with a mean log-ratio of 0.25
    "bco_pair": (
        bco.BCOPair(beta=0.5), LOGPS, PAIRS | REFERENCE | {"baseline": rowwise(0.25, 0.25, 0.25, 0.25)},
    ),
    "sppo_hard": (dpo.SPPOHard(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "exo_pair": (dpo.EXOPair(beta=0.5), LOGPS, PAIRS | REFERENCE),
    "discopop": (dpo.DiscoPOP(beta=0.5), LOGPS, PAIRS | REFERENCE),
    # log-ratios of the policy 0.5 and -2.25, of the reference -1.25 and -1: the lower meets the lower
    "aot": (
        aot.AOT(beta=0.5, label_smoothing=0.1), LOGPS, PAIRS | REFERENCE | {"partner": rowwise(0.25, 0, -0.25, 0)},
    ),
    # chosen 1 and -0.75, rejected -0.75 and 0.5
    "aot_unpaired": (
        aot.AOTUnpaired(beta=0.5, label_smoothing=0.1), LOGPS,
        PAIRS | REFERENCE | {"partner": rowwise(0.5, -0.75, -0.75, 1.0)},
    ),
    "simpo": (reference_free.SimPO(), LOGPS, PAIRS),
    "orpo": (reference_free.ORPO(beta=0.5), LOGPS, PAIRS),
    "kto": (
        kto.KTO(beta=0.5, desirable=1.5, undesirable=0.5), LOGPS,
        LABELLED | REFERENCE | {"baseline": rowwise(0.2, 0.2, 0.2, 0.2)},
    ),
    "bradley_terry": (reward_models.BradleyTerry(), VALUES, SCORED),
    "bradley_terry_margin": (reward_models.BradleyTerry(), VALUES, SCORED | {"margin": rowwise(0.5, 0.5, 1.0, 1.0)}),
    "bradley_terry_centred": (reward_models.BradleyTerry(centering=0.01), VALUES, SCORED),
    "logexp": (reward_models.LogExp(), VALUES, SCORED),
    "bce": (reward_models.BinaryCrossEntropy(), VALUES, LABELLED | {"last": LAST}),
    "nll": (NegativeLogLikelihood(), LOGPS, {"mask": MASK, "weights": MASK / 8}),
}  # fmt: skip

EXPECTED = {
    "sigmoid": 0.701072629641,
    "reference_free": 0.991044778064,
    "sft": 0.956072629641,
    "sigmoid_norm": 0.733648190341,
    "cdpo": 0.713572629641,
    "robust": 0.685447629641,
    "hinge": 0.875,
    "ipo": 1.800347222222,
    "ipo_sum": 2.8125,
    "apo_zero": 0.969858584842,
    "apo_down": 0.987681284038,
    "nca_pair": 1.397665857245,
    "bco_pair": 1.364438133909,
    "sppo_hard": 2.6875,
    "exo_pair": 2.640166710112,
    "discopop": 0.735282865877,
    "aot": 0.692973995148,
    "aot_unpaired": 0.647043300219,
    "simpo": 1.511157619874,
    "orpo": 1.500431825928,
    "kto": 0.496812484256,
    "bradley_terry": 0.643543394887,
    "bradley_terry_margin": 1.077560677251,
    "bradley_terry_centred": 0.652793394887,
    "logexp": 0.643543394887,
    "bce": 0.653897615963,
    "nll": 0.84375,
}

# Sums that go with the loss, of one case of each kind
EXPECTED_SUMS = {
    "sigmoid": {
        "pairs": 2.0, "accuracy": 1.0, "margin": 0.25, "reward_chosen": 0.125, "reward_rejected": -0.125,
        "logp_chosen": -4.25, "logp_rejected": -2.5,
    },
    "kto": {
        "rows": 4.0, "accuracy": 2.0, "desirable": 2.0, "undesirable": 2.0, "reward_desirable": 0.125, "reward_undesirable": -0.125,
        "baseline": 0.8,
    },
    "bradley_terry": {"pairs": 2.0, "accuracy": 1.0, "margin": 0.9, "score_chosen": 1.4, "score_rejected": 0.5},
    "bce": {"rows": 4.0, "accuracy": 3.0, "score": 1.9, "label": 2.0},
    "nll": {"nll": 6.75},
}  # fmt: skip
