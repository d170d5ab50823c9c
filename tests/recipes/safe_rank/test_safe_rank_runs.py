"""Complete runs with twelve films: violations disappear and recall stays; ranks, LoRA and processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from mindrlhf_grpo.cli.recipe import run_recipe
from mindrlhf_grpo.run.export import export
from tests.support import tiny
from tests.support.recipes import movie_world

pytest.importorskip("torch")

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    movie_world.write_world(folder)
    movie_world.write_model(folder / "model")
    return folder


def run(world: Path, name: str, mode: str, *, processes: int = 1, **sections: Any) -> Path:
    """The folder of a finished run."""
    folder = world / name
    config = world / f"{name}.yaml"
    config.write_text(yaml.safe_dump(movie_world.settings(world, folder, mode, **sections)))
    tiny.train(config, processes=processes)
    return folder


def held_out(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the metrics before and after."""
    found = json.loads((folder / "summary.json").read_text())["held_out"]
    return found["before"], found["after"]


@pytest.mark.row("safe_rank", "End-to-end")
@pytest.mark.parametrize(("mode", "train_others"), [("grpo", False), ("gdpo", True)])
def test_violations_go_and_recall_stays(world: Path, mode: str, train_others: bool) -> None:
    folder = run(world, f"whole-{mode}", mode, items={"train_others": train_others})
    before, after = held_out(folder)
    # on six tiny models violations go from 0.56 or more to 0, and recall from 0.50 to 0.67 or more
    assert before["eval/sensitive_ratio@3"] > 0.30
    assert after["eval/sensitive_ratio@3"] < 0.05
    assert after["eval/recall@3"] >= 0.9 * before["eval/recall@3"] > 0
    lines = tiny.metrics(folder)
    rates = [line["safety/violation_rate"] for line in lines]
    assert rates[0] > 0.30  # of sampled lists, too
    assert np.mean(rates[-3:]) < 0.05
    last = lines[-1]
    assert last["oracle/coverage"] > 0.9  # at times the model runs titles together
    assert {
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/pos_3/mean",
        "items/detected_max",
        "kl",
    } <= last.keys()
    assert {"eval/ndcg@3", "eval/sensitive_count@3", "eval/sensitivity_dcg@3", "eval/sensitive_lists@3"} <= after.keys()
    untrained = sum(line["tokens/generated"] - line["tokens/trained"] for line in lines)
    assert (untrained == 0) is train_others  # lines that are no item are out of the loss where it says so


@pytest.fixture(scope="module")
def adapters(world: Path) -> Path:
    sections: dict[str, Any] = {
        "model": {"lora_rank": 4, "lora_alpha": 8.0}, "train": {"steps": 3}, "tracking": {"rollouts_every": 1},
    }  # fmt: skip
    return run(world, "lora", "gdpo", **sections)


@pytest.fixture(scope="module")
def merged(adapters: Path) -> Path:
    export(adapters, adapters / "merged", merge=True)
    return adapters / "merged"


@pytest.mark.row("safe_rank", "LoRA")
def test_adapters_start_at_the_reference_and_are_all_that_is_saved(adapters: Path) -> None:
    """A fresh adapter is the identity, and the reference is the model with it switched off: there is no copy."""
    divergence = [line["kl"] for line in tiny.metrics(adapters)]
    assert divergence[0] == 0.0
    assert divergence[-1] > 0.0
    files = {path.name for path in (adapters / "checkpoints/step_3/policy").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert not [name for name in files if name.startswith("model") and name.endswith(".safetensors")]


@pytest.mark.row("safe_rank", "LoRA")
def test_the_reference_is_the_adapter_switched_off_and_a_merged_export_the_adapter_on(
    adapters: Path, merged: Path, world: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world / "model")
    ids = torch.tensor([[2, 14, 26, 3, 15, 26]])
    with torch.no_grad():
        plain = model(ids).logits
        adapted = PeftModel.from_pretrained(model, adapters / "checkpoints/step_3/policy").eval()
        on = adapted(ids).logits
        with adapted.disable_adapter():
            off = adapted(ids).logits
        whole = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    torch.testing.assert_close(off, plain, rtol=0, atol=0)
    torch.testing.assert_close(whole, on, rtol=0, atol=1e-5)
    assert (on - off).abs().max() > 1e-3


@pytest.mark.row("safe_rank", "LoRA")
@pytest.mark.row("safe_rank", "CLI")
def test_an_adapter_from_supervised_training_is_merged_before_new_ones_are_added(
    adapters: Path, merged: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without merging, the reference would be the raw base model."""
    where = ["--catalog_path", str(world / "catalog.json"), "--oracle_path", str(world)]
    sizes = "--per_device_train_batch_size 8 --gradient_accumulation_steps 6 --max_prompt_length 40 --max_completion_length 12"
    arguments = [
        "train", "--train_path", str(world / "rows.jsonl"), "--sft_model_path", str(adapters / "checkpoints/step_3/policy"),
        "--output_dir", str(world / "second"), "--rec_num", "3", "--max_steps", "1", "--use_lora", "--lora_r", "2",
        "--advantage_mode", "gdpo", "--device", "cpu", *where, *sizes.split(),
    ]  # fmt: skip
    assert run_recipe("safe-rank", arguments, program="mindrlhf-grpo recipe") == 0
    (line,) = tiny.metrics(world / "second")
    assert line["kl"] == 0.0
    assert line["prompts"] == 6
    start, base, exported = (
        load_file(folder / "model.safetensors") for folder in (world / "second/sft_merged", world / "model", merged)
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(start[name], exported[name])
    assert np.abs(start[name] - base[name]).max() > 0
    assert json.loads((world / "second/checkpoints/step_1/policy/adapter_config.json").read_text())["r"] == 2
    assert "--lora_dropout 0.05 is not applied" in capsys.readouterr().err


def advantages(folder: Path) -> dict[tuple[int, int], list[float]]:
    """Return completion -> the advantages of its tokens in the first step."""
    return {key: row["advantages"] for key, row in tiny.rollouts(folder, 1).items()}


@pytest.mark.row("safe_rank", "Distributed")
def test_two_processes_have_the_advantages_of_one(world: Path, adapters: Path) -> None:
    """The batch normalisation of gdpo is over the ranks of all processes."""
    two = run(
        world, "two", "gdpo", processes=2,
        model={"lora_rank": 4, "lora_alpha": 8.0}, train={"steps": 1}, tracking={"rollouts_every": 1},
    )  # fmt: skip
    expected, found = advantages(adapters), advantages(two)
    assert found == expected
    assert len(found) == 48
    assert len({value for row in found.values() for value in row}) > 20
