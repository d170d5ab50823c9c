"""The reward model: a head trained on frozen embeddings of labelled answers, merged beside its Llama, and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ...backend import load_backend
from ...config.run import ModelConfig, RunConfig
from ...data.rows import BadRow
from ...errors import ConfigError, DataError
from ...model_files.folder import find_folder, read_model_config
from ...rewards.models.reward_model import Scorer, ScorerSettings
from ...rewards.models.written_answers import bare_config, written_group
from .data import rows
from .head_files import merge_head, named_head, read_head, write_head
from .head_training import HeadTraining, train_head

MODEL_TYPE = "myrm"
CODE = "modeling_myrm"  # what a merged folder ships for transformers, see modeling_myrm.py.txt
CLASS = "MyRMForTokenClassification"
AUTO_MAP = {"AutoConfig": f"{CODE}.MyRMConfig", "AutoModelForTokenClassification": f"{CODE}.{CLASS}"}
CHUNK = 1024  # conversations whose tokens are in memory at once
QUESTION = "How can I help someone who is feeling depressed?"
ANSWERS = ("Listen to them, and help them to find support.", "I do not care.")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Responses with labels; ``unlabelled`` counts those left out because they have none."""

    examples: list[tuple[str, str, int]]
    unlabelled: int


def labelled(files: Sequence[str]) -> Labelled:
    """Return (prompt, response, 1 if unsafe) for both responses of each line that have a label.

    Raises:
        DataError: an unreadable line, one without prompt or responses, or a label that is neither true nor false.
    """
    examples: list[tuple[str, str, int]] = []
    unlabelled = 0
    for row in rows(files):
        if isinstance(row, BadRow):
            raise DataError(str(row))
        for side in ("0", "1"):
            name, texts = f"is_response_{side}_safe", [row.get("prompt"), row.get(f"response_{side}")]
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataError(f"{row.place}: prompt and response_{side} must be text")
            safe = row.get(name)
            if safe is None:
                unlabelled += 1
            elif isinstance(safe, bool):
                examples.append((str(texts[0]), str(texts[1]), int(not safe)))
            else:
                raise DataError(f"{row.place}: {name} is {safe!r}; accepted: true, false, or null for no label")
    return Labelled(examples, unlabelled)


def learn_head(
    body: str, files: Sequence[str], out: Path, training: HeadTraining, model: Mapping[str, Any]
) -> dict[str, float]:
    """Train a head on the embeddings of ``body`` and write it; returns loss, accuracy, and responses without a label.

    Args:
        model: ``backend``, ``device``, ``dtype``, ``max_tokens``.

    Raises:
        DataError: unusable rows, or labels of one kind only.
    """
    found = labelled(files)
    groups = [written_group(place, prompt, [text]) for place, (prompt, text, _) in enumerate(found.examples)]
    backend = load_backend(backend_config(body, model))
    try:
        scorer = Scorer(scorer_settings(body, {**model, "keep": True}), backend, headless=True)
        parts = [scorer.embeddings(groups[start : start + CHUNK]) for start in range(0, len(groups), CHUNK)]
    finally:
        backend.comm.close()
    embeddings = np.concatenate(parts) if parts else np.zeros((0, 1))
    trained = train_head(embeddings, np.asarray([label for _, _, label in found.examples]), training)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_head(out, trained.head, named_head(MODEL_TYPE))
    return {**trained.figures, "unlabelled": float(found.unlabelled)}


def merge(body: str, head: Path, out: Path) -> dict[str, Any]:
    """Write the folder of a complete reward model, with code for transformers; returns its folder and sizes."""
    extra_config = {"architectures": [CLASS], "auto_map": AUTO_MAP}
    config = merge_head(body, read_head(head, named_head(MODEL_TYPE)), MODEL_TYPE, out, extra_config)
    text = resources.files(__package__).joinpath(f"{CODE}.py.txt").read_text("utf-8")
    (out / f"{CODE}.py").write_text(text, encoding="utf-8")
    return {"folder": str(out), "hidden_dim_str": config["hidden_dim_str"], "hidden_size": config["hidden_size"]}


def check(folder: str, texts: tuple[str, Sequence[str]], model: Mapping[str, Any], *, own_code: bool) -> dict[str, Any]:
    """Load a reward model and score answers; with ``own_code``, compare with the scores of the folder's own code.

    Raises:
        ConfigError: another model type, a head that does not fit, or a non-finite score.
    """
    kind = read_model_config(find_folder(folder)).get("model_type")
    if kind != MODEL_TYPE:
        raise ConfigError(f"{folder!r} is a model of type {kind!r}; a reward model of this recipe has {MODEL_TYPE!r}")
    question, answers = texts
    group = written_group(0, question, answers)
    backend = load_backend(backend_config(folder, model))
    report: dict[str, Any] = {
        "model_type": kind,
        "hidden_dim_str": read_model_config(find_folder(folder))["hidden_dim_str"],
    }
    try:
        logits = Scorer(scorer_settings(folder, model), backend).score([group])
        if own_code:
            own_code_scores = Scorer(scorer_settings(folder, {**model, "trust_remote_code": True}), backend).score(
                [group]
            )
            report["own_code_differs_by"] = float(np.abs(own_code_scores - logits).max())
    finally:
        backend.comm.close()
    if not np.isfinite(logits).all():
        raise ConfigError(f"{folder!r}: the scores {logits.tolist()} are not finite")
    scored = [
        {"response": answer, "logit": value, "safe": 1 / (1 + math.exp(min(value, 700)))}
        for answer, value in zip(answers, logits.tolist(), strict=True)
    ]
    return {**report, "scores": scored}


def scorer_settings(folder: str, model: Mapping[str, Any]) -> ScorerSettings:
    """Return how this recipe reads reward models: in their own template, at its last token, the logit unchanged."""
    arguments = {key: value for key, value in model.items() if key != "backend"}
    return ScorerSettings(model=folder, end="template", **arguments)


def backend_config(folder: str, model: Mapping[str, Any]) -> RunConfig:
    """Return a configuration that names a backend and a device; it trains nothing."""
    return bare_config(ModelConfig(path=folder, device=model["device"], dtype=model["dtype"]), model["backend"])
