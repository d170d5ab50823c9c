"""Configurations of both generations, read as ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindrlhf_grpo.compat.arguments import read_options
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.mindrlhf.keys import keys
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
    assert any(note.startswith("rl_config.sink_size has no meaning here: graphs") for note in read.notes)
    assert "8 optimizer steps for each 64 completions, not 32: a group stays in one step" in read.notes


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
