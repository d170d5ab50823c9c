"""Model folders and adapters, exchanged with transformers and peft."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.tiny_families import make_batch, make_model, save
from tests.support.tiny_models import PlainAttention, inputs, load, log_probs

ms = pytest.importorskip("mindspore")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from mindrlhf_grpo_mindspore.models import Decoder, hf  # noqa: E402
from mindspore import Tensor  # noqa: E402

from mindrlhf_grpo.config.run import ModelConfig  # noqa: E402
from mindrlhf_grpo.errors import CheckpointError, ConfigError  # noqa: E402
from mindrlhf_grpo.model_files.folder import read_header  # noqa: E402
from mindrlhf_grpo.model_files.weights import file_parts, weight_shapes  # noqa: E402
from mindrlhf_grpo.testing.numpy_model.eight_bits import BLOCKS, write_eight_bits  # noqa: E402

TOLERANCE = 1e-4
FAMILIES = ["llama with biases and tied head", "qwen2", "qwen3", "glm4", "deepseek_v3", "deepseek_v3 plain", "seed_oss"]
IDS, REAL = make_batch(padded=False)


def found_log_probs(decoder: Decoder) -> np.ndarray:
    return log_probs(decoder, *inputs(IDS, REAL)).asnumpy()


@torch.no_grad()
def expected_log_probs(model: Any) -> np.ndarray:
    logits = model(torch.from_numpy(IDS)).logits.float()
    return logits.log_softmax(-1).reshape(-1, logits.shape[-1]).numpy()


def config_of(folder: Path, **settings: Any) -> ModelConfig:
    return ModelConfig(path=str(folder), **settings)


def changed(weights: dict[str, Any], scale: float = 0.05) -> dict[str, Any]:
    """The weights after a simulated step of training."""
    random = np.random.default_rng(3)
    for weight in weights.values():
        if weight.requires_grad:
            weight.set_data(weight + Tensor(random.standard_normal(weight.shape).astype(np.float32) * scale))
    return weights


def decoder_of(weights: dict[str, Any], architecture: Any, scale: float = 0.0) -> Decoder:
    return Decoder(architecture, weights, PlainAttention(architecture.attention_scale), lora_scale=scale)


def reloaded(folder: Path) -> Any:
    """The model loaded by transformers, which must find every weight and no other."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_folder_loads_in_transformers_with_equal_log_probs(tmp_path: Path, name: str) -> None:
    source = save(make_model(name), tmp_path / "source")
    architecture = hf.load_architecture(source)
    weights = changed(hf.load_weights(source, architecture))
    hf.save_model(weights, architecture, tmp_path / "saved", config_of(source))
    found = found_log_probs(decoder_of(weights, architecture))
    np.testing.assert_allclose(found, expected_log_probs(reloaded(tmp_path / "saved")), rtol=0, atol=TOLERANCE)
    names = set(read_header(source / "model.safetensors"))
    assert set(read_header(tmp_path / "saved" / "model.safetensors")) == names


@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
def test_files_of_bounded_size_are_written_and_read(tmp_path: Path, name: str) -> None:
    model = make_model(name)
    save(model, tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    decoder = load(tmp_path / "theirs")
    weights = hf.load_weights(tmp_path / "theirs", decoder.architecture)
    hf.save_model(
        weights, decoder.architecture, tmp_path / "ours", config_of(tmp_path / "theirs"), shard_bytes=20_000
    )  # fmt: skip
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    np.testing.assert_allclose(found_log_probs(decoder), expected_log_probs(model), rtol=0, atol=TOLERANCE)
    for key, tensor in reloaded(tmp_path / "ours").state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key


def test_bfloat16_files_are_read_in_float32_and_written_in_the_dtype_of_the_weights(tmp_path: Path) -> None:
    model = make_model("deepseek_v3").to(torch.bfloat16)
    router = model.model.layers[1].mlp.gate
    router.e_score_correction_bias = router.e_score_correction_bias.float()  # published so, and kept so
    source = save(model, tmp_path / "source")
    found = found_log_probs(load(source))
    np.testing.assert_allclose(found, expected_log_probs(model.float()), rtol=0, atol=TOLERANCE)
    architecture = hf.load_architecture(source)
    weights = hf.load_weights(source, architecture, "bfloat16")
    hf.save_model(weights, architecture, tmp_path / "saved", config_of(source))
    before, after = (read_header(tmp_path / name / "model.safetensors") for name in ("source", "saved"))
    assert {name: info.dtype for name, info in before.items()} == {name: info.dtype for name, info in after.items()}
    assert after["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == "F32"
    saved = reloaded(tmp_path / "saved")
    assert saved.dtype == torch.bfloat16
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor.float(), model.state_dict()[name].float()), name


def test_stacked_experts_are_read_too(tmp_path: Path) -> None:
    model = make_model("deepseek_v3")
    save(model, tmp_path)
    stacked = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert "model.layers.1.mlp.experts.gate_up_proj" in stacked
    save_file(stacked, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_allclose(found_log_probs(load(tmp_path)), expected_log_probs(model), rtol=0, atol=TOLERANCE)


def test_weights_of_eight_bits_are_multiplied_out_as_they_are_read(tmp_path: Path) -> None:
    folder = save(make_model("deepseek_v3"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    linear = {name for name in tensors if name.endswith(("_proj.weight", "_mqa.weight"))}
    meant = write_eight_bits(folder / "model.safetensors", tensors, eight=linear)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": BLOCKS}))
    architecture = hf.load_architecture(folder)
    weights = hf.load_weights(folder, architecture)
    for name, shape in weight_shapes(architecture).items():
        parts = [meant[part] for part, _ in file_parts(name, shape)]
        np.testing.assert_array_equal(weights[name].asnumpy(), np.stack(parts).reshape(shape), err_msg=name)
    assert len(linear) == 2 * 5 + 3 + 3 * 9  # attention of two layers; a dense layer; 8 experts and a shared one


def test_layers_for_multi_token_prediction_are_left_out(tmp_path: Path) -> None:
    model = make_model("deepseek_v3")
    save(model, tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "model.layers.2.eh_proj.weight": np.zeros((2, 2), np.float32)}, file)
    np.testing.assert_allclose(found_log_probs(load(tmp_path)), expected_log_probs(model), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "1 missing: model.norm.weight$"),
        (
            lambda t: [t.pop(f"model.layers.1.mlp.experts.{i}.up_proj.weight") for i in range(8)],
            "8 missing: model.layers.1.mlp.experts.0.up_proj.weight, .*, ...$",
        ),
        (lambda t: t.update({"model.extra": np.zeros(2, np.float32)}), "1 not asked for: model.extra$"),
        (
            lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:, :8].copy()}),
            r"1 of another shape: lm_head.weight is \[61, 8\], not \[61, 32\]$",
        ),
    ],
)
def test_weights_that_do_not_fit_are_one_error(tmp_path: Path, change: Any, message: str) -> None:
    save(make_model("deepseek_v3"), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=message):
        hf.load_weights(tmp_path, hf.load_architecture(tmp_path))


def with_adapters(source: Path, **settings: Any) -> tuple[Any, dict[str, Any], ModelConfig]:
    config = config_of(source, lora_rank=4, lora_alpha=6.0, **settings)
    architecture = hf.load_architecture(source)
    weights = hf.add_lora(hf.load_weights(source, architecture), config, architecture, seed=5)
    return architecture, weights, config


def load_in_peft(base: Path, adapter: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns of keys it does not find
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        return peft.PeftModel.from_pretrained(model, adapter).eval()


@pytest.mark.parametrize("name", ["llama", "glm4", "deepseek_v3"])
def test_a_saved_adapter_loads_in_peft_and_merged_weights_in_transformers(tmp_path: Path, name: str) -> None:
    source = save(make_model(name), tmp_path / "source")
    architecture, weights, config = with_adapters(source)
    changed(weights, 0.2)
    assert {name for name, weight in weights.items() if weight.requires_grad} == set(hf.adapters(weights))
    found = found_log_probs(decoder_of(weights, architecture, hf.lora_scale(config)))
    without = found_log_probs(decoder_of(weights, architecture))
    assert np.abs(found - without).max() > 0.1
    np.testing.assert_allclose(without, expected_log_probs(reloaded(source)), rtol=0, atol=TOLERANCE)
    hf.save_model(weights, architecture, tmp_path / "adapter", config)
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    adapted = load_in_peft(source, tmp_path / "adapter")
    np.testing.assert_allclose(found, expected_log_probs(adapted), rtol=0, atol=TOLERANCE)
    hf.save_model(weights, architecture, tmp_path / "merged", config, merge=True)
    np.testing.assert_allclose(found, expected_log_probs(reloaded(tmp_path / "merged")), rtol=0, atol=TOLERANCE)


def test_an_adapter_of_peft_is_restored(tmp_path: Path) -> None:
    source = save(make_model("qwen3"), tmp_path / "source")
    architecture, weights, config = with_adapters(source, lora_targets=["q_proj", "down_proj"])
    settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(source), settings).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    live = dict(weights)
    hf.restore_weights(weights, architecture, tmp_path / "adapter")
    assert all(weights[name] is live[name] for name in live)  # the parameters stay, compiled functions hold them
    found = found_log_probs(decoder_of(weights, architecture, hf.lora_scale(config)))
    np.testing.assert_allclose(found, expected_log_probs(theirs), rtol=0, atol=TOLERANCE)


def test_fresh_adapters_are_those_that_peft_draws(tmp_path: Path) -> None:
    source = save(make_model("llama"), tmp_path / "source")
    _, weights, _ = with_adapters(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    torch.manual_seed(5)
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    expected = peft.get_peft_model_state_dict(theirs, save_embedding_layers=False)
    found = {f"base_model.model.{name}": weight.asnumpy() for name, weight in hf.adapters(weights).items()}
    assert len(found) == 2 * 2 * 7
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)


def test_saved_weights_are_restored_into_the_live_parameters(tmp_path: Path) -> None:
    source = save(make_model("deepseek_v3"), tmp_path / "source")
    architecture = hf.load_architecture(source)
    weights = changed(hf.load_weights(source, architecture))
    hf.save_model(weights, architecture, tmp_path / "saved", config_of(source))
    fresh = hf.load_weights(source, architecture)
    live = dict(fresh)
    hf.restore_weights(fresh, architecture, tmp_path / "saved")
    for name, weight in weights.items():
        assert fresh[name] is live[name]
        np.testing.assert_array_equal(fresh[name].asnumpy(), weight.asnumpy())


def test_a_folder_of_another_model_is_not_restored(tmp_path: Path) -> None:
    source = save(make_model("llama"), tmp_path / "source")
    other = save(make_model("qwen2"), tmp_path / "other")
    architecture = hf.load_architecture(source)
    weights = hf.load_weights(source, architecture)
    with pytest.raises(CheckpointError, match=r"does not hold this model's weights.*q_proj\.bias"):
        hf.restore_weights(weights, architecture, other)
    _, adapted, config = with_adapters(source)
    hf.save_model(adapted, architecture, tmp_path / "adapter", config)
    _, narrower, _ = with_adapters(source, lora_targets="q_proj")
    with pytest.raises(CheckpointError, match="not asked for"):
        hf.restore_weights(narrower, architecture, tmp_path / "adapter")


def test_unknown_lora_targets_are_refused(tmp_path: Path) -> None:
    source = save(make_model("llama"), tmp_path / "source")
    with pytest.raises(ConfigError, match="no projection is called 'query'; here: all-linear, down_proj, gate_proj"):
        with_adapters(source, lora_targets=["q_proj", "query"])


def test_hf_tensors_are_named_as_transformers_holds_them_and_merged(tmp_path: Path) -> None:
    model = make_model("deepseek_v3")
    _, weights, config = with_adapters(save(model, tmp_path))
    changed(weights, 0.2)
    tensors = dict(hf.hf_tensors(weights, hf.lora_scale(config)))
    held = model.state_dict()
    assert set(tensors) == set(held)
    name = "model.layers.1.self_attn.o_proj"
    product = weights[f"{name}.lora_B.weight"].asnumpy() @ weights[f"{name}.lora_A.weight"].asnumpy()
    expected = held[f"{name}.weight"].numpy() + 1.5 * product
    np.testing.assert_allclose(tensors[f"{name}.weight"], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(dict(hf.hf_tensors(weights))[f"{name}.weight"], held[f"{name}.weight"].numpy())


def test_the_saved_config_names_the_dtype_once(tmp_path: Path) -> None:
    source = save(make_model("llama"), tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (source / "config.json").write_text(json.dumps(config))
    architecture = hf.load_architecture(source)
    hf.save_model(
        hf.load_weights(source, architecture, "bfloat16"), architecture, tmp_path / "saved", config_of(source)
    )
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved == {**{key: value for key, value in config.items() if key != "torch_dtype"}, "dtype": "bfloat16"}
