"""Train the named rungs of the ladder in turn, then answer the held-out questions with each policy.

Each rung is ``mindrlhf-grpo train examples/ladder/RUNG.yaml``; a rung that is finished is not trained again. The last
line is a JSON object: of each policy the share of courteous answers to held-out questions, and the seconds of it all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mindrlhf_grpo.config.file import load_config

HERE = Path("examples/ladder")
COMMAND = [sys.executable, "-m", "mindrlhf_grpo"]
POLICIES = ("sft", "dpo", "ppo")  # rungs that answer; a reward model does not


def main() -> None:
    """Train the rungs, measure the policies, print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rungs", nargs="+", choices=["sft", "dpo", "reward_model", "ppo"])
    parser.add_argument("--backend", default="torch", help="torch or mindspore")
    arguments = parser.parse_args()
    started = time.perf_counter()
    first = load_config(HERE / f"{arguments.rungs[0]}.yaml", []).model.path
    result: dict[str, Any] = {"courteous_before": courtesy(first, arguments.backend)}
    for rung in arguments.rungs:
        summary = run(["train", str(HERE / f"{rung}.yaml"), f"backend={arguments.backend}"])
        if rung in POLICIES:
            result[f"courteous_{rung}"] = courtesy(
                str(load_config(HERE / f"{rung}.yaml", []).run_dir), arguments.backend
            )
        if "after" in summary:
            result[f"{rung}_held_out"] = {
                name: summary[name].get("accuracy", summary[name].get("nll")) for name in ("before", "after")
            }
    print(json.dumps({**result, "seconds": round(time.perf_counter() - started, 1)}))


def courtesy(model: str, backend: str) -> float:
    """Return the share of courteous answers to the held-out questions, one sampled answer for each of four seeds."""
    found = run(
        [
            "evaluate", "--model", model, "--source", f"{HERE}/task.py:questions_held_out", "--reward",
            f"{HERE}/task.py:courteous", "--samples", "4", "--temperature", "1", "--max-tokens", "20", f"backend={backend}",
        ]
    )  # fmt: skip
    return float(found["pass@1"])


def run(arguments: list[str]) -> dict[str, Any]:
    """Run a command of ``mindrlhf-grpo`` and return the JSON object of its last line."""
    done = subprocess.run([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
