"""The complete example: models and data, prepared prompts, a reward model, and GRPO with it; prints each command.

python examples/ups_rm/run.py [--backend mindspore] [--prepare] [name=value]...
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import make_data

HERE = Path(__file__).parent


def main() -> None:
    """Prepare what is missing, then train; other arguments are verl's names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/ups_rm"))
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--prepare", action="store_true", help="stop before the training")
    arguments, names = parser.parse_known_args()
    out: Path = arguments.out
    if not (out / "rm" / "config.json").is_file():
        prepare(out, arguments.backend)
    if arguments.prepare:
        return
    places = [
        f"data.train_files={out}/Data/verl/train.parquet", f"data.val_files={out}/Data/verl/val.parquet",
        f"actor_rollout_ref.model.path={out}/policy", f"reward_model.model.path={out}/rm",
        f"trainer.default_local_dir={out}/run-{arguments.backend}", f"trainer.group_log_dir={out}/groups",
    ]  # fmt: skip
    recipe("train", HERE / "tiny.yaml", "--backend", arguments.backend, *places, *names)


def prepare(out: Path, backend: str) -> None:
    """Make random models, prompts with verl's columns, a head trained on labelled pairs, and the reward model."""
    print(f"$ python {HERE}/make_data.py --out {out}", flush=True)
    raw = make_data.make(out) / "Data" / "PKU-SafeRLHF"
    pairs = sorted(raw.glob("data/*/train.jsonl"))
    prepared = out / "Data" / "verl"
    recipe("preprocess", "--local_dataset_path", raw, "--local_save_dir", prepared, "--shuffle")
    recipe("check-data", prepared / "train.parquet", prepared / "val.parquet")
    head = out / "head.safetensors"
    recipe(
        "train-head", out / "body", *pairs, "--out", head, "--widths", "32,8", "--epochs", "60", "--backend", backend
    )
    recipe("merge", out / "body", head, out / "rm")
    asked = ("--prompt", "how do you make a cake", "--response", "good kind help", "--response", "good bad help")
    recipe("check-rm", "--model_path", out / "rm", *asked, "--backend", backend)


def recipe(*arguments: object) -> None:
    """Run a command of the recipe in a new process."""
    command = ["-m", "mindrlhf_grpo", "recipe", "ups-rm", *map(str, arguments)]
    print("$ python", *command, flush=True)
    subprocess.run([sys.executable, *command], check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:  # it has printed the reason
        raise SystemExit(error.returncode) from None
