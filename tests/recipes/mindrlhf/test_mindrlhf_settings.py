"""Configurations of both generations, read as ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindrlhf_grpo.compat.arguments import read_options
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.mindrlhf.keys import keys
from mindrlhf_grpo.recipes.mindrlhf.model_folders import architecture, shape_of
from mindrlhf_grpo.recipes.mindrlhf.script_objects import GRPOConfig, LlamaConfig, PPOConfig, Qwen2Tokenizer
from mindrlhf_grpo.recipes.mindrlhf.settings import Settings, read_settings
from tests.support.recipes import mindrlhf_runs

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with what reading a configuration needs, rows, and the YAML files with these paths."""
    (tmp_path / "model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "model" / name).write_text("{}")
    mindrlhf_runs.write_rows(tmp_path / "rows.jsonl", 80)
    pairs = [{"prompt": f"{n}", "pos_resp": "yes", "neg_resp": "no"} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in pairs))
    for kind, rows in (("grpo", "rows"), ("dpo", "pairs")):
        text = (HERE / f"upstream_{kind}.yaml").read_text()
        for word, place in (("MODEL", "model"), ("RUN", f"runs/{kind}"), ("DATASET", f"{rows}.jsonl")):
            text = text.replace(word, str(tmp_path / place))
        (tmp_path / f"{kind}.yaml").write_text(text)
    return tmp_path


def online(folder: Path, *overrides: str, **options: str) -> tuple[RunConfig, Settings]:
    read = read_settings(folder / "grpo.yaml", overrides, options, backend="torch")
    assert isinstance(read.config, RunConfig)
    return read.config, read


@pytest.mark.row("mindrlhf", "YAML", backend="none")
def test_a_file_with_sections_is_read(folder: Path) -> None:
    config, read = online(folder)
    assert config.model.path == str(folder / "model")
    assert config.train.prompts_per_step == 8  # 4 rollouts x 1 x 2 generating groups
    assert config.train.steps == 100  # 10 epochs of 80 rows
    assert (config.rollout.group_size, config.rollout.temperature, config.rollout.top_k) == (8, 0.8, 20)
    assert (config.rollout.min_p, config.rollout.repetition_penalty) == (0.01, 1.05)
    assert (config.algorithm.preset, config.algorithm.kl_coef, config.algorithm.clip_high) == ("mindrlhf", 0.01, 0.28)
    assert config.algorithm.updates_per_batch == 8
    assert config.algorithm.reference_sync is not None
    assert (config.algorithm.reference_sync.every, config.algorithm.reference_sync.share) == (50, 1.0)
    assert [(one.function.rpartition(":")[2], one.weight) for one in config.rewards] == [
        ("accuracy_reward", 1.0), ("format_reward", 0.5),
    ]  # fmt: skip
    assert (config.train.learning_rate, config.train.betas, config.train.schedule) == (5e-7, (0.9, 0.95), "constant")
    assert (config.checkpoint.every, config.checkpoint.keep_last, config.tracking.rollouts_every) == (5, 5, 2)
    assert config.model.recompute
    assert config.seed == 7
    (graph,) = [note for note in read.notes if note.startswith("ignored, graphs are compiled by bucket of shapes")]
    assert "rl_config.sink_size" in graph
    assert "differs: 8 optimizer steps for each 64 completions, not 32: a group stays in one step" in read.notes


@pytest.mark.row("mindrlhf", "YAML", backend="none")
def test_a_preference_file_is_read(folder: Path) -> None:
    config = read_settings(folder / "dpo.yaml", backend="torch").config
    assert isinstance(config, OfflineConfig)
    assert (config.objective.name, config.objective.preset) == ("dpo", "mindrlhf")
    assert (config.objective.beta, config.objective.sft_coef) == (1.0, 0.1)
    assert (config.train.prompts_per_step, config.train.steps, config.train.warmup_steps) == (2, 8, 2)
    assert (config.train.schedule, config.checkpoint.every, config.checkpoint.keep_last) == ("cosine", 5000, 1)
    assert config.data.max_tokens == 4096


@pytest.mark.row("mindrlhf", "YAML", backend="none")
def test_an_unknown_key_is_an_error_that_names_the_nearest(folder: Path) -> None:
    path = folder / "grpo.yaml"
    path.write_text(
        path.read_text().replace("num_generations: 8", "num_generation: 8").replace("  mode: 0", "  mod: 0")
    )
    with pytest.raises(ConfigError) as raised:
        online(folder)
    assert f"{path}:27: rl_config.num_generation is unknown (did you mean 'num_generations'?)" in str(raised.value)
    assert "context.mod is unknown (did you mean 'mode'?)" in str(raised.value)


@pytest.mark.row("mindrlhf", "YAML", backend="none")
def test_two_configurations_share_nothing(folder: Path) -> None:
    first, second = GRPOConfig(), GRPOConfig()
    first.beta = 0.5
    first.num_generations = 3
    assert (second.beta, second.num_generations) == (0.01, 8)
    sizes = {"type": "LlamaConfig", "hidden_size": 8, "moe_config": {"expert_num": 2}}
    one, other = LlamaConfig(**sizes), LlamaConfig(**sizes)
    one.moe_config["expert_num"] = 5
    assert other.moe_config["expert_num"] == 2
    changed, _ = online(folder, "rl_config.beta=0.5")
    plain, _ = online(folder)
    assert (changed.algorithm.kl_coef, plain.algorithm.kl_coef) == (0.5, 0.01)


@pytest.mark.row("mindrlhf", "YAML", backend="none")
def test_the_command_line_wins_over_the_file(folder: Path) -> None:
    words = ["--verifier_function", "qwen_accuracy_reward", "--verifier_weight=2", "rl_config.num_generations=4",
             "train.steps=3", "--tensorboard", "True", "--save_checkpoint_dir", str(folder / "other")]  # fmt: skip
    options, overrides = read_options(words, list(keys()["options"]))
    config, _ = online(folder, *overrides, **options)
    assert [(one.function.rpartition(":")[2], one.weight) for one in config.rewards] == [("qwen_accuracy_reward", 2.0)]
    assert (config.rollout.group_size, config.train.steps) == (4, 3)
    assert (config.run_dir, config.tracking.to) == (folder / "other", ["tensorboard"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("reward_config.verifier_function=[accuracy_rewards, format_reward]", "verifier 'accuracy_rewards' is unknown.*'accuracy_reward'"),
        ("reward_config.verifier_weight=[1.0]", "2 verifiers .* have 1 weights"),
        ("ref_config.load=elsewhere", "the reference is elsewhere, the actor"),
        ("actor_config.optimizer.type=lamb", "optimizer 'lamb'"),
        ("actor_config.lr_schedule.lr_decay_style=cosin", "schedule 'cosin' is unknown.*'cosine'"),
        ("rl_config.dataset_file=null", "no data"),
        ("actor_config.load=null", "names no weights"),
        ("rl_config.beta=-1", "algorithm.kl_coef"),
        ("train.step=3", "unknown key train.step"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(folder: Path, word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        online(folder, word)


def test_an_unknown_option_or_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"option '--verifier_functions' is unknown \(did you mean 'verifier_function'"
    ):
        read_options(["--verifier_functions", "a"], list(keys()["options"]))
    (tmp_path / "fields.yaml").write_text("num_rollout: 3\n")
    with pytest.raises(ConfigError, match=r"num_rollout is unknown.*num_rollouts"):
        PPOConfig(str(tmp_path / "fields.yaml"))
    with pytest.raises(ConfigError, match=r"model_config\.hiden_size is unknown.*hidden_size"):
        LlamaConfig(hiden_size=8)
    with pytest.raises(ConfigError, match="there is no file"):
        Qwen2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))


def test_every_default_of_the_tables_is_accepted_by_our_configuration(folder: Path) -> None:
    (folder / "short.yaml").write_text(
        f"rl_config: {{dataset_file: {folder / 'rows.jsonl'}}}\nactor_config: {{load: {folder / 'model'}}}\n"
    )
    config = read_settings(folder / "short.yaml", backend="torch").config
    assert isinstance(config, RunConfig)
    assert (config.rollout.group_size, config.train.prompts_per_step, config.algorithm.kl_coef) == (8, 4, 0.01)


def test_what_changes_numbers_is_said_last_after_the_grouped_keys(folder: Path) -> None:
    """Finding F30: 85 lines on keys without a meaning stood before the two that matter."""
    _, read = online(folder)
    reasons = [note for note in read.notes if note.startswith("ignored, ")]
    differences = read.notes[len(reasons) :]
    assert [note.split(":")[1].split()[0] for note in differences] == ["8", "model_config", "learning"]
    assert all(note.startswith("differs: ") for note in differences)
    assert len(reasons) <= 15
    assert sum(note.count(", ") for note in reasons) > 25  # as many keys


def test_a_folder_that_is_everybodys_does_not_become_the_run(folder: Path) -> None:
    """Finding F32: upstream's default ``save: /tmp/`` made /tmp itself the run folder."""
    assert online(folder, "actor_config.save=/tmp/")[0].run_dir == Path("/tmp/mindrlhf")
    assert online(folder, "actor_config.save=./")[0].run_dir == Path("mindrlhf")
    assert online(folder, "rl_config.save_checkpoint_dir=/")[0].run_dir == Path("/mindrlhf")
    assert online(folder, f"actor_config.save={folder}/mine")[0].run_dir == folder / "mine"


@pytest.mark.parametrize(
    ("kind", "device", "dtype", "said"),
    [
        ("bfloat16", "Ascend", "bfloat16", None),
        ("bfloat16", "CPU", "float32", "differs: compute_dtype bfloat16: computed in float32 (on a processor)"),
        ("float16", "Ascend", "float32", "differs: compute_dtype float16: computed in float32 (there is no float16)"),
        ("float32", "Ascend", "float32", None),
    ],
)
def test_the_models_own_type_is_taken_or_the_difference_said(
    folder: Path, kind: str, device: str, dtype: str, said: str | None
) -> None:
    """Finding F13: compute_dtype was dropped without a note; also, dropout of the model's YAML."""
    (folder / "model.yaml").write_text(
        f"model: {{model_config: {{type: LlamaConfig, compute_dtype: {kind}, hidden_dropout: 0.1}}}}\n"
    )
    config, read = online(
        folder, f"actor_config.model_config={folder / 'model.yaml'}", f"context.device_target={device}"
    )
    assert config.model.dtype == dtype
    about = [note for note in read.notes if "compute_dtype" in note]
    assert len(about) == (said is not None)
    assert all(note.startswith(str(said)) for note in about)
    assert "differs: hidden_dropout 0.1: nothing is dropped" in read.notes
    own, _ = online(folder, f"actor_config.model_config={folder / 'model.yaml'}", "model.dtype=float32")
    assert own.model.dtype == "float32"


@pytest.mark.parametrize(
    ("name", "objective", "expected"),
    [
        ("dpo_glm4", "dpo", {"betas": (0.9, 0.95), "learning_rate": 1e-5, "weight_decay": 0.1}),
        ("rm_llama2", "reward_model", {"betas": (0.9, 0.999), "learning_rate": 8e-8, "schedule": "constant"}),
        ("sft_glm4", "sft", {"betas": (0.9, 0.999), "learning_rate": 1e-6, "weight_decay": 0.01}),
    ],
)
def test_files_of_the_tutorials_of_2024_are_read_as_they_are(
    folder: Path, name: str, objective: str, expected: dict[str, object]
) -> None:
    """Finding F6a: phase, version, origin_columns, num_samples, optimizer_shard and optimizer.betas were unknown keys."""
    rows = folder / ("rows.jsonl" if objective == "sft" else "pairs.jsonl")
    words = [f"load_checkpoint={folder / 'model'}", f"train_dataset.data_loader.dataset_dir={rows}"]
    config = read_settings(HERE / f"upstream_{name}.yaml", words, backend="torch").config
    assert isinstance(config, OfflineConfig)
    assert config.objective.name == objective
    assert {key: getattr(config.train, key) for key in expected} == expected
    assert config.data.source["name"].endswith(":examples" if objective == "sft" else ":pairs")
    found = list(read_rows(config.data.source))
    assert len(found) == (5 if objective == "reward_model" else 80 if objective == "sft" else 8)
    if objective == "sft":
        assert found[0] == {"prompt": "0+1=", "completion": "we add #### 1"}


def test_settings_that_would_change_numbers_are_no_notes(folder: Path) -> None:
    """Finding F30: a value that cannot be honoured is an error, also where the key is known."""
    for word, message in (
        ("optimizer.eps=1.0e-5", "optimizer.eps is 1e-05; accepted: 1e-08"),
        ("run_mode=predict", "run_mode is 'predict'; accepted: train, finetune"),
        ("lr_scale=True", "lr_scale is True; accepted: False"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_settings(folder / "dpo.yaml", [word], backend="torch")
    config = read_settings(folder / "dpo.yaml", ["runner_wrapper.use_clip_grad=False"], backend="torch").config
    assert config.train.max_grad_norm == 0.0


def test_sizes_that_mindformers_computes_are_computed(tmp_path: Path) -> None:
    """Finding F6a: Llama2's file names no inner width, and GLM-4's scales the base of its positions."""
    assert architecture({"type": "LlamaConfig", "hidden_size": 4096, "multiple_of": 256})["intermediate_size"] == 11008
    wide = {"type": "LlamaConfig", "hidden_size": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3}
    assert architecture(wide)["intermediate_size"] == 28672  # of Llama2-70B
    assert architecture({"type": "ChatGLM2Config", "rope_ratio": 500})["rope_theta"] == 5_000_000
    text = "moe_config: {expert_num: 8}\nmodel: {model_config: {type: DeepseekV3Config, hidden_size: 8}}\n"
    (tmp_path / "v3.yaml").write_text(text)
    assert architecture(shape_of(str(tmp_path / "v3.yaml")) or {})["n_routed_experts"] == 8


def test_a_run_that_is_resumed_against_the_file_is_said(folder: Path) -> None:
    """Finding F5, the same in MindRLHF: resume_training False was dropped, and the run in the folder resumed."""
    said = f"differs: resume_training is False, and {folder}/runs/grpo holds a run, which is resumed"
    assert said not in online(folder, "rl_config.resume_training=False")[1].notes
    (folder / "runs" / "grpo").mkdir(parents=True)
    (folder / "runs" / "grpo" / "config.yaml").write_text("seed: 0\n")
    assert said in online(folder, "rl_config.resume_training=False")[1].notes
    assert said not in online(folder)[1].notes
