"""Incremental decoding compared with recomputing full sequences, both compiled by MindSpore; ends with one JSON line.

The same prompts, greedy, and every completion runs to the last token. What has to be compiled is compiled before
anything is timed; runs take turns (A B A B ...), and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindrlhf_grpo_mindspore.generation.decoder_steps import Model
from mindrlhf_grpo_mindspore.generation.engine import MindSporeEngine
from mindrlhf_grpo_mindspore.generation.runner import LEAST_WHOLE
from mindrlhf_grpo_mindspore.models import hf
from mindrlhf_grpo_mindspore.training.buckets import bucket_size

from mindrlhf_grpo.backend import CompileLog
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from mindrlhf_grpo.types import Prompt, Sampling

TEXTS = (
    "The capital of France is", "Once upon a time there was", "A good breakfast has", "Two plus three equals",
    "The most important rule of chess", "Water boils when", "My favourite animal is the", "In the year 1969",
)  # fmt: skip
DECODERS = ("cached", "recompute")


def main() -> None:
    """Measure both kinds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct", help="folder in Hugging Face layout")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    arguments = parser.parse_args()
    ms.set_device("CPU")
    engines = load_engines(Path(arguments.model), slots=arguments.batch)
    prompts = make_prompts(engines["cached"], arguments.batch)
    for name, engine in engines.items():
        compile_all(engine, name, prompts, arguments.new_tokens)
    seconds: dict[str, list[float]] = {name: [] for name in DECODERS}
    found: dict[str, list[list[int]]] = {}
    for _ in range(arguments.repeats):
        for name, engine in engines.items():
            start = time.perf_counter()
            found[name] = complete(engine, prompts, arguments.new_tokens)
            seconds[name].append(time.perf_counter() - start)
    print(json.dumps(
        summary(seconds)
        | {
            "identical_tokens": found["cached"] == found["recompute"],
            "batch": arguments.batch, "new_tokens": arguments.new_tokens, "model": Path(arguments.model).name,
            "compile_s": {name: round(engine.runner.log.seconds, 1) for name, engine in engines.items()},
        }
    ))  # fmt: skip


def load_engines(folder: Path, *, slots: int) -> dict[str, MindSporeEngine]:
    """Build one engine of each kind on the same weights."""
    architecture = hf.load_architecture(folder)
    model = Model(architecture=architecture, weights=hf.load_weights(folder, architecture))
    tokenizer = load_tokenizer(str(folder), chat_template="none", trust_remote_code=False)
    return {
        name: MindSporeEngine(model, tokenizer, slots=slots, decoder=name, compile_log=CompileLog())
        for name in DECODERS
    }  # fmt: skip


def make_prompts(engine: MindSporeEngine, count: int) -> list[Prompt]:
    """Return the texts, repeated."""
    texts = [TEXTS[number % len(TEXTS)] for number in range(count)]
    return [
        Prompt(uid=number, ids=np.array(engine.tokenizer.encode(text), np.int32), text=text, row=number)
        for number, text in enumerate(texts)
    ]


def compile_all(engine: MindSporeEngine, name: str, prompts: Sequence[Prompt], new_tokens: int) -> None:
    """Compile every shape of the timed runs; full sequences have several, and one token of each is enough."""
    if name == "cached":
        complete(engine, prompts, new_tokens)
        return
    longest = max(len(prompt.ids) for prompt in prompts)
    for length in sorted({bucket_size(size, least=LEAST_WHOLE) for size in range(longest, longest + new_tokens)}):
        ids = np.resize(prompts[0].ids, min(length, longest + new_tokens - 1))
        complete(engine, [Prompt(uid=number, ids=ids, text="") for number in range(len(prompts))], 1)


def complete(engine: MindSporeEngine, prompts: Sequence[Prompt], new_tokens: int) -> list[list[int]]:
    """Return sampling settings of greedy completions of exactly so many tokens."""
    sampling = Sampling(max_tokens=new_tokens, min_tokens=new_tokens, temperature=0.0)
    return [group.rollouts[0].ids.tolist() for group in engine.generate(prompts, sampling, group_size=1)]


def summary(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the medians and the factor by which the first side is faster."""
    cached, recompute = (statistics.median(seconds[name]) for name in DECODERS)
    return {"cached_s": round(cached, 2), "recompute_s": round(recompute, 2), "ratio": round(recompute / cached, 2)}


if __name__ == "__main__":
    main()
