"""The dry run: its findings for machines of other kinds, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mindrlhf_grpo_mindspore
import mindrlhf_grpo_torch
import pytest

from mindrlhf_grpo.capacity.dry_run import MACHINES, Machine, examine_config, on_machine, shown
from mindrlhf_grpo.capacity.known_models import known_models
from mindrlhf_grpo.capacity.model_shape import model_shape
from mindrlhf_grpo.cli.main import main
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.model_files.weights import weight_shapes
from tests.support.repository import ROOT

CONFIGS = ROOT / "model_configs"
SFT = """
model: {path: Qwen/Qwen2.5-7B-Instruct, dtype: bfloat16, recompute: true}
data: {source: rows.jsonl, max_tokens: 2048}
objective: {name: sft}
train: {prompts_per_step: 64, tokens_per_micro_batch: 8192}
parallel: {strategy: fsdp}
"""


def dry_run(name: str, *overrides: str) -> dict[str, Any]:
    return examine_config(CONFIGS / f"{name}.yaml", list(overrides))


def phase(findings: dict[str, Any], name: str, machine: int = 0) -> dict[str, int]:
    return findings["machines"][machine]["phases"][name]


def test_seven_billion_weights_shared_out_over_eight_devices() -> None:
    findings = dry_run("qwen2_5_7b")
    update = phase(findings, "update")
    weights = 7_615_616_512
    # bfloat16: 2 bytes a weight, and of the reference; AdamW 12, gradients 2; an eighth of each on a device
    assert update["weights"] == update["reference"] == update["gradients"] == weights // 8 * 2
    assert update["optimizer"] == weights // 8 * 12
    assert update["engine"] == weights * 2
    # a token in a block, bfloat16: 8 * 3584 + 4 * 18944 + 4 * 3584 + 4 * 512 + 8 = 120_840; 28 inputs and two blocks
    assert update["activations"] == 16384 * (28 * 3584 * 2 + 2 * 120_840)
    # 3 blocks of 233_057_792 weights and a 28th of the last norm, embeddings and head of 152_064 * 3584 each
    assert update["gathered"] == (3 * 233_057_920 + 2 * 152_064 * 3584) * 2
    # 28 layers, 4 heads of 128 for keys and as many for values; 64 completions of 2048 tokens
    assert phase(findings, "generate")["KV cache"] == 28 * 2 * 512 * 64 * 2048 * 2
    assert findings["ok"] is True


def test_adapters_of_seven_billion_weights_on_whole_devices() -> None:
    update = phase(dry_run("qwen2_5_7b_lora"), "update")
    # in + out of a layer: q, o 7168 each; k, v 4096 each; gate, up, down 22528 each: 90_112; rank 32, 28 layers
    adapters = 32 * 28 * 90_112
    assert update["weights"] == 7_615_616_512 * 2 + adapters * 4
    assert (update["reference"], update["gradients"], update["optimizer"]) == (0, adapters * 4, adapters * 8)


def test_experts_are_split_over_the_devices_of_a_plan() -> None:
    machine = dry_run("deepseek_v3")["machines"][0]
    assert machine["fits"] is False
    assert machine["plan"]["devices"] == 256
    assert machine["plan"]["layout"] == "fsdp 32 x tensor 8 x expert 64"
    # 58 layers of 256 experts of 3 * 7168 * 2048 weights, over 256 devices; the other matrices over the same
    experts = 58 * 256 * 3 * 7168 * 2048
    # over the 32 groups, but not in them: what compresses, with norms of 1536 and 512; two norms a layer; 58 routers
    whole = 61 * (7168 * (1536 + 576) + 1536 + 512 + 2 * 7168) + 7168 + 58 * (256 * 7168 + 256)
    held = -(-experts // 256) - (-(671_026_419_200 - experts - whole) // 256) - (-whole // 32)
    assert machine["plan"]["phases"]["update"]["weights"] == held * 2


@pytest.fixture
def cutting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both backends as ones that run tensor parallelism."""
    monkeypatch.setattr(mindrlhf_grpo_torch, "UNSUPPORTED", {})
    monkeypatch.setattr(mindrlhf_grpo_mindspore, "UNSUPPORTED", {})


@pytest.mark.usefixtures("cutting")
def test_a_tensor_group_of_two_holds_half_of_every_matrix() -> None:
    findings = dry_run("qwen2_5_7b", "parallel={strategy: replicate, tensor: 2}")
    update, generate = phase(findings, "update"), phase(findings, "generate")
    assert findings["machines"][0]["layout"] == "data 4 x tensor 2"
    norms = (2 * 28 + 1) * 3584  # on both ranks; all else is cut, the biases of q, k, v too
    assert update["weights"] == ((7_615_616_512 - norms) // 2 + norms) * 2
    assert (update["engine"], generate["engine"]) == (0, 0)
    # as on one device, with half of 18944, 3584 and 512: 8 * 3584 + 4 * 9472 + 4 * 1792 + 4 * 256 + 8 = 74_760
    assert update["activations"] == 16384 * (28 * 3584 * 2 + 2 * 74_760)
    assert generate["KV cache"] == 28 * 2 * 256 * 64 * 2048 * 2


@pytest.mark.usefixtures("cutting")
def test_an_engine_with_a_layout_of_its_own_has_weights_of_its_own() -> None:
    apart = dry_run("qwen2_5_7b", "parallel={strategy: replicate, tensor: 2}", "rollout.parallel={tensor: 4}")
    generate = phase(apart, "generate")
    assert apart["machines"][0]["layout"] == "data 4 x tensor 2 x engine tensor 4"
    norms = (2 * 28 + 1) * 3584
    assert generate["engine"] == ((7_615_616_512 - norms) // 4 + norms) * 2
    assert generate["KV cache"] == 28 * 2 * 128 * 64 * 2048 * 2  # two groups, still 64 completions at once


@pytest.mark.usefixtures("cutting")
def test_every_layout_that_can_be_run_has_its_peak_and_the_least_cut_one_is_proposed() -> None:
    cuda, ascend = dry_run("qwen2_5_7b")["machines"]
    assert [one["layout"] for one in cuda["layouts"]] == [
        "data 8", "zero1 8", "zero2 8", "fsdp 8",
        "data 4 x tensor 2", "zero1 4 x tensor 2", "zero2 4 x tensor 2", "fsdp 4 x tensor 2",
        "data 2 x tensor 4", "zero1 2 x tensor 4", "zero2 2 x tensor 4", "fsdp 2 x tensor 4",
    ]  # fmt: skip
    peaks = [one["peak"] for one in cuda["layouts"]]
    assert peaks[3] == cuda["peak"]
    assert peaks[0] > peaks[4] > peaks[8]
    assert "fsdp 8" not in [one["layout"] for one in ascend["layouts"]]
    assert ascend["change"] == ["parallel={strategy: zero2, tensor: 2}"]
    assert (ascend["plan"]["layout"], ascend["plan"]["runs"]) == ("zero1 4 x tensor 2", True)
    assert dry_run("qwen2_5_7b", *ascend["change"])["machines"][1]["fits"] is True
    assert "change: 'parallel={strategy: zero2, tensor: 2}'" in shown(dry_run("qwen2_5_7b"))


def test_tensor_groups_that_backend_machine_or_model_cannot_have_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindrlhf_grpo_torch, "UNSUPPORTED", {"tensor_parallel": "not made"})
    problems = dry_run("qwen2_5_7b", "parallel.tensor=2")["problems"]
    assert problems[0].endswith("the torch backend does not have parallel.tensor=2 yet")
    assert "does not divide num_attention_heads (28)" in dry_run("qwen2_5_7b", "parallel.tensor=8")["problems"][0]
    assert "accepted: 1, 2, 4" in dry_run("qwen2_5_7b", "rollout.parallel={tensor: 3}")["problems"][0]


def test_a_frozen_tower_has_no_gradients() -> None:
    trained = phase(dry_run("qwen2_5_vl_7b", "model.lora_rank=0"), "update")
    frozen = phase(dry_run("qwen2_5_vl_7b", "model.lora_rank=0", "model.freeze.prefixes=[visual]"), "update")
    assert trained["gradients"] - frozen["gradients"] == 676_550_144 * 2
    assert frozen["vision"] < trained["vision"]


def test_swapped_parts_are_away_in_phases_that_do_not_read_them() -> None:
    findings = dry_run("qwen2_5_14b")
    generate, update = phase(findings, "generate"), phase(findings, "update")
    assert (generate["reference"], generate["optimizer"], generate["engine"]) == (0, 0, 14_770_033_664 * 2)
    assert (update["engine"], update["reference"]) == (0, 0)
    assert update["optimizer"] > 0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_is_checked_and_what_does_not_fit_has_a_layout_that_would(path: Path) -> None:
    findings = examine_config(path, [])
    assert [machine["name"] for machine in findings["machines"]] == ["8 x 80 GB CUDA", "8 x 64 GB Ascend"]
    for machine in findings["machines"]:
        assert machine["fits"] or machine["plan"]["peak"] <= machine["available"]
    assert findings["ok"] is not any(text in path.stem for text in ("vl_72b", "78b", "deepseek_v3"))
    assert "Nothing was loaded." in shown(findings)


def test_what_to_change_makes_it_fit() -> None:
    machine = dry_run("qwen2_5_7b", "parallel=null", "model.recompute=false")["machines"][0]
    assert machine["fits"] is False
    assert machine["change"] == ["parallel={tensor: 2}"]
    assert dry_run("qwen2_5_7b", "parallel=null", "model.recompute=false", *machine["change"])["ok"] is True


def test_a_setting_that_swaps_is_written_as_it_is_read() -> None:
    change = dry_run("llama3_2_3b")["machines"][1]["change"]
    assert change == ["swap={}"]
    assert dry_run("llama3_2_3b", *change)["machines"][1]["fits"] is True


def test_a_backend_that_lacks_something_is_a_problem_where_it_is_meant() -> None:
    assert dry_run("qwen2_5_7b")["problems"] == []
    problems = dry_run("qwen2_5_7b", "backend=mindspore")["problems"]
    assert problems[0].endswith("the mindspore backend does not have parallel.strategy=fsdp yet")
    assert "fits with 'parallel={strategy: zero2, tensor: 2}'" in problems[1]


def test_mindspore_shares_out_the_optimizer_state() -> None:
    findings = dry_run(
        "qwen2_5_7b", "backend=mindspore", "parallel.strategy=zero1", "train.tokens_per_micro_batch=2048"
    )
    assert (findings["ok"], findings["machines"][1]["layout"]) == (True, "zero1 8")


def test_shards_hold_adapters_and_image_models_but_no_reward_model_with_adapters(tmp_path: Path) -> None:
    lora = dry_run("qwen2_5_7b", "model.lora_rank=8")
    assert lora["problems"] == []
    adapters = 8 * 28 * 90_112  # as above, of rank 8
    assert phase(lora, "update")["weights"] == 7_615_616_512 // 8 * 2 + adapters // 8 * 4
    assert dry_run("qwen2_5_vl_7b", "model.lora_rank=0", "parallel={strategy: fsdp}")["problems"] == []
    path = tmp_path / "reward.yaml"
    path.write_text(SFT)
    reward = examine_config(path, ["objective.name=bradley_terry", "model.lora_rank=8"])
    assert "parallel.strategy=fsdp is not made for a reward model with adapters" in reward["problems"][0]


def test_training_on_rows_that_are_there_is_predicted_too(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text(SFT)
    sft = examine_config(path, [])
    assert list(sft["machines"][0]["phases"]) == ["load", "update", "checkpoint"]
    assert "engine" not in {part for part, size in phase(sft, "update").items() if size}
    dpo = examine_config(path, ["objective.name=dpo", "objective.beta=0.1"])
    assert phase(dpo, "update")["reference"] == 7_615_616_512 // 8 * 2
    assert "score" in dpo["machines"][0]["phases"]
    stored = examine_config(path, ["objective.name=dpo", "objective.reference_logps=stored"])
    assert phase(stored, "update")["reference"] == 0


def test_a_critic_is_a_model_of_its_own_unless_it_shares_the_policys_body() -> None:
    ppo = ("algorithm.name=ppo", "algorithm.kl_coef=0", "critic={}")
    own = phase(dry_run("qwen2_5_1_5b", *ppo), "update")
    assert (own["critic"], own["critic optimizer"]) == (1_543_714_304 * 2, 1_543_714_304 * 12)
    assert "critic" not in phase(dry_run("qwen2_5_1_5b", *ppo[:2], "critic={shared: true}"), "update")


def test_a_model_that_scores_has_a_phase_of_its_own(tmp_path: Path) -> None:
    judge = "rewards=[{function: 'model:Qwen/Qwen2.5-72B-Instruct', arguments: {dtype: bfloat16}}]"
    findings = dry_run("qwen2_5_7b", judge)
    assert phase(findings, "reward")["scoring model"] == 72_706_203_648 * 2
    assert findings["ok"] is False
    assert "phase reward needs about" in findings["problems"][0]
    unknown = dry_run("qwen2_5_7b", "rewards=[{function: 'a.b:C', arguments: {model: no/such}}]")
    assert unknown["not_counted"] == ["no/such"]
    assert "not counted: no/such" in shown(unknown)


def test_a_model_in_a_folder_without_weights_is_read_from_its_config(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(known_models()["llama3_8b"].config, num_hidden_layers=2)))
    assert dry_run("llama3_8b", f"model.path={folder}")["model"] == {"path": str(folder), "parameters": 1_486_901_248}


def test_a_machine_with_less_memory_needs_more_devices() -> None:
    config = load_config(CONFIGS / "qwen2_5_7b.yaml", [])
    model = read_architecture(known_models()["qwen2_5_7b"].config)
    small = Machine(name="8 x 24 GB", devices=8, available=22 * 2**30, backend="torch")
    plan = on_machine(config, model, model_shape(model, weight_shapes(model)), small)["plan"]
    assert (plan["devices"], plan["layout"], plan["runs"]) == (16, "fsdp 4 x tensor 4", True)


@pytest.mark.parametrize(("overrides", "code"), [([], 0), (["parallel=null"], 1), (["model.path=no/such"], 1)])
def test_exit_code_and_json(overrides: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--dry-run", "--json", str(CONFIGS / "qwen2_5_7b.yaml"), *overrides])
    assert stopped.value.code == code
    findings = json.loads(capsys.readouterr().out)
    assert findings["ok"] is (code == 0)
    assert len(findings["machines"]) in (0, len(MACHINES))


def test_a_dry_run_without_a_configuration_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--dry-run"])
    assert stopped.value.code == 2
    assert "needs a configuration" in capsys.readouterr().err
