"""verl's dotted names: every one is used, ignored with a reason, or an error that names the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.compat.translation import Translation
from mindrlhf_grpo.config import yaml_source
from mindrlhf_grpo.config.keys import catalogue
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.ups_rm import settings
from mindrlhf_grpo.recipes.ups_rm.settings import configuration, read_names, table
from tests.support.recipes import ups_rm_files

DOTTED = "actor_rollout_ref.actor"


@pytest.fixture(scope="module")
def folder(raw: Path) -> Path:
    """Policy, reward model and prepared prompts: 600 to train on."""
    ups_rm_files.run("preprocess", "--local_dataset_path", raw / "Data" / "PKU-SafeRLHF", "--local_save_dir", raw / "Data" / "verl")  # fmt: skip
    return raw


def read(folder: Path, *further: str, file: Path | None = None) -> tuple[RunConfig, Translation]:
    names = read_names(file, [*ups_rm_files.places(folder), *further])
    return configuration(names, "torch")[0], names


def test_the_launch_scripts_names_become_this_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: name)  # every tracker is installed
    config, names = read(folder, *ups_rm_files.verl_command(), f"reward_model.model.input_tokenizer={folder}/policy")
    assert config.model.path == f"{folder}/policy"
    assert (config.model.recompute, config.model.trust_remote_code) == (True, True)
    assert config.data.source["files"] == f"{folder}/Data/verl/train.parquet"
    assert (config.data.max_prompt_tokens, config.data.overlong) == (1024, "drop")
    assert (config.rollout.group_size, config.rollout.max_tokens, config.rollout.top_p) == (4, 2048, 1.0)
    train = config.train
    assert (train.prompts_per_step, train.learning_rate, train.weight_decay) == (512, 1e-6, 0.01)
    assert train.tokens_per_micro_batch == 16 * 3072
    assert (train.steps, train.warmup_steps) == (5, 0)  # 5 epochs of 600 // 512 batches; a tenth of 5 steps is none
    assert config.algorithm.updates_per_batch == 4
    assert (config.eval.every, config.checkpoint.every) == (10, 50)
    assert config.tracking.to == ["wandb"]
    (reward,) = config.rewards
    assert (reward.function, reward.name) == (f"model:{folder}/rm", "score")
    assert reward.arguments == {
        "tokens": "own", "end": "template", "squash": "sigmoid_neg", "max_tokens": 3072, "trust_remote_code": True,
        "tokens_per_micro_batch": 16 * 3072, "dtype": "float32", "keep": True,
    }  # fmt: skip
    filled = resolve(config.algorithm).settings
    assert (filled.adv_eps, filled.std_ddof, filled.aggregation) == (1e-6, 1, "token_mean")
    assert (filled.kl_coef, filled.kl_in, filled.kl_estimator, filled.kl_clamp) == (0.001, "loss", "k3", 10.0)
    assert set(names.ignored) >= {
        "actor_rollout_ref.rollout.name", "actor_rollout_ref.rollout.gpu_memory_utilization", "trainer.n_gpus_per_node",
        "actor_rollout_ref.ref.fsdp_config.param_offload", "reward_model.strategy", "trainer.critic_warmup",
    }  # fmt: skip
    assert names.ignored["trainer.critic_warmup"] == "it has no effect with algorithm.adv_estimator=grpo"
    assert "\n" not in names.ignored_line()
    assert "trainer.nnodes (the launcher (torchrun, msrun) sets the number of processes)" in names.ignored_line()


@pytest.mark.row("ups_rm", "KL in reward", backend="none")
@pytest.mark.parametrize(
    ("in_reward", "in_loss", "coefs"),
    [("True", "False", (0.05, 0.0)), ("False", "True", (0.0, 0.2)), ("True", "True", (0.05, 0.2)), ("False", "False", (0.0, 0.0))],
)  # fmt: skip
def test_the_kl_goes_into_the_reward_the_loss_both_or_neither(
    folder: Path, in_reward: str, in_loss: str, coefs: tuple[float, float]
) -> None:
    config, _ = read(
        folder, f"algorithm.use_kl_in_reward={in_reward}", "algorithm.kl_ctrl.kl_coef=0.05", "algorithm.kl_penalty=kl",
        f"{DOTTED}.use_kl_loss={in_loss}", f"{DOTTED}.kl_loss_coef=0.2",
    )  # fmt: skip
    plan = resolve(config.algorithm)
    of_loss: Any = plan.loss
    assert (plan.settings.kl_coef if plan.kl_in_reward else 0.0, of_loss.kl_coef) == coefs
    assert ("reference" in plan.needs) is (coefs != (0.0, 0.0))
    if coefs[0]:
        assert plan.settings.kl_estimator == "k1"
    if coefs[1]:
        assert (of_loss.kl_estimator, of_loss.kl_clamp) == ("k3", 10.0)
    assert config.metrics is not None
    assert config.metrics[0].arguments["kl_loss_coef"] == coefs[1]


def test_several_ranks_share_the_weights_as_in_verl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    config, _ = read(folder, f"{DOTTED}.fsdp_config.param_offload=True")
    assert config.parallel is not None
    assert (config.parallel.strategy, config.parallel.offload) == ("fsdp", True)
    assert config.rewards[0].arguments["keep"] is False
    assert configuration(read_names(None, ups_rm_files.places(folder)), "mindspore")[0].parallel is None
    assert read(folder, "actor_rollout_ref.model.lora_rank=4")[0].parallel is None
    monkeypatch.delenv("WORLD_SIZE")
    config, names = read(folder, f"{DOTTED}.fsdp_config.param_offload=True")
    assert config.parallel is None
    assert f"{DOTTED}.fsdp_config.param_offload" in names.ignored


def test_a_tracker_that_is_not_there_is_said_and_its_figures_are_in_the_runs_own_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for mode, installed in (("offline", True), ("disabled", True), ("online", False)):
        monkeypatch.setenv("WANDB_MODE", mode)
        monkeypatch.setattr(settings, "find_spec", lambda name, there=installed: there or None)
        config, names = read(folder, "trainer.logger=[console,wandb]")
        found[mode] = (config.tracking.to, names.ignored.get("trainer.logger=wandb"))
    said = "not installed, or turned off; metrics.jsonl has the same figures"
    assert found == {"offline": (["wandb-offline"], None), "disabled": ([], said), "online": ([], said)}


def test_further_names(folder: Path) -> None:
    config, names = read(
        folder, "algorithm.use_kl_in_reward=true", "algorithm.kl_ctrl.type=adaptive", "algorithm.kl_ctrl.target_kl=0.2",
        f"{DOTTED}.use_dynamic_bsz=True", f"{DOTTED}.ppo_max_token_len_per_gpu=777", f"{DOTTED}.entropy_coeff=0.01",
        f"{DOTTED}.clip_ratio=0.3", f"{DOTTED}.clip_ratio_high=0.4", f"{DOTTED}.optim.lr_warmup_steps=3",
        f"{DOTTED}.loss_agg_mode=seq-mean-token-sum", f"{DOTTED}.fsdp_config.model_dtype=bf16",
        "actor_rollout_ref.rollout.top_k=-1", "trainer.save_freq=-1", "trainer.test_freq=-1", "trainer.total_epochs=2",
        "trainer.max_actor_ckpt_to_keep=null", "trainer.logger=[console,mlflow]", "trainer.default_local_dir=null",
        "trainer.experiment_name=mine", "data.filter_overlong_prompts=False", "data.truncation=left", "+rollout.slots=7",
        "++data.seed=9", "reward_model.score_transform=neg", f"reward_model.model.input_tokenizer={folder}/rm",
        "algorithm.norm_adv_by_std_in_grpo=False", f"data.train_files=[{folder}/Data/verl/train.parquet,{folder}/Data/verl/val.parquet]",
    )  # fmt: skip
    algorithm = config.algorithm
    assert algorithm.kl_control is not None
    assert (algorithm.kl_control.target, algorithm.kl_control.horizon) == (0.2, 10000)
    assert (algorithm.name, algorithm.aggregation) == ("dr_grpo", "sequence_sum")
    assert (algorithm.clip_low, algorithm.clip_high) == (0.3, 0.4)
    assert algorithm.entropy is not None
    assert algorithm.entropy.coef == 0.01
    assert (config.train.steps, config.train.warmup_steps) == (2 * (624 // 64), 3)
    assert (config.train.tokens_per_micro_batch, config.rollout.slots, config.seed) == (777, 7, 9)
    assert (config.model.dtype, config.rewards[0].arguments["dtype"]) == ("bfloat16", "bfloat16")
    assert config.rewards[0].arguments["tokens"] == "same"
    assert config.rewards[0].arguments["squash"] == "neg"
    assert (config.checkpoint.every, config.checkpoint.keep_last, config.eval.every, config.rollout.top_k) == (
        0,
        0,
        0,
        0,
    )
    assert config.data.overlong == "truncate"
    assert config.run_dir == Path("checkpoints/verl_grpo_pku_saferlhf/mine")
    assert "trainer.logger=mlflow" in names.ignored


def test_a_file_has_the_names_nested_and_refers_to_others(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "verl.yaml"
    path.write_text(
        "data:\n  train_batch_size: 50\n  max_prompt_length: 100\n"
        "reward_model:\n  max_length: 40\n  model.input_tokenizer: ${actor_rollout_ref.model.path}\n"
        "trainer: {total_epochs: 1, default_local_dir: 'out/${trainer.experiment_name}'}\n"
        "actor_rollout_ref: {actor: {ppo_mini_batch_size: 25}}\n"
    )
    config, _ = read(folder, "data.max_prompt_length=200", file=path)
    assert (config.train.prompts_per_step, config.data.max_prompt_tokens, config.train.steps) == (50, 200, 12)
    assert config.rewards[0].arguments["tokens"] == "own"
    assert config.rewards[0].arguments["max_tokens"] == 40
    assert config.run_dir == Path("out/myrm_grpo")
    path.write_text("data: {train_batchsize: 5}\n")
    with pytest.raises(ConfigError, match=r"verl.yaml:1: data.train_batchsize is no name of verl that is known here \(did you mean 'data.train_batch_size'\?\)"):  # fmt: skip
        read(folder, file=path)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "data.train_batch_sizes=3",
            r"argument data.train_batch_sizes=3: .* \(did you mean 'data.train_batch_size'\?\)",
        ),
        ("data.train_batch_size", "expected name=value"),
        ("data.train_batch_size=ten", "data.train_batch_size is 'ten'; accepted: a number"),
        ("data.train_batch_size=700", "data.train_batch_size is 700, the data has 600 prompts"),
        ("data.max_response_length=0", "rollout.max_tokens: 0 is not accepted"),
        (f"{DOTTED}.ppo_mini_batch_size=48", "ppo_mini_batch_size 48 must divide data.train_batch_size 64"),
        (f"{DOTTED}.kl_loss_type=full", r"kl_loss_type is 'full'.*accepted here: kl, k1, abs"),
        (f"{DOTTED}.use_kl_loss=maybe", "use_kl_loss is 'maybe'; accepted: true, false"),
        (
            "algorithm.adv_estimator=gdpo2",
            r"adv_estimator is 'gdpo2' \(did you mean 'grpo'\?\); accepted here: grpo, gae",
        ),
        ("reward_model.enable=False", "reward_model.enable is False; accepted here: True"),
        (
            "reward_model.score_transform=tanh",
            "score_transform is 'tanh'; accepted here: identity, sigmoid, neg, sigmoid_neg",
        ),
        ("trainer.val_before_train=False", "trainer.val_before_train is False; accepted here: True"),
        ("trainer.default_local_dir=${trainer.nothing}", "which refers to nothing that is set"),
        ("reward_model.model.path=null", "reward_model.model.path must be given, like reward_model.model.path="),
        ("+rollout.slot=3", "unknown key rollout.slot"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(folder: Path, argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ups_rm_files.run("train", "--show", *ups_rm_files.places(folder)[:4], argument)


def test_a_filter_is_off_where_truncation_says_what_to_do(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.truncation is 'right'; accepted here: error, left"):
        read(folder, "data.filter_overlong_prompts=False", "data.truncation=right")


def test_the_configuration_can_be_seen_without_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ups_rm_files.run("train", "--show", "--backend", "mindspore", *ups_rm_files.places(folder), "trainer.nnodes=2")
    shown = capsys.readouterr()
    config = RunConfig.model_validate(yaml.safe_load(shown.out))
    assert (config.backend, config.train.prompts_per_step, config.rewards[0].name) == ("mindspore", 64, "score")
    assert shown.err == "ignored: trainer.nnodes (the launcher (torchrun, msrun) sets the number of processes)\n"


def test_every_key_of_the_table_is_one_of_ours_and_every_default_a_name_of_the_table() -> None:
    rows = table().rows
    for name, row in rows.items():
        to = row.get("to", [])
        for key in [to] if isinstance(to, str) else to:
            assert key in catalogue(RunConfig).records, name
        assert not (row.keys() & {"default", "to"} and row.keys() & {"only", "ignored"}), name
    written = (Path(settings.__file__).parent / "verl_names.yaml").read_text(encoding="utf-8")
    assert yaml_source.parse(written).problems == []  # no name twice
