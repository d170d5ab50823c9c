"""Warm up on made conversations, train by GRPO, and measure the held-out sums before, between and after.

The last line is a JSON object: the share of right answers and of answers that used the tool, and the seconds of it all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from mindrlhf_grpo.backend import load_backend
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.trainers.evaluation import load_held_out
from mindrlhf_grpo.trainers.rollouts import load_environments
from mindrlhf_grpo.trainers.session import load_run_tokenizer

HERE = Path("examples/tools")


def main() -> None:
    """Train what is not trained yet, measure, print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="torch", help="torch or mindspore")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct", help="folder of the untrained model")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    arguments = parser.parse_args()
    common = [f"backend={arguments.backend}", f"model.dtype={arguments.dtype}"]
    started = time.perf_counter()
    result = {**measured("before", arguments.model, common)}
    train("sft.yaml", f"model.path={arguments.model}", *common)
    train("train.yaml", *common)
    result |= evaluated()
    print(json.dumps({**result, "seconds": round(time.perf_counter() - started, 1)}))


def train(config: str, *overrides: str) -> None:
    """Run a training in a process of its own; one that is finished is not repeated."""
    command = [sys.executable, "-m", "mindrlhf_grpo", "train", str(HERE / config), *overrides]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)


def evaluated() -> dict[str, float]:
    """Read what the run itself has measured before its first step and at its end."""
    lines = [json.loads(line) for line in Path("runs/tools/grpo/metrics.jsonl").read_text().splitlines()]
    measured_lines = [line for line in lines if "eval/accuracy" in line]
    return {
        f"{name}_{when}": round(line[key], 3)
        for when, line in (("warm", measured_lines[0]), ("after", measured_lines[-1]))
        for name, key in (("accuracy", "eval/accuracy"), ("tool_share", "eval/environment/used_frac"))
    }


def measured(when: str, model: str, common: list[str]) -> dict[str, float]:
    """Answer the held-out questions, greedily and with the tool at hand."""
    config = load_config(HERE / "train.yaml", [f"model.path={model}", *common])
    tokenizer, backend = load_run_tokenizer(config), load_backend(config)
    held_out, environments = load_held_out(config, tokenizer), load_environments(config, tokenizer)
    assert held_out is not None
    assert environments is not None
    engine = backend.load_engine(None, tokenizer)
    groups = environments.generate(engine, held_out.prompts, held_out.sampling, group_size=1)
    with Rewards(config.rewards) as rewards:
        right = rewards.score(groups).total().mean()
    used = [
        group.rollouts[0].episode is not None and any(group.rollouts[0].episode.calls.keys() - {""}) for group in groups
    ]
    found = {f"accuracy_{when}": round(float(right), 3), f"tool_share_{when}": round(sum(used) / len(used), 3)}
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
