"""Names of other frameworks that no key lists as its own: ``peer_names.yaml`` says which key does it, or why none does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .yaml_source import parse


@dataclass(frozen=True, slots=True)
class PeerName:
    """A name of another framework.

    Attributes:
        key: the key that does it here; empty where none does.
        note: what differs, or why there is none.
    """

    name: str
    key: str
    note: str

    @property
    def sentence(self) -> str:
        """What a user of the name must know, in one sentence."""
        if not self.key:
            return f"{self.name} is not here: {self.note}"
        return f"{self.name}: here it is {self.key}{f' ({self.note})' if self.note else ''}"


def find_peer_name(name: str) -> PeerName | None:
    """The entry of a name, of which the last part counts (``actor_rollout_ref.actor.ppo_epochs``); None if unknown."""
    plain = name.strip().lstrip("-").replace("-", "_").replace("/", ".").lower()
    return peer_names().get(plain) or peer_names().get(plain.rpartition(".")[2])


@cache
def peer_names() -> dict[str, PeerName]:
    """All entries by name."""
    content = parse(files("mindrlhf_grpo.config").joinpath("peer_names.yaml").read_text("utf-8")).value
    found: dict[str, PeerName] = {}
    for name, text in content["here"].items():
        key, _, note = str(text).partition("; ")
        found[str(name)] = PeerName(str(name), key, note)
    for group in content["absent"]:
        found |= {str(name): PeerName(str(name), "", group["because"]) for name in group["names"]}
    return found
