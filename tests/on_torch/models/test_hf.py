"""Loading and saving Hugging Face folders, and the errors of folders that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.errors import BackendError, CheckpointError, ConfigError
from tests.support.tiny_policy import load_policy, make_batch, make_model, run_config, weighted_loss, write_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mindrlhf_grpo_torch.models import hf  # noqa: E402

torch.set_num_threads(1)
IDS = torch.tensor([[3, 1, 4, 1, 5, 9]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def refused(path: Path | str, **model: Any) -> str:
    with pytest.raises(ConfigError) as error:
        hf.load_causal_lm(run_config(path, **model).model)
    return str(error.value)


def test_a_loaded_model_computes_what_was_saved(folder: Path) -> None:
    loaded = hf.load_causal_lm(run_config(folder).model)
    assert torch.equal(logits(loaded), logits(make_model()))
    assert not loaded.training


def test_the_type_is_the_configured_one(folder: Path) -> None:
    loaded = hf.load_causal_lm(run_config(folder, dtype="bfloat16").model)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_folders_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, folder: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(tmp_path / "empty")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "martian"}))
    assert "cannot be loaded" in refused(folder)
    assert "martian" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "cannot be loaded" in refused(folder)


def test_absent_partial_and_wrong_weights_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, file, metadata={"format": "pt"})
    assert f"1 weights are missing from its files: {name}" in refused(folder)
    save_file({**tensors, name: torch.zeros(3, 3)}, file, metadata={"format": "pt"})
    assert "cannot be loaded" in refused(folder)
    file.unlink()
    assert "has no weights" in refused(folder)
    torch.save(tensors, folder / "pytorch_model.bin")  # a pickle: never opened
    assert "has no weights" in refused(folder)


def test_code_in_the_folder_is_not_run_unless_trusted(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": code}))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    assert "model.trust_remote_code=true" in refused(folder)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert hf.device_of("cpu") == torch.device("cpu")
    if not torch.accelerator.is_available():
        assert hf.device_of("auto") == torch.device("cpu")
        with pytest.raises(BackendError, match=r"model\.device 'cuda' is not available here"):
            hf.device_of("cuda")


def test_a_lora_target_that_matches_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no module is called 'query'; here: all-linear, .*q_proj"):
        load_policy(folder, lora_rank=2, lora_targets=["q_proj", "query"])


@pytest.mark.parametrize(("targets", "expected"), [("all-linear", 14), (["q_proj", "down_proj"], 4), ("up_proj", 2)])
def test_lora_trains_the_adapters_of_its_targets_only(folder: Path, targets: Any, expected: int) -> None:
    policy = load_policy(folder, lora_rank=2, lora_targets=targets)
    assert len(policy.trainable) == 2 * expected
    assert all(".lora_" in name for name in policy.trainable)


def trained(folder: Path, **model: Any) -> Any:
    policy = load_policy(folder, **model)
    policy.update(make_batch(), weighted_loss, learning_rate=1e-2)
    return policy


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_saved_model_loads_in_transformers_with_equal_logits(tmp_path: Path, family: str) -> None:
    policy = trained(write_model(tmp_path / "model", family))
    policy.save_model(tmp_path / "saved")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(policy.model))
    assert not torch.equal(logits(loaded), logits(make_model(family)))
    assert {path.suffix for path in (tmp_path / "saved").iterdir()} <= {".json", ".safetensors"}


def test_saved_buffers_are_weights_too(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    policy = load_policy(write_model(tmp_path / "model", "deepseek_v3"))
    bias = dict(policy.model.named_buffers())[name]
    before = policy.fingerprint()
    bias += torch.tensor([0.5, -0.5, 0.25, 0.0])
    assert policy.fingerprint() != before
    policy.save_model(tmp_path / "saved")
    policy.save_state(tmp_path / "state")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(dict(loaded.named_buffers())[name], bias)
    fresh = load_policy(tmp_path / "model")
    fresh.load_state(tmp_path / "saved", tmp_path / "state")
    assert fresh.fingerprint() == policy.fingerprint()


def test_weights_that_are_views_of_one_tensor_are_saved_and_loaded_apart(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder)
    attention = policy.model.model.layers[0].self_attn
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    fused = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, fused.split([len(part) for part in parts]), strict=True):
        part.data = view
    policy.update(make_batch(), weighted_loss, learning_rate=1e-2)
    policy.save_model(tmp_path / "saved")
    policy.save_state(tmp_path / "state")
    after = fused.clone()
    fused.zero_()
    policy.load_state(tmp_path / "saved", tmp_path / "state")
    assert torch.equal(fused, after)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(policy.model))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora_saves_the_adapter_alone_or_merged_weights(tmp_path: Path, family: str) -> None:
    import peft

    policy = trained(write_model(tmp_path / "model", family), lora_rank=3)
    before, live = logits(policy.model), {name: weight.clone() for name, weight in policy.model.named_parameters()}
    policy.save_model(tmp_path / "adapter")
    policy.save_model(tmp_path / "merged", merge=True)
    assert all(torch.equal(live[name], weight) for name, weight in policy.model.named_parameters())
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {p.name for p in (tmp_path / "adapter").iterdir()}
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(peft.PeftModel.from_pretrained(base, tmp_path / "adapter")), before)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), before, atol=1e-5)
    assert not torch.allclose(logits(merged), logits(make_model(family)), atol=1e-3)
    assert dict(merged.named_parameters()).keys() == dict(hf.hf_tensors(policy.model)).keys()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, folder: Path) -> None:
    other = write_model(tmp_path / "other", "qwen2")
    policy = load_policy(folder)
    policy.save_state(tmp_path / "state")
    with pytest.raises(CheckpointError, match="does not hold this model's weights"):
        policy.load_state(other, tmp_path / "state")
    with pytest.raises(CheckpointError, match="does not hold this model's weights"):
        load_policy(folder, lora_rank=2).load_state(other, tmp_path / "state")
