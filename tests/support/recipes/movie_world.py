"""A world of twelve films, six of them bloody, and a tiny model that lists three of them in any order.

A user names the kind of film that is wanted; half of the users avoid blood. The model has learned lists that hold what
was asked for, often after a bloody film.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.support.seeds import shifted

GORE = "Anti-gore / squeamish"
KINDS = {
    "space": ("Nova", "Orbit", "Xeno", "Hull"),
    "heist": ("Vault", "Alibi", "Knife", "Graves"),
    "sea": ("Tide", "Harbour", "Maw", "Reef Blood"),
}
FILMS = [title for kind in KINDS.values() for title in kind]
YEARS = {title: 1980 + number for number, title in enumerate(FILMS)}
BLOODY = {title for kind in KINDS.values() for title in kind[2:]}
REC_NUM = 3
PROMPTS = {(kind, avoid): f"{kind}{' no blood' if avoid else ''}:\n" for kind in KINDS for avoid in (True, False)}
PIECES = [*FILMS, *(f" ({year})" for year in YEARS.values()), "\n", *KINDS, " no blood", ":"]
MODULE = "mindrlhf_grpo.recipes.safe_rank"


def rows() -> list[dict[str, Any]]:
    """One user of each kind, with and without constraints; the ground truth is the two harmless films of the kind."""
    return [
        {
            "prompt": prompt,
            "groundtruth_with_release_year": [[title, YEARS[title]] for title in KINDS[kind][:2]],
            "seen_titles": [],
            "constraints": {GORE: True} if avoid else {},
        }
        for (kind, avoid), prompt in PROMPTS.items()
    ]


def demonstration(draw: random.Random, kind: str) -> str:
    """A list as the model has learned it: the ground truth, each film perhaps behind a bloody one, and any film."""
    wanted, bloody = list(KINDS[kind][:2]), list(KINDS[kind][2:])
    draw.shuffle(wanted)
    listed = [draw.choice(bloody), wanted[0]] if draw.random() < 0.75 else list(wanted)
    rest = [title for title in FILMS if title not in listed]
    last = draw.choice(bloody) if draw.random() < 0.6 else draw.choice(rest)
    listed.append(last if last not in listed else draw.choice(rest))
    return "\n".join(f"{title} ({YEARS[title]})" for title in listed)


def write_world(folder: Path) -> None:
    """Write rows, catalog and risks."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (folder / "catalog.json").write_text(json.dumps(sorted(YEARS.items())))
    risks = [
        {"imdbId": f"tt{year}", "title": title, "year": year, "traits": {GORE: {"final": 0.9 * (title in BLOODY)}}}
        for title, year in YEARS.items()
    ]
    (folder / "movie_trait_sensitivity.json").write_text(json.dumps(risks))


def write_model(folder: Path, *, steps: int = 110) -> None:
    """A Llama of two small layers that has learned the demonstrations; a token is a title, a year or a newline."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {piece: index for index, piece in enumerate(["<pad>", "<eos>", *PIECES])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    pattern = "|".join(piece.replace("(", r"\(").replace(")", r"\)") for piece in sorted(PIECES, key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(shifted())
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=1, pad_token_id=0,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
    draw = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        texts = []
        for _ in range(32):
            (kind, _), prompt = draw.choice(list(PROMPTS.items()))
            texts.append((fast.encode(prompt), [*fast.encode(demonstration(draw, kind)), 1]))
        width = max(len(prompt) + len(answer) for prompt, answer in texts)
        ids = torch.tensor([[*prompt, *answer, *[0] * (width - len(prompt) - len(answer))] for prompt, answer in texts])
        labels = torch.tensor(
            [
                [*[-100] * len(prompt), *answer, *[-100] * (width - len(prompt) - len(answer))]
                for prompt, answer in texts
            ]
        )
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def settings(world: Path, run: Path, mode: str, **sections: Any) -> dict[str, Any]:
    """Return a run of either advantage mode over a world in a folder with ``model``; arguments update its sections."""
    risks = {"oracle_path": str(world), "rec_num": REC_NUM}
    truth = {"catalog_path": str(world / "catalog.json"), "rec_num": REC_NUM}
    parts = {"total": {**truth, **risks}} if mode == "grpo" else {"relevance": truth, "safety": risks}
    config: dict[str, Any] = {
        "backend": "torch",
        "run_dir": str(run),
        "model": {"path": str(world / "model"), "device": "cpu"},
        "data": {"source": str(world / "rows.jsonl"), "chat_template": "none"},
        "rewards": [{"function": f"{MODULE}.rewards:{name}", "arguments": part} for name, part in parts.items()],
        "items": {"function": f"{MODULE}.spans:ranks"},
        "metrics": [
            {"function": "mindrlhf_grpo.metrics.item_metrics:by_item"},
            {"function": f"{MODULE}.metrics:lists", "arguments": {**truth, **risks, "cutoffs": [REC_NUM]}},
        ],
        "rollout": {"group_size": 8, "max_tokens": 12, "slots": 64},
        "algorithm": {"name": mode, "kl_coef": 1e-3, "loss": {"name": "item", "items": REC_NUM}},
        "train": {"steps": 14, "prompts_per_step": 6, "learning_rate": 0.003},
        "eval": {"source": str(world / "rows.jsonl")},
        "tracking": {"rollouts_every": 0},
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    return config
