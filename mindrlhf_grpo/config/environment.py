"""Keys of rollouts with several turns."""

from __future__ import annotations

from typing import Any

from .paths import PathText
from .section import Section, key


class EnvironmentConfig(Section):
    """The environment that answers the model's turns."""

    function: PathText = key(
        ...,
        "pkg.module:Class or file.py:Class: a class as TRL's environment_factory takes it (reset(**row), public methods are tools, perhaps get_reward()), or one with step(text) -> (observation, done, reward).",
        peers="trl: environment_factory; verl: multi_turn.tool_config_path",
    )
    arguments: dict[str, Any] = key({}, "Keyword settings of the class.")
    max_turns: int = key(
        4,
        "Most turns of the model in a rollout; one that would go on is truncated.",
        peers="trl: max_tool_calling_iterations; verl: multi_turn.max_assistant_turns",
        ge=1,
    )
    max_tokens: int = key(
        512,
        "Most tokens of one observation; a longer one is cut, and says so. They count towards rollout.max_tokens.",
        peers="verl: multi_turn.max_tool_response_length",
        ge=1,
    )
    timeout: float = key(
        30.0, "Seconds that a call, a reset or a reward of the environment may take; 0: no limit.", ge=0
    )
