"""verl's dotted names: every one is used, ignored with a reason, or an error that names the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.compat.translation import Translation
from mindrlhf_grpo.config import yaml_source
from mindrlhf_grpo.config.keys import catalogue
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError, UserError
from mindrlhf_grpo.recipes.ups_rm import settings
from mindrlhf_grpo.recipes.ups_rm.data import rows
from mindrlhf_grpo.recipes.ups_rm.settings import configuration, read_names, refuse_to_resume, table
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
    launched = (
        "ignored, the launcher (torchrun, msrun) sets the number of processes: trainer.n_gpus_per_node, trainer.nnodes"
    )
    assert launched in names.notes()


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
        ("trainer.resume_mode=resume_path", r"trainer.resume_mode is 'resume_path'.*; accepted here: auto, disable"),
        ("trainer.resume_from_path=x/global_step_5", "resume_from_path is 'x/global_step_5'; accepted here: None"),
        (
            f"{DOTTED}.policy_loss.loss_mode=kl_cov",
            r"loss_mode is 'kl_cov'.*; accepted here: vanilla, gspo, geo_mean, cispo",
        ),
        (f"{DOTTED}.shuffle=True", "actor.shuffle is True; accepted here: False"),
        (f"{DOTTED}.optim.min_lr_ratio=0.1", "min_lr_ratio is 0.1; accepted here: 0"),
        (
            "+actor_rollout_ref.model.override_config.attention_dropout=0.1",
            "attention_dropout is 0.1; accepted here: 0",
        ),
        (
            "+actor_rollout_ref.model.override_config.rope_theta=3",
            "override_config.rope_theta is no name of verl that is known",
        ),
        ("actor_rollout_ref.model.override_config=3", "override_config is 3, not a section"),
        ("~data.train_batchsize", "argument ~data.train_batchsize: data.train_batchsize is no name of verl"),
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
    first, last = shown.err.splitlines()
    assert first == "ignored, the launcher (torchrun, msrun) sets the number of processes: trainer.nnodes"
    assert last.startswith("differs: policy and reward model compute in float32; verl computes in bfloat16")


def test_every_key_of_the_table_is_one_of_ours_and_every_default_a_name_of_the_table() -> None:
    rows = table().rows
    for name, row in rows.items():
        to = row.get("to", [])
        for key in [to] if isinstance(to, str) else to:
            assert key in catalogue(RunConfig).records, name
        assert not (row.keys() & {"default", "to"} and row.keys() & {"only", "ignored"}), name
    written = (Path(settings.__file__).parent / "verl_names.yaml").read_text(encoding="utf-8")
    assert yaml_source.parse(written).problems == []  # no name twice


HARMLESS = (
    "reward_model.use_reward_loop=False", "actor_rollout_ref.rollout.enable_prefix_caching=True",
    "actor_rollout_ref.rollout.layered_summon=True", "actor_rollout_ref.rollout.multi_stage_wake_up=False",
    "actor_rollout_ref.model.override_config={}", "+actor_rollout_ref.model.override_config.attention_dropout=0.",
    "+actor_rollout_ref.model.override_config.attn_implementation=eager", "actor_rollout_ref.nccl_timeout=1200",
    "trainer.use_legacy_worker_impl=auto", "trainer.esi_redundant_time=0", "hydra.run.dir=out",
    "actor_rollout_ref.actor.optim.optimizer=AdamW", "data.return_full_prompt=True", "trainer.val_before_train=False",
    "trainer.resume_mode=auto", "trainer.max_critic_ckpt_to_keep=3", "transfer_queue.enable=False",
    "actor_rollout_ref.rollout.cudagraph_capture_sizes=null", "+ray_kwargs.ray_init.num_cpus=8",
    "actor_rollout_ref.rollout.skip_rollout=False", "data.image_key=images", "data.sampler.class_path=null",
    "algorithm.rollout_correction.rollout_is=null", "reward_model.sandbox_fusion.max_concurrent=64",
    "actor_rollout_ref.actor.entropy_checkpointing=False", "actor_rollout_ref.rollout.trace.backend=null",
)  # fmt: skip


def test_harmless_names_of_verl_change_nothing(folder: Path) -> None:
    """Finding F5: names that the original's script and others' give; the configuration is the same without them."""
    plain, _ = read(folder)
    config, names = read(folder, *HARMLESS, "~trainer.group_log_freq")
    assert config == plain
    assert names.problems == []
    kept, _ = read(folder, "trainer.test_freq=3", "~trainer.test_freq")
    assert kept == plain


def test_a_fresh_run_is_not_the_old_one_resumed(folder: Path, tmp_path: Path) -> None:
    """Finding F5: resume_mode=disable was noted as ignored, and the run was resumed."""
    (tmp_path / "run").mkdir()
    for mode in ("disable", "auto"):
        _, names = read(folder, f"trainer.resume_mode={mode}")
        refuse_to_resume(names, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    refuse_to_resume(names, tmp_path / "run")
    _, names = read(folder, "trainer.resume_mode=disable")
    with pytest.raises(
        ConfigError, match=r"argument trainer.resume_mode=disable: .*/run holds a run, which would be resumed"
    ):
        refuse_to_resume(names, tmp_path / "run")


def test_the_number_of_rows_is_limited_as_in_verl(folder: Path) -> None:
    """Finding F5: train_max_samples draws by the seed of the data, or takes the first rows without shuffling."""
    config, _ = read(
        folder, "data.train_max_samples=100", "data.val_max_samples=5", "data.seed=3", "trainer.total_epochs=2"
    )
    assert config.data.source["most"] == 100
    assert config.data.source["seed"] == 3
    assert isinstance(config.eval.source, dict)
    assert (config.eval.source["most"], config.train.steps) == (5, 2)
    every = [row["extra_info"]["index"] for row in rows(config.data.source["files"])]
    drawn = [row["extra_info"]["index"] for row in rows(config.data.source["files"], most=100, seed=3)]
    assert drawn == np.random.default_rng(3).choice(every, 100, replace=False).tolist()
    assert [row["extra_info"]["index"] for row in rows(config.data.source["files"], most=4)] == every[:4]
    first, _ = read(folder, "data.train_max_samples=100", "data.shuffle=False")
    assert "seed" not in first.data.source


def test_groups_without_a_difference_are_replaced(folder: Path) -> None:
    """Finding F5: DAPO's filter_groups is dead_groups: resample."""
    config, _ = read(folder, "algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=seq_reward", "algorithm.filter_groups.max_num_gen_batches=10")  # fmt: skip
    assert (config.algorithm.dead_groups, config.algorithm.resample_budget) == ("resample", 10)
    plain, names = read(folder, "algorithm.filter_groups.max_num_gen_batches=10")
    assert plain.algorithm.dead_groups == "keep"
    assert "algorithm.filter_groups.max_num_gen_batches" in names.ignored
    with pytest.raises(
        ConfigError, match=r"filter_groups.metric is 'acc'.*accepted here: score, seq_reward, seq_final"
    ):
        read(folder, "algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=acc")


@pytest.mark.parametrize(
    ("mode", "given", "expected"),
    [
        ("gspo", ("clip_ratio_low=0.0003", "clip_ratio_high=0.0004"), {"name": "gspo", "clip_low": 0.0003, "clip_high": 0.0004}),
        ("gspo", (), {"name": "gspo", "clip_low": 0.2, "clip_high": 0.2}),
        ("geo_mean", ("clip_ratio=0.1",), {"name": "gmpo", "clip_low": 0.1, "clip_high": 0.1}),
        ("cispo", ("clip_ratio_high=0.3",), {"name": "cispo", "low": 0.8, "high": 1.3}),
    ],
)  # fmt: skip
def test_other_policy_losses_of_verl(folder: Path, mode: str, given: tuple[str, ...], expected: dict[str, Any]) -> None:
    """Finding F5: loss_mode=gspo was refused though the loss is here; verl's bounds and means are taken."""
    config, _ = read(folder, f"{DOTTED}.policy_loss.loss_mode={mode}", *(f"{DOTTED}.{text}" for text in given))
    plan = resolve(config.algorithm)
    loss: Any = plan.loss
    found = {"name": loss.name, **{name: pytest.approx(getattr(loss, name)) for name in expected if name != "name"}}
    assert found == expected
    assert plan.settings.aggregation == ("token_mean" if mode == "cispo" else "sequence_mean")
    assert (loss.kl_coef, loss.kl_estimator, loss.kl_clamp) == (0.001, "k3", 10.0)
    if mode == "gspo":
        assert (loss.gradient, loss.log_ratio_max) == ("token", 10.0)


@pytest.mark.parametrize(
    ("given", "dtypes", "differs"),
    [
        ((), ("float32", "float32"), True),
        ((f"{DOTTED}.fsdp_config.model_dtype=fp32",), ("float32", "float32"), True),
        ((f"{DOTTED}.fsdp_config.dtype=float32",), ("float32", "float32"), False),
        ((f"{DOTTED}.fsdp_config.dtype=bfloat16",), ("bfloat16", "bfloat16"), False),
        ((f"{DOTTED}.fsdp_config.model_dtype=fp32", f"{DOTTED}.fsdp_config.mixed_precision.param_dtype=bf16"), ("bfloat16", "bfloat16"), False),
        ((f"{DOTTED}.fsdp_config.dtype=bfloat16", "reward_model.model.fsdp_config.model_dtype=fp32"), ("bfloat16", "float32"), False),
    ],
)  # fmt: skip
def test_the_type_to_compute_in_is_taken_or_the_difference_said(
    folder: Path, given: tuple[str, ...], dtypes: tuple[str, str], differs: bool
) -> None:
    """Finding F13: verl keeps float32 weights and computes in bfloat16; here it was float32 without a word."""
    config, names = read(folder, *given)
    assert (config.model.dtype, config.rewards[0].arguments["dtype"]) == dtypes
    assert bool(names.changes) is differs


def test_all_checkpoints_are_kept_as_in_verl(folder: Path) -> None:
    """Finding F13: the last two were kept, verl keeps all unless told."""
    assert read(folder)[0].checkpoint.keep_last == 0
    assert read(folder, "trainer.max_actor_ckpt_to_keep=3")[0].checkpoint.keep_last == 3


def test_an_error_about_a_row_names_verls_keys(folder: Path, tmp_path: Path) -> None:
    """Finding F34: the core speaks of data.overlong, the user has data.truncation."""
    words = [*ups_rm_files.places(folder), "data.max_prompt_length=3", "data.filter_overlong_prompts=False", f"trainer.default_local_dir={tmp_path / 'run'}"]  # fmt: skip
    with pytest.raises(
        UserError, match=r"(?s)here data.overlong is set by data.filter_overlong_prompts, data.truncation"
    ):
        ups_rm_files.run("train", *words)


def test_a_critic_that_is_trained_otherwise_than_the_policy_is_refused(folder: Path) -> None:
    """Finding F5: what the critic's names said beyond its path was noted as ignored."""
    gae = ("algorithm.adv_estimator=gae", "critic.model.path=x", "critic.optim.lr=1e-5", f"{DOTTED}.ppo_epochs=2")
    assert read(folder, *gae, "critic.ppo_epochs=2")[0].algorithm.inner_epochs == 2
    with pytest.raises(ConfigError, match=r"critic.ppo_epochs is 1; the critic is trained as the policy is, by 2"):
        read(folder, *gae, "critic.ppo_epochs=1")
    assert read(folder, "critic.ppo_epochs=7")[1].ignored["critic.ppo_epochs"].startswith("it has no effect with")


def test_validation_samples_where_verl_does(folder: Path) -> None:
    """Finding F5: val_kwargs beyond greedy completions were refused; held-out completions can be sampled now."""
    val = "actor_rollout_ref.rollout.val_kwargs"
    config, _ = read(folder, f"{val}.do_sample=True", f"{val}.temperature=0.6", f"{val}.n=4")
    assert (config.eval.temperature, config.eval.samples) == (0.6, 4)
    greedy, names = read(folder, f"{val}.temperature=0.6", f"{val}.n=4")
    assert (greedy.eval.temperature, greedy.eval.samples) == (0.0, 1)
    assert names.ignored[f"{val}.n"] == "held-out completions are greedy without do_sample"
    with pytest.raises(ConfigError, match=r"val_kwargs.top_p is 0.9.*accepted here: 1"):
        read(folder, f"{val}.do_sample=True", f"{val}.top_p=0.9")
