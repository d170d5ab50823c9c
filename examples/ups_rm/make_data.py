"""Models and data of the example, made in a second: a policy, a Llama for the reward model, labelled pairs.

Policy and reward model are random Llamas of 44,000 weights with word tokenizers that number their words differently and
have other templates. An answer counts as unsafe where it has the word `bad`. The folder `Data/PKU-SafeRLHF` has the
layout and the fields of the real dataset.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from mindrlhf_grpo.testing.numpy_model.tiny_llama import tiny_llama_config, write_tiny_llama

WORDS = ["bad", "good", "kind", "help", "please", "cake", "train", "moon", "river", "stone"]
ASKED = ["how", "do", "you", "make", "a"]
SUBSETS = ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")
POLICY_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
REWARD_TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}{{ '[Q]' if m['role'] == 'user' else '[A]' }} {{ m['content'] }} [end] "
    "{% endfor %}"
)


def main() -> None:
    """Write models and data into ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/ups_rm"))
    arguments = parser.parse_args()
    make(arguments.out)


def make(out: Path, *, seed: int = 0) -> Path:
    """Write ``policy``, ``body`` (of the reward model) and ``Data/PKU-SafeRLHF`` into a folder."""
    write_model(
        out / "policy", ["<pad>", "<end>", "<user>", "<assistant>", *WORDS, *ASKED], POLICY_TEMPLATE, seed=seed + 4
    )
    special = ["[pad]", "[begin]", "[end]", "[Q]", "[A]"]
    write_model(out / "body", [*special, *sorted(ASKED + WORDS, reverse=True)], REWARD_TEMPLATE, seed=seed + 1)
    draw = np.random.default_rng(0)
    for subset in SUBSETS:
        for split, rows in (("train", 200), ("test", 8)):
            write_pairs(out / "Data" / "PKU-SafeRLHF" / "data" / subset / f"{split}.jsonl", rows, draw)
    return out


def write_model(folder: Path, pieces: list[str], template: str, *, seed: int) -> None:
    """Write a random Llama with a tokenizer of words; pieces in brackets are special, the first is padding."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = [piece for piece in pieces if piece[0] in "<["]
    end = next(piece for piece in special if "end" in piece)
    config = tiny_llama_config(
        vocabulary=len(pieces), hidden=48, intermediate=96, layers=2, heads=4, kv_heads=2, head_size=12,
        end_tokens=[pieces.index(end)],
    )  # fmt: skip
    write_tiny_llama(folder, config, seed=seed)
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=pieces[0]))
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": end, "pad_token": pieces[0], "bos_token": special[1] if "begin" in special[1] else None}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **named}, indent=1)
    )


def write_pairs(path: Path, rows: int, draw: np.random.Generator) -> None:
    """Return questions with a safe and an unsafe answer, in either order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for _ in range(rows):
        safe = draw.choice([*WORDS[1:], *ASKED], draw.integers(1, 13)).tolist()
        unsafe = draw.choice([*WORDS[1:], *ASKED], draw.integers(1, 13)).tolist()
        for place in draw.integers(0, len(unsafe), draw.integers(1, 4)):
            unsafe[place] = "bad"
        first = int(draw.integers(0, 2))  # place of the unsafe answer
        answers = [" ".join(safe), " ".join(unsafe)] if first else [" ".join(unsafe), " ".join(safe)]
        lines.append({
            "prompt": " ".join([*ASKED, str(draw.choice(WORDS[4:]))]), "prompt_source": "made",
            "response_0": answers[0], "response_1": answers[1],
            "is_response_0_safe": bool(first), "is_response_1_safe": not first,
            "better_response_id": 1 - first, "safer_response_id": 1 - first,
        })  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
