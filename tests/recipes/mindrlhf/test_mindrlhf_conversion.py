"""Checkpoints there and back: MindSpore's files under MindFormers' names and Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.model_files.folder import read_model_config
from mindrlhf_grpo.recipes.mindrlhf.ckpt_files import read_ckpt_header, read_ckpt_tensor, write_ckpt
from mindrlhf_grpo.recipes.mindrlhf.conversion import from_folder, sources, to_folder
from mindrlhf_grpo.recipes.mindrlhf.weight_names import family_rules, to_here, weight_names

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 29, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen2": {**SMALL, "bos_token_id": 1},
    "qwen3": {**SMALL, "head_dim": 8},
    "glm": {**SMALL, "head_dim": 8},
    "deepseek_v3": {
        **SMALL, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
        "topk_group": 1, "moe_intermediate_size": 12, "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6, "n_shared_experts": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a family."""
    out = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(request.param, **FAMILIES[request.param])
    model = transformers.AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        weight.data.normal_()
    model.save_pretrained(out)
    return out


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {name: source.read() for name, source in sources(path).items()}


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_a_folder_comes_back_as_it_was(folder: Path, tmp_path: Path, form: Any) -> None:
    there = from_folder(folder, tmp_path / "there", weight_names(), form)
    source = there.out / "model.ckpt" if form == "ckpt" else there.out / "model.safetensors"
    here = to_folder(source, tmp_path / "here", weight_names(), read_model_config(folder))
    expected, found = tensors(folder), tensors(here.out)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_names_are_mindformers(tmp_path: Path) -> None:
    weights = {"model.embed_tokens.weight": (29, 16), "model.layers.1.self_attn.q_proj.bias": (16,)}
    values = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in weights.items()}
    write_ckpt(tmp_path / "x.ckpt", values.items(), dtypes=dict.fromkeys(values, "F32"))
    header = read_ckpt_header(tmp_path / "x.ckpt")
    assert header["model.layers.1.self_attn.q_proj.bias"].shape == (16,)
    plan = to_here(family_rules(weight_names(), "qwen2"), ["model.tok_embeddings.embedding_weight"], {"one": 1})
    assert list(plan.tensors) == ["model.embed_tokens.weight"]


def test_prefixes_of_training_are_cut_and_states_of_the_optimizer_left_out() -> None:
    there = ["grpo_model_train.policy_model.model.layers.0.attention.wq.weight", "adam_m.model.norm_out.weight",
             "global_step"]  # fmt: skip
    plan = to_here(family_rules(weight_names(), "llama"), there, {"one": 1})
    assert list(plan.tensors) == ["model.layers.0.self_attn.q_proj.weight"]
    assert plan.left_out == ["adam_m.model.norm_out.weight", "global_step"]


def test_joined_matrices_of_inference_are_taken_apart() -> None:
    sizes = {"one": 1, "heads": 2, "kv_heads": 1, "head": 3}
    plan = to_here(family_rules(weight_names(), "qwen2"), ["model.layers.0.attention.w_qkv.weight"], sizes)
    whole = np.arange(12 * 2).reshape(12, 2)
    cut = {name.split(".")[4]: make(lambda _: whole) for name, make in plan.tensors.items()}
    assert {name: part[:, 0].tolist() for name, part in cut.items()} == {
        "q_proj": [0, 2, 4, 6, 8, 10], "k_proj": [12, 14, 16], "v_proj": [18, 20, 22],
    }  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_rows_of_the_newer_names_lie_group_by_group_and_gate_beside_up(family: str) -> None:
    """Of 4 heads of 2 with 2 groups: rows q0 q1 k0 v0, q2 q3 k1 v1; gate and up of each inner unit are neighbours."""
    sizes = {"one": 1, "heads": 4, "kv_heads": 2, "group": 2, "head": 2, "inner": 3}
    names = ["decoder.layers.0.self_attention.linear_qkv.weight", "model.decoder.layers.0.mlp.linear_fc1.weight"]
    rows = {names[0]: np.arange(16)[:, None], names[1]: np.arange(6)[:, None]}
    plan = to_here(family_rules(weight_names(), family), names, sizes)
    found = {name.split(".")[4]: make(lambda read: rows[read])[:, 0].tolist() for name, make in plan.tensors.items()}
    assert found == {
        "q_proj": [0, 1, 2, 3, 8, 9, 10, 11], "k_proj": [4, 5, 12, 13], "v_proj": [6, 7, 14, 15],
        "gate_proj": [0, 2, 4], "up_proj": [1, 3, 5],
    }  # fmt: skip


def test_turned_rows_of_latent_attention_are_paired_again() -> None:
    """Rows x0 x1 y0 y1 of the rotated part in MindFormers are x0 y0 x1 y1 here."""
    sizes = {"one": 1, "heads": 1, "nope": 1, "rope": 4}
    there = [f"model.layers.0.attention.l2q_{part}_proj.weight" for part in ("nope", "pe")]
    values = {there[0]: np.array([[9.0]]), there[1]: np.array([[0.0], [1.0], [10.0], [11.0]])}
    plan = to_here(family_rules(weight_names(), "deepseek_v3"), there, sizes)
    (made,) = plan.tensors.values()
    assert made(lambda name: values[name])[:, 0].tolist() == [9.0, 0.0, 10.0, 1.0, 11.0]


def test_experts_that_lie_transposed_are_turned() -> None:
    sizes = {"one": 1, "experts": 2, "expert_inner": 3, "hidden": 2}
    name = "model.layers.3.feed_forward.routed_experts.ffn.w1.weight"
    plan = to_here(family_rules(weight_names(), "deepseek_v3"), [name], sizes)
    assert list(plan.tensors)[1] == "model.layers.3.mlp.experts.1.gate_proj.weight"
    plain, turned = np.arange(12).reshape(2, 3, 2), np.arange(12).reshape(2, 3, 2).transpose(0, 2, 1)
    for stacked in (plain, turned):
        assert plan.tensors["model.layers.3.mlp.experts.1.gate_proj.weight"](lambda _, s=stacked: s).tolist() == [
            [6, 7], [8, 9], [10, 11],
        ]  # fmt: skip


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    write_ckpt(tmp_path / "x.ckpt", [("lm_head.weight", values)], dtypes={"lm_head.weight": "BF16"})
    header = read_ckpt_header(tmp_path / "x.ckpt")
    assert header["lm_head.weight"].dtype == "BF16"
    assert read_ckpt_tensor(tmp_path / "x.ckpt", header["lm_head.weight"]).tolist() == values.tolist()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_ckpt(tmp_path / "whole.ckpt", [("lm_head.weight", np.ones((4, 4)))], dtypes={"lm_head.weight": "F32"})
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt cannot be read .*cut off"):
        read_ckpt_header(tmp_path / "cut.ckpt")
    (tmp_path / "text.ckpt").write_text("these are no weights")
    with pytest.raises(CheckpointError, match=r"text\.ckpt cannot be read"):
        read_ckpt_header(tmp_path / "text.ckpt")
    with pytest.raises(CheckpointError, match=r"1 names that are not known: model\.layers\.0\.attention\.wz"):
        to_here(family_rules(weight_names(), "llama"), ["model.layers.0.attention.wz.weight"], {"one": 1})
    for rank in (0, 1):
        (tmp_path / f"ranks/rank_{rank}").mkdir(parents=True)
        (tmp_path / f"ranks/rank_{rank}/x.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match="parts of several ranks"):
        sources(tmp_path / "ranks")
