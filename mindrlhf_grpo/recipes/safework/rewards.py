"""The reward of a row: its format, plus the judges and rules that the routing table lists for its label.

R = format + sum of registry weight x routing weight x score; gsm8k and geo3k rows: 0.9 accuracy + 0.1 format alone.
Legend: N completions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...chat.thoughts import with_opened_thought
from ...errors import ConfigError
from ...rewards.judges.chat_text import replace_images, thought_and_answer, turns, without_special
from ...rewards.judges.judge import Judge, build_judge
from ...rewards.judges.models import JudgeModels, Place, check_place
from ...rewards.models.user_class import UserModel
from ...types import Prompt, RolloutGroup
from . import rules
from .registry import JudgeEntry, check_labels, package_data, package_path, read_registry, read_routing

if TYPE_CHECKING:
    from ...backend import Backend

Floats = NDArray[np.float64]
Exchange = dict[str, Any]
RULES: dict[str, Callable[[Exchange], float]] = {
    "rule": lambda row: rules.rule_reward(row["completion"], row["reference"]),
    "if_rule": lambda row: rules.constraint_rule(row["response"], row["reference"]),
    "language_rule": lambda row: rules.language_rule(
        row["question"], row["thought"], row["response"], row["completion"]
    ),
    "gsm8k_rule": lambda row: rules.combined_rule(row["completion"], row["reference"]),
    "geo3k_rule": lambda row: rules.combined_rule(row["completion"], row["reference"]),
}
WHOLE = ("gsm8k_rule", "geo3k_rule")  # no format reward is added
MISSING = {"zero": 0.0, "one": 1.0}


class RoutedReward:
    """All components of a row's reward, each under its own name and already weighted: their sum is the reward.

    Args:
        models: the registry, in any form of ``--reward_pretrain``.
        routing: a table of ``routing.yaml``, or label -> components.
        on_missing_rm: ``error``, or the score of a missing judge or route: ``zero``, ``one``.
        engine, url: defaults for judges that do not set them.
        judges: more definitions by name, as in ``judges.yaml``; paths are relative to the working folder.

    Raises:
        ConfigError: a wrong argument, or a missing folder or template.
    """

    uses_models: ClassVar[bool] = True

    def __init__(
        self,
        backend: Backend | None,
        policy_folder: Path | None,
        *,
        models: Any = (),
        routing: str | Mapping[str, Any] = "svki",
        on_missing_rm: str = "error",
        engine: bool = False,
        url: str = "",
        judges: Mapping[str, Any] | None = None,
    ) -> None:
        self.registry = read_registry(models, engine=engine, url=url)
        self.routing, self.on_missing = read_routing(routing), on_missing_rm
        check_labels((), self.routing, self.registry, on_missing_rm)
        self.models = JudgeModels(backend)
        self.judges: dict[str, Judge] = {}
        self.custom: dict[str, UserModel] = {}
        self.images: dict[str, str] = {}
        for name, entry in self.registry.items():
            if name in ("format", "missing", *RULES):
                raise ConfigError(f"a judge cannot be called {name!r}, which is another part of the reward")
            if entry.cls:
                device = None if backend is None else backend.device
                self.custom[name] = UserModel(entry.cls, path=entry.path, policy_folder=policy_folder, device=device)
            else:
                check_place(judge_place(entry))
                self.judges[name], self.images[name] = define_judge(entry, judges or {})
        self.unread: dict[str, int] = {}

    @property
    def label_map(self) -> dict[str, int]:
        """Judge -> its row in :meth:`matrix`."""
        return {name: row for row, name in enumerate(self.registry)}

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless rows have a label."""
        if "label" not in columns:
            raise ConfigError(f"rows need a column 'label' that routes their reward; there are {', '.join(columns)}")

    def score(self, groups: Sequence[RolloutGroup]) -> dict[str, Floats]:
        """Return each component, weighted ``[N]``; masked where a row's label does not use it."""
        rows = [exchange(group.prompt, rollout.text) for group in groups for rollout in group.rollouts]
        check_labels({row["label"] for row in rows}, self.routing, self.registry, self.on_missing)
        scores = self.matrix(rows)
        parts = {name: np.full(len(rows), np.nan) for name in ("format", *RULES, *self.registry, "missing")}
        for index, row in enumerate(rows):
            routed = self.routing.get(row["label"])
            if routed is None or not any(part.kind in WHOLE for part in routed):
                parts["format"][index] = rules.format_reward(row["completion"])
            for part in routed or ():
                if part.kind != "model":
                    name, value = part.kind, RULES[part.kind](row)
                elif part.name in self.registry:
                    name = part.name
                    value = self.registry[name].weight * scores[self.label_map[name], index]
                else:
                    name, value = "missing", MISSING[self.on_missing]
                parts[name][index] = np.nan_to_num(parts[name][index]) + part.weight * value
            if routed is None:
                parts["missing"][index] = MISSING[self.on_missing]
        return {
            name: np.ma.MaskedArray(values, mask=np.isnan(values))  # type: ignore[no-untyped-call]
            for name, values in parts.items()
            if name in scored_names(self, parts)
        }

    def matrix(self, rows: Sequence[Exchange]) -> Floats:
        """Return the score of every judge for the rows routed to it ``[judges, N]``; judges that share a model run in turn."""
        scores = np.full((len(self.registry), len(rows)), np.nan)
        self.unread = {}
        for name in sorted(self.registry, key=lambda name: place_key(self.registry[name])):
            routed = [
                index
                for index, row in enumerate(rows)
                if any(part.name == name for part in self.routing.get(row["label"], ()))
            ]
            if routed:
                scores[self.label_map[name], routed] = self.ask(name, [rows[index] for index in routed])
        self.models.release()
        return scores

    def ask(self, name: str, rows: Sequence[Exchange]) -> Floats:
        """Return the scores of one judge ``[N]``."""
        if name in self.custom:
            self.models.release()
            roles = ("question", "user"), ("response", "assistant")
            conversations = [[{"role": role, "content": row[key]} for key, role in roles] for row in rows]
            scores = self.custom[name].scores(conversations, columns_of(rows))
            if not self.registry[name].keep:
                self.custom[name].release()
            if np.isnan(scores).any():
                self.unread[name] = int(np.isnan(scores).sum())
            return np.nan_to_num(scores)
        judge = self.judges[name]
        exchanges = [{**row, "question": replace_images(row["question"], self.images[name])} for row in rows]
        model = self.models.use(judge_place(self.registry[name]))
        scores, unread = judge.scores(model, exchanges)
        thinking = [index for index, row in enumerate(rows) if "thought" in judge.variants and row["thought"]]
        if thinking:
            thoughts = [{**exchanges[i], "response": rows[i]["thought"], "variant": "thought"} for i in thinking]
            factors, unread_thoughts = judge.scores(model, thoughts)
            scores[thinking] *= factors
            unread += unread_thoughts
        if unread:
            self.unread[name] = unread
        return scores

    def rehearse(self, group: RolloutGroup) -> None:
        """Load each judge of this process and let it judge a literal completion."""
        row = exchange(group.prompt, group.rollouts[0].text)
        for name, entry in self.registry.items():
            if not entry.engine:
                self.ask(name, [row])
        self.models.release()
        self.unread = {}

    def failures(self) -> dict[str, int]:
        """Return judge -> number of its unreadable answers, or of scores that were no finite numbers, in the last call."""
        return self.unread

    def close(self) -> None:
        """Free every judge."""
        self.models.close()
        for model in self.custom.values():
            model.release()


def define_judge(entry: JudgeEntry, definitions: Mapping[str, Any]) -> tuple[Judge, str]:
    """Return the judge of a registry entry, and the text that stands for an image in its questions."""
    name = entry.judge or entry.name
    known = package_data("judges.yaml")
    if name not in known and name not in definitions:
        raise ConfigError(
            f"no judge is called {name!r}; there are {', '.join([*known, *definitions])}; give one under judges, or a class"
        )
    settings = dict(definitions[name]) if name in definitions else absolute_templates(known[name])
    image = settings.pop("image", "")
    own = {"template": entry.template or None, "variants": entry.variants}
    settings |= {key: value for key, value in own.items() if value is not None}
    return build_judge(settings, label=f"judge {name}"), image


def absolute_templates(value: Any) -> Any:
    """Return a packaged definition with absolute paths of its templates."""
    if isinstance(value, Mapping):
        return {key: absolute_templates(inner) for key, inner in value.items()}
    return str(package_path(value)) if isinstance(value, str) and value.startswith("judges/") else value


def judge_place(entry: JudgeEntry) -> Place:
    """Return where a judge computes."""
    server = entry.url if entry.engine else ""
    return Place(model=entry.path, server=server, options=entry.options or {}, slots=entry.slots, keep=entry.keep)


def place_key(entry: JudgeEntry) -> tuple[str, ...]:
    """Return a sort key by which judges that share a model follow each other."""
    return ("class", entry.name) if entry.cls else judge_place(entry).key


def exchange(prompt: Prompt, completion: str) -> Exchange:
    """Return question, thought and answer of one completion, and the label that routes it."""
    users = [message["content"] for message in prompt.messages if message["role"] == "user"]
    asked = users[-1] if users else turns(prompt.text).get("user", prompt.text)
    completion = with_opened_thought(prompt.text, turns(completion).get("assistant", completion))
    thought, answer = map(without_special, thought_and_answer(completion))
    label, reference = prompt.columns.get("label"), prompt.columns.get("reference")
    return {
        "question": asked,
        "completion": completion,
        "thought": thought,
        "response": answer,
        "reference": reference,
        "label": label,
        "variant": label,
        "columns": dict(prompt.columns),
    }


def columns_of(rows: Sequence[Exchange]) -> dict[str, list[Any]]:
    """Return what a custom reward model may read besides tokens, one entry per row."""
    names = {"prompts": "question", "completions": "completion", "labels": "label", "references": "reference"}
    return {name: [row[key] for row in rows] for name, key in names.items()} | {
        key: [row["columns"].get(key) for row in rows]
        for key in dict.fromkeys(key for row in rows for key in row["columns"])
    }


def scored_names(reward: RoutedReward, parts: Mapping[str, Any]) -> set[str]:
    """Return the components that the routing can produce: the same in every batch and on every rank."""
    kinds = {part.kind for routed in reward.routing.values() for part in routed}
    named = {"format", *reward.registry, *(kinds & set(RULES))}
    return named if reward.on_missing == "error" else {*named, "missing"}
