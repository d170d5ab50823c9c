"""Our step and TRL's in alternation (A B A B ...): GRPO, DPO, reward model; medians and ratios, at the end one JSON line.

A ratio is ours / TRL's: below 1 is faster or smaller. Processor seconds stand beside wall seconds, because a busy
machine shows as processor seconds far below threads x wall seconds. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turns import COLUMNS, in_turn

HERE = Path(__file__).parent
OF_EVERY_STEP = ("step_s", "step_cpu_s", "peak_rss_mb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One kind of run and its ratios: name in the last line -> field."""

    flags: tuple[str, ...]
    ratios: dict[str, str]
    scripts: tuple[str, str] = ("grpo_step.py", "trl_step.py")
    head: bool = False  # both sides start from a folder with a head, which is written first


WORKS = {
    "fp32": Work(
        flags=("--batch", "16", "--generations", "8", "--completion-length", "64", "--dtype", "float32"),
        ratios={
            "ratio_step_fp32": "step_s",
            "ratio_generate_fp32": "generate_s",
            "ratio_update_fp32": "update_s",
            "ratio_peak_memory": "peak_rss_mb",
        },
    ),
    "bf16": Work(
        flags=("--batch", "16", "--generations", "8", "--completion-length", "64", "--dtype", "bfloat16"),
        ratios={"ratio_step_bf16": "step_s"},
    ),
    "long_prompt_bf16": Work(
        flags=("--batch", "8", "--generations", "8", "--completion-length", "64", "--prompt-words", "170", "--dtype", "bfloat16"),
        ratios={"ratio_step_long_prompt_bf16": "step_s"},
    ),
}  # fmt: skip
for OBJECTIVE in ("dpo", "reward_model"):
    WORKS[OBJECTIVE] = Work(
        flags=("--objective", OBJECTIVE, "--pairs", "4"),
        ratios={f"ratio_step_{OBJECTIVE}": "step_s", f"ratio_peak_memory_{OBJECTIVE}": "peak_rss_mb"},
        scripts=("preference_step.py", "trl_preference_step.py"),
        head=OBJECTIVE == "reward_model",
    )
ORDER = (
    "ratio_step_fp32", "ratio_step_bf16", "ratio_step_long_prompt_bf16", "ratio_generate_fp32", "ratio_update_fp32",
    "ratio_peak_memory", "ratio_step_dpo", "ratio_peak_memory_dpo", "ratio_step_reward_model",
    "ratio_peak_memory_reward_model",
)  # fmt: skip


def main() -> None:
    """Measure the requested kinds, then print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="Python of this project's environment")
    parser.add_argument("--peer", required=True, help="Python of TRL's environment")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct", help="the same folder for both, both dtypes")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps per run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(WORKS), nargs="+", help="measure only these")
    parser.add_argument(
        "--emulated-bf16", action="store_true", help="measure bf16 also where the processor lacks it: hours"
    )
    arguments = parser.parse_args()
    ratios: dict[str, float | None] = dict.fromkeys(ORDER)
    for name in arguments.only or WORKS:
        if "bf16" in name and not arguments.emulated_bf16 and not computes_bf16(arguments.ours):
            print(
                f"{name}: not measured, this machine has no bfloat16 arithmetic (--emulated-bf16 does it all the same)"
            )
            continue
        ratios.update(compare(name, arguments))
    print(json.dumps(ratios))


def computes_bf16(python: str) -> bool:
    """Tell whether a device of this machine computes bfloat16 in hardware."""
    done = subprocess.run([python, "-m", "mindrlhf_grpo_torch.devices"], check=True, capture_output=True, text=True)
    devices: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["devices"]
    return bool(devices[0]["bfloat16"])


def compare(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Run both sides in alternation and return the ratios of the medians."""
    work = WORKS[name]
    model = with_head(arguments, work) if work.head else arguments.model
    common = [*work.flags, "--model", model, "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    pythons = {"ours": arguments.ours, "trl": arguments.peer}
    found = in_turn(
        f"{name}: {' '.join(work.flags)}",
        {
            side: [python, str(HERE / script), *common]
            for (side, python), script in zip(pythons.items(), work.scripts, strict=True)
        },
        runs=arguments.runs,
        columns=COLUMNS if work.scripts[0] == "grpo_step.py" else OF_EVERY_STEP,
    )
    ours, trl = (lines[0].get("loss", ()) for lines in found.lines.values())
    if ours:
        apart = max(abs(one - other) for one, other in zip(ours, trl, strict=True))
        print(f"losses of each step: ours {ours}, TRL {trl}; apart {apart:.2g}")
    return found.ratios(work.ratios, of="ours", to="trl")


def with_head(arguments: argparse.Namespace, work: Work) -> str:
    """Return the folder of the model with a head of one output, written by our side."""
    folder = Path(f"{arguments.model}-with-head")
    if not folder.exists():
        command = [arguments.ours, str(HERE / work.scripts[0]), *work.flags, "--model", arguments.model]
        subprocess.run([*command, "--write-head", str(folder)], check=True, capture_output=True)
    return str(folder)


if __name__ == "__main__":
    main()
