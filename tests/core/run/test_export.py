"""Export: which folder is meant, what is copied, and adapters merged exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import CheckpointError, UserError
from mindrlhf_grpo.model_files.folder import find_folder, read_header
from mindrlhf_grpo.model_files.lora import lora_scale, merge_adapter
from mindrlhf_grpo.model_files.safetensors import from_bfloat16, to_bfloat16
from mindrlhf_grpo.run import checkpoint
from mindrlhf_grpo.run.export import export, find_policy, pin_models
from tests.support.tiny_run import LAYERS, tensors, write_model

PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "target_modules": ["q_proj"]}


def write_adapter(folder: Path, base: Path, **settings: Any) -> dict[str, np.ndarray]:
    """An adapter on every q_proj; returns the change it makes to each weight at scale 1."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    parts, change = {}, {}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn.q_proj"
        a, b = random.normal(size=(2, 8)).astype(np.float32), random.normal(size=(8, 2)).astype(np.float32)
        parts |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        change[f"{name}.weight"] = b @ a
    save_file(parts, folder / "adapter_model.safetensors")
    described = {**PLAIN, "base_model_name_or_path": str(base), **settings}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    return change


def write_checkpoints(run: Path, *steps: int) -> None:
    def write(folder: Path) -> None:
        (folder / "policy").rmdir()
        write_model(folder / "policy")
        (folder / "optimizer" / "state").write_text("x")

    for step in steps:
        checkpoint.save(run / "checkpoints", step, {"step": step}, write)


# ---- which folder is meant


def test_a_run_means_its_newest_checkpoint(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", 2, 10)
    newest = tmp_path / "run" / "checkpoints" / "step_10"
    assert find_policy(tmp_path / "run") == newest / "policy"
    assert find_policy(tmp_path / "run" / "checkpoints") == newest / "policy"
    assert find_policy(newest) == newest / "policy"
    assert find_policy(newest / "policy") == newest / "policy"
    assert find_policy(tmp_path / "run" / "checkpoints" / "step_2").parent.name == "step_2"


def test_a_corrupt_checkpoint_is_not_exported(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", 1)
    weights = tmp_path / "run" / "checkpoints" / "step_1" / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is corrupt"):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("named", ["run", "run/checkpoints/latest", "run/checkpoints/step_10"])
def test_a_configuration_that_trains_names_the_checkpoint_and_keeps_the_name_of_the_reward(
    tmp_path: Path, named: str
) -> None:
    """Finding P2: ``model.path: runs/x`` and ``function: model:runs/x`` were refused."""
    write_checkpoints(tmp_path / "run", 2, 10)
    checkpoint.link(tmp_path / "run" / "checkpoints", "latest", 10)
    model = {"model": {"path": str(tmp_path / named)}, "data": {"source": "d"}}
    written = {
        **model,
        "rewards": [{"function": f"model:{tmp_path / named}"}],
        "critic": {"path": str(tmp_path / named)},
    }
    config = pin_models(RunConfig.model_validate(written))
    policy = str(tmp_path / "run" / "checkpoints" / "step_10" / "policy")
    assert isinstance(config, RunConfig)
    assert config.critic is not None
    assert (config.model.path, config.critic.path) == (policy, policy)
    assert (config.rewards[0].function, config.rewards[0].name) == (f"model:{policy}", named.rpartition("/")[2])
    offline = pin_models(OfflineConfig.model_validate({**model, "objective": {"name": "dpo"}}))
    assert offline.model.path == policy
    assert pin_models(config) == config
    plain = RunConfig.model_validate({**model, "model": {"path": "owner/name"}, "rewards": [{"function": "format"}]})
    assert pin_models(plain) == plain


def test_the_best_checkpoint_can_be_exported(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", 2, 10)
    state = tmp_path / "run" / "checkpoints" / "step_10" / "trainer_state.json"
    state.write_text(json.dumps({"best_step": 2}))
    written = export(tmp_path / "run", tmp_path / "out", which="best")
    assert written["from"] == str(tmp_path / "run" / "checkpoints" / "step_2" / "policy")
    with pytest.raises(CheckpointError, match="is one model"):
        find_policy(tmp_path / "out", "best")


# ---- copying


def test_export_copies_the_policy_to_a_new_folder(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", 3)
    written = export(tmp_path / "run", tmp_path / "out" / "model")
    assert written["kind"] == "model"
    assert written["merged"] is False
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out" / "model").iterdir()} == names
    find_folder(str(tmp_path / "out" / "model"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_export_never_writes_over_anything(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", 3)
    (tmp_path / "out").mkdir()
    export(tmp_path / "run", tmp_path / "out")
    with pytest.raises(CheckpointError, match="is there already and not empty"):
        export(tmp_path / "run", tmp_path / "out")


# ---- merging


def test_merging_adds_the_scaled_product_and_nothing_else(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    random = np.random.default_rng(1)
    before = {name: random.normal(size=zeros.shape).astype(np.float32) for name, zeros in tensors().items()}
    save_file(before, base / "model.safetensors")
    change = write_adapter(tmp_path / "adapter", base)
    written = export(tmp_path / "adapter", tmp_path / "out", merge=True)
    assert (written["kind"], written["merged"]) == ("model", True)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert after.keys() == before.keys()
    for name, weight in before.items():
        expected = weight + np.float32(3.0) * change[name] if name in change else weight
        np.testing.assert_array_equal(after[name], expected)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_an_adapter_without_merge_is_copied_as_it_is(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base)
    assert export(tmp_path / "adapter", tmp_path / "out")["kind"] == "adapter"
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert find_folder(str(tmp_path / "out")) == tmp_path / "out.merged"


def test_bfloat16_weights_are_rounded_once(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    base = write_model(tmp_path / "base")
    torch.manual_seed(0)
    before = {name: torch.randn(zeros.shape).to(torch.bfloat16) for name, zeros in tensors().items()}
    save_torch(before, base / "model.safetensors")
    change = write_adapter(tmp_path / "adapter", base)
    export(tmp_path / "adapter", tmp_path / "out", merge=True)
    after = load_torch(tmp_path / "out" / "model.safetensors")
    for name, weight in before.items():
        delta = torch.from_numpy(change[name] * np.float32(3.0)) if name in change else torch.zeros(())
        assert torch.equal(after[name], (weight.float() + delta).to(torch.bfloat16))


def test_merging_gives_what_peft_gives(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=43, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=9, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "out", merge=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    truth = adapted.merge_and_unload().state_dict()
    for name, weight in truth.items():
        torch.testing.assert_close(merged[name], weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"), ({"peft_type": "IA3"}, "IA3"),
    ],
)  # fmt: skip
def test_other_adapters_than_plain_lora_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    base = write_model(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base, **settings)
    with pytest.raises(CheckpointError, match=message):
        export(tmp_path / "adapter", tmp_path / "out", merge=True)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    write_adapter(tmp_path / "adapter", base)
    (tmp_path / "out").mkdir()
    kept = {name: value for name, value in tensors().items() if "layers.1" not in name}
    save_file(kept, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.q_proj\.weight, which .* has not"):
        merge_adapter(tmp_path / "adapter", base, tmp_path / "out")
    save_file(
        {**tensors(), "model.layers.1.self_attn.q_proj.weight": np.zeros((4, 8), np.float32)},
        base / "model.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"is \(8, 8\), the model's \(4, 8\)"):
        merge_adapter(tmp_path / "adapter", base, tmp_path / "out")


def test_rank_stabilised_adapters_are_scaled_by_the_root() -> None:
    assert lora_scale({**PLAIN, "r": 16, "lora_alpha": 8}) == 0.5
    assert lora_scale({**PLAIN, "r": 16, "lora_alpha": 8, "use_rslora": True}) == 2.0


def test_bfloat16_rounds_to_nearest_ties_to_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -1.004, np.inf, 3.4e38, 0.0], np.float32)
    expected = np.array([1.0, 1.0, 1.015625, -1.0078125, np.inf, np.inf, 0.0], np.float32)
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), expected)
    assert np.isnan(from_bfloat16(to_bfloat16(np.array([np.nan], np.float32))))[0]


@given(arrays.arrays(np.uint16, 32, elements=st.integers(0, 0xFFFF)))
def test_bfloat16_survives_the_way_through_float32(bits: np.ndarray) -> None:
    wide = from_bfloat16(bits)
    np.testing.assert_array_equal(to_bfloat16(wide)[~np.isnan(wide)], bits[~np.isnan(wide)])


# ---- headers


def test_header_of_a_file(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert (header["a"].dtype, header["a"].shape, header["a"].size) == ("F32", (2, 3), 6)
    assert header["a"].end - header["a"].start == 24
    assert (header["b"].dtype, header["b"].end - header["b"].start) == ("I8", 4)


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_header(path)
