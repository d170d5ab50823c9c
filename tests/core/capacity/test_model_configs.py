"""Known models and ``model_configs/``: sizes equal the models', every file is a complete run, and the table is up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docs.tables.model_configs import BEGIN, DOCUMENT, END, in_document
from mindrlhf_grpo.capacity.known_models import find_architecture, find_config, find_known, known_models
from mindrlhf_grpo.capacity.model_shape import model_shape
from mindrlhf_grpo.config.file import load_config, read_config
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.model_files.folder import read_model_config, read_shapes
from mindrlhf_grpo.model_files.weights import parameter_count, weight_shapes
from mindrlhf_grpo.trainers.preflight import check
from tests.support.repository import ROOT
from tests.support.tiny_run import needs_torch, write_model

FILES = sorted((ROOT / "model_configs").glob("*.yaml"))
# As transformers builds them on the meta device, checked at full size; with the buffers of DeepSeek-V3's gates.
PARAMETERS = {
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_72b": 72_706_203_648,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen2_5_vl_72b": 73_410_777_344,
    "internvl3_8b": 7_944_373_760,
    "internvl3_78b": 78_408_318_336,
    "deepseek_r1_distill_llama_70b": 70_553_706_496,
    "deepseek_v3": 671_026_419_200,
    "glm4_9b": 9_399_951_360,
    "glm4_9b_0414": 9_400_279_040,
    "llama2_7b": 6_738_415_616,
    "llama3_8b": 8_030_261_248,
    "llama3_2_3b": 3_212_749_824,
    "smollm2_135m": 134_515_008,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_of_a_known_model_add_up_to_its_published_count(name: str) -> None:
    model = known_models()[name]
    assert parameter_count(read_architecture(model.config)) == model.parameters == PARAMETERS[name]


def test_no_known_model_is_left_out_here() -> None:
    assert known_models().keys() == PARAMETERS.keys()


def small(config: dict[str, Any], **sizes: Any) -> dict[str, Any]:
    """A known model's config with few and small layers."""
    return {**config, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 64, **sizes}


def built(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Weight name -> shape of the model that transformers builds, tied weights once."""
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(AutoConfig.for_model(**config))
    tied = {"lm_head.weight"} if config.get("tie_word_embeddings") else set()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


SMALL_VISION = {"depth": 2, "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("qwen2_5_0_5b", {"num_attention_heads": 4}),
        ("llama3_2_3b", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}),
        ("glm4_9b", {"num_attention_heads": 4, "head_dim": 16, "pad_token_id": 0}),
        ("glm4_9b_0414", {"num_attention_heads": 4, "head_dim": 16, "pad_token_id": 0}),
        ("deepseek_v3", {
            "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 6, "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4, "v_head_dim": 10, "n_routed_experts": 8, "moe_intermediate_size": 12,
            "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
        }),
    ],
)  # fmt: skip
def test_names_and_shapes_are_those_of_transformers(name: str, sizes: dict[str, Any]) -> None:
    config = small(dict(known_models()[name].config), **sizes)
    assert weight_shapes(read_architecture(config)) == built(config)


@pytest.mark.parametrize("name", ["qwen2_5_vl_7b", "internvl3_8b", "internvl3_78b"])
def test_names_and_shapes_of_models_that_read_images_are_those_of_transformers(name: str) -> None:
    known = dict(known_models()[name].config)
    vision = {**known["vision_config"], **SMALL_VISION}
    vision |= {"num_heads": 4} if "num_heads" in vision else {"num_attention_heads": 4}
    if name.startswith("internvl"):
        text = small(known["text_config"], num_attention_heads=4)
        mine = their = {**known, "text_config": text, "vision_config": vision}
    else:
        mine = {**small(known, num_attention_heads=4), "vision_config": vision}
        text = {key: value for key, value in mine.items() if key != "vision_config"}
        their = {
            "model_type": "qwen2_5_vl", "text_config": {**text, "model_type": "qwen2_5_vl_text"},
            "vision_config": {**vision, "out_hidden_size": 32}, "tie_word_embeddings": False,
        }  # fmt: skip
    assert weight_shapes(read_architecture(mine)) == built(their)
    assert weight_shapes(read_architecture(their)) == built(their)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2_5_7b"),
        ("models/Qwen2.5-7B-Instruct-GRPO", "qwen2_5_7b"),
        ("Qwen/Qwen2-72B", "qwen2_5_72b"),
        ("qwen2.5-1.5b", "qwen2_5_1_5b"),
        ("somewhere/deepseek_v3", "deepseek_v3"),
        ("Qwen/Qwen2.5-VL-72B-Instruct/", "qwen2_5_vl_72b"),
    ],
)
def test_a_model_is_found_by_hub_id_folder_or_family_and_size(path: str, name: str) -> None:
    known = find_known(path)
    assert known is not None
    assert known.name == name


@pytest.mark.parametrize("path", ["Qwen/Qwen3-8B", "Qwen/Qwen2.5-7", "Qwen/Qwen2.5-70B", ""])
def test_another_model_is_not_taken_for_a_known_one(path: str) -> None:
    assert find_known(path) is None


def test_an_unknown_model_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'Qwen/Qwen2.5-7' are not known.*did you mean.*qwen2_5_7b"):
        find_config("Qwen/Qwen2.5-7")


def test_an_unknown_family_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match=r"'gpt2' are not known without their files; known: llama"):
        find_architecture(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="lacks hidden_size"):
        find_architecture(str(tmp_path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_a_whole_run_of_a_known_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path, [])
    assert isinstance(config, RunConfig)
    known = find_known(config.model.path)
    assert known is not None
    assert path.stem.startswith(known.name)
    assert config.run_dir == Path("runs") / path.stem
    assert config.eval.source is not None
    assert len(read_rows(config.data.source)) > len(read_rows(config.eval.source)) == 200


TEXT = [path for path in FILES if "vl" not in path.stem]


@needs_torch
@pytest.mark.parametrize("path", TEXT, ids=lambda path: path.stem)
def test_training_takes_a_file_with_another_model(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    model = write_model(tmp_path / "model", context=8192)  # the file's prompts and completions fit
    here = [
        f"model.path={model}",
        "model.device=cpu",
        "model.dtype=float32",
        "backend=torch",
        "parallel=null",
        f"run_dir={tmp_path}",
    ]
    settings, draft = read_config(path, here)
    check(settings, draft)


def test_shapes_from_a_config_are_those_of_the_files(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    architecture = read_architecture(read_model_config(model))
    assert model_shape(architecture, weight_shapes(architecture)) == model_shape(architecture, read_shapes(model))


def test_every_known_model_has_a_file() -> None:
    stems = {path.stem for path in FILES}
    assert [name for name in known_models() if not any(stem.startswith(name) for stem in stems)] == []


def facts(text: str) -> dict[str, list[str]]:
    """The numbers and the verdict of every row, by machine and configuration."""
    found: dict[str, list[str]] = {}
    machine = ""
    for line in text.partition(BEGIN)[2].partition(END)[0].splitlines():
        machine = line if line.startswith("### ") else machine
        if line.startswith("| `"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found[f"{machine} {name}"] = cells
    assert found
    return found


def test_document_has_the_table_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert facts(text) == facts(in_document(text)), "run: make docs"
    with pytest.raises(ValueError, match="lacks the line"):
        in_document(text.replace(END, ""))
    assert BEGIN in text
