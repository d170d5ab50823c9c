"""The acceptance table of each recipe: its rows, each with a promise that a test must show.

A test names its row with ``@pytest.mark.row(recipe, name)``; ``coverage_page.py`` writes the map of them.
"""

from __future__ import annotations

ROWS: dict[str, dict[str, str]] = {
    "safework": {
        "Recipe parse": "every form of naming the judges gives the same registry; a shared path loads once",
        "Routing": "labels with fixed scores give exact totals; an unknown label is an error",
        "Judge parsing": "texts of the five judges become scores",
        "Custom RM": "a class in the user's file is a judge, by tensor or by mapping",
        "Format/rule": "edge cases of think blocks and boxed answers",
        "DAPO": "overlong penalty; degenerate groups masked or replaced",
        "ZeRO/FSDP flags": "two sharded processes equal one; stages 1 to 3 are accepted",
        "Co-location": "an actor and five judges, one at a time",
        "End-to-end": "format reward from below 0.2 to above 0.8",
        "Multimodal": "images and text in one batch; a frozen vision tower stays as it was",
        "Resume/W&B": "a killed run goes on; offline Weights & Biases needs no network",
    },
    "raiden": {
        "Profile parsing": "the sample line and eight edge cases",
        "Language": "twelve texts",
        "Generators": "counts and types against a server; Bedrock by an injected client",
        "Split": "8 and 2 of 10, the same for a seed",
        "VRAR": "golden rewards of both profiles in four languages",
        "Trainers A/B": "reward up by 0.3; the same data by YAML and by flags",
        "Evaluate": "SBK 0.5, CM 1.0; null where there is none",
        "Accelerate": "two processes finish with one checkpoint",
    },
    "ups_rm": {
        "Preprocess": "three subsets; columns, counts, split, order",
        "Check scripts": "data and reward model are checked; another model type fails",
        "RM shapes": "every shape of scores gives one number; padding does not matter",
        "Sign": "golden table; more unsafe is lower; one number a row",
        "Template switch": "two tokenizers; end token removed; over-long cut on the right",
        "KL in reward": "score minus beta times KL",
        "Training": "the policy loses the word that the reward model knows",
        "Group log": "a file each ten steps, bounded",
        "Backends": "MindSpore and PyTorch read the same score",
    },
    "mindrlhf": {
        "Facade": "both snippets run unmodified",
        "Backend parity": "logits, log-probs, losses and a step are equal",
        "GRPO": "packed equals unpacked; reward up",
        "PPO": "advantages by hand; sign of the KL; shared and separate critic",
        "DPO/RM": "golden losses; margin grows; accuracy above 0.9",
        "Matrix": "every algorithm on every family",
        "Incremental/reshard/swap/resume": "the system features",
        "YAML": "files of both generations; unknown keys; two configurations; overrides",
    },
    "safe_rank": {
        "Seed example": "the table of three films",
        "Rewards": "every form of relevance, safety and count",
        "Oracle": "thresholds, titles, identifiers, unknown films",
        "Spans": "tokens of items through every kind of line",
        "Locality": "a penalty at rank 3 leaves ranks 1 and 2 alone",
        "grpo/gdpo": "golden advantages; gdpo does not see lambda",
        "Distributed": "two processes have one's advantages",
        "LoRA": "the reference is the adapter switched off",
        "End-to-end": "violations from above 30 % to below 5 %, recall kept, both modes",
        "CLI": "the commands; a mismatch stops; the schedule",
    },
}  # fmt: skip
