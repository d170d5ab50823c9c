"""The recipe's commands, the form of MindRLHF's newer scripts, and PPO's fields."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mindrlhf_grpo.cli.console import terminated_like_interrupted
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import CheckpointError, ConfigError, RunFailed
from mindrlhf_grpo.recipes.mindrlhf.commands import app
from mindrlhf_grpo.recipes.mindrlhf.conversion import sources
from mindrlhf_grpo.recipes.mindrlhf.launching import Launch
from mindrlhf_grpo.recipes.mindrlhf.settings import read_settings
from tests.support.recipes import mindrlhf_runs

pytest.importorskip("torch")

from mindrlhf_grpo.recipes.mindrlhf.trainers import GRPOTrainer, init_grpo_dataset, init_grpo_network_and_optimizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mindrlhf")
    mindrlhf_runs.prepare(folder, steps=1)
    sections = {
        "rl_config": {"dataset_file": str(folder / "rows.jsonl"), "dataset_type": "gsm8k", "epochs": 1,
                      "num_rollouts": 4, "num_generations": 2, "batch_size": 8, "tokenizer_dir": str(folder / "tokenizer")},
        "actor_config": {"load": str(folder / "policy_hf"), "save": str(folder / "newer")},
        "generate_config": {"max_prompt_length": 32, "sampling_config": {"max_tokens": 4, "min_tokens": 0}},
        "context": {"device_target": "CPU"},
    }  # fmt: skip
    (folder / "newer.yaml").write_text(yaml.safe_dump(sections))
    return folder


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


@pytest.mark.row("mindrlhf", "Facade", backend="torch")
def test_the_newer_form_runs_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDRLHF_BACKEND", "torch")
    args = argparse.Namespace(
        config=str(folder / "newer.yaml"), verifier_function="accuracy_reward", verifier_weight="2"
    )
    summary = GRPOTrainer(args).run_grpo_train()
    assert Path(summary["report"]).is_file()
    (line,) = [json.loads(line) for line in (folder / "newer/metrics.jsonl").read_text().splitlines()]
    assert "reward/accuracy_reward/mean" in line
    assert (folder / "newer/model/tokenizer.json").is_file(), "the model's folder had no tokenizer"


def test_a_configuration_that_hydra_has_read_will_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDRLHF_BACKEND", "torch")
    trainer = GRPOTrainer(
        config_from_yaml=yaml.safe_load((folder / "newer.yaml").read_text()), no_patch_tensor_shape=None
    )
    assert trainer.settings.config.rollout.group_size == 2


def test_calls_out_of_order_are_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mindrlhf_grpo.recipes.mindrlhf.script_objects import GRPOConfig, LlamaConfig, Qwen2Tokenizer

    monkeypatch.setenv("MINDRLHF_BACKEND", "torch")
    run = GRPOConfig(str(folder / "grpo.yaml"))
    run.save_ckpt_dir = str(folder / "calls")
    sizes = LlamaConfig(**{**mindrlhf_runs.SHAPE, "checkpoint_name_or_path": str(folder / "policy/model.ckpt")})
    tokenizer = Qwen2Tokenizer(str(folder / "tokenizer/vocab.json"), str(folder / "tokenizer/merges.txt"))
    trainer = GRPOTrainer(grpo_config=run, sft_model_config_train=sizes, reward_funcs=[of_length], tokenizer=tokenizer)
    network = init_grpo_network_and_optimizer(trainer)
    with pytest.raises(ConfigError, match="make_experience comes first"):
        init_grpo_dataset(trainer)
    with pytest.raises(ConfigError, match="num_generations is 3: the trainer was built with 2"):
        trainer.make_experience(num_generations=3)
    trainer.make_experience(num_generations=2)
    dataset = init_grpo_dataset(trainer)
    record = next(dataset.create_dict_iterator())
    assert record["sample_is_real"].tolist() == [1]
    assert dataset.get_dataset_size() == 8
    trainer.train(network, dataset)
    with pytest.raises(ConfigError, match="once"):
        trainer.train(network, dataset)
    with pytest.raises(RunFailed, match=r"all 1 steps .* are done"):
        trainer.make_experience()
    (line,) = [json.loads(line) for line in (folder / "calls/metrics.jsonl").read_text().splitlines()]
    assert line["reward/of_length/mean"] > 0


def of_length(completions: list[str]) -> tuple[list[float], list[str]]:
    """A user's function that also returns parsed answers."""
    return [float(len(text)) for text in completions], completions


def test_checkpoints_are_converted_both_ways(folder: Path, tmp_path: Path) -> None:
    done = invoke("convert", str(folder / "policy/model.ckpt"), str(tmp_path / "hf"), "--config", str(folder / "qwen.yaml"),
                  "--tokenizer", str(folder / "tokenizer"))  # fmt: skip
    assert done.exit_code == 0
    assert done.output.startswith("27 tensors in")
    assert json.loads((tmp_path / "hf/config.json").read_text())["model_type"] == "qwen2"
    expected = {name: source.read() for name, source in sources(folder / "policy_hf").items()}
    found = {name: source.read() for name, source in sources(tmp_path / "hf").items()}
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    invoke("convert", str(tmp_path / "hf"), str(tmp_path / "back"), "--to", "ckpt")
    assert "model.layers.0.attention.wq.bias" in sources(tmp_path / "back/model.ckpt")
    with pytest.raises(ConfigError, match="is there already"):
        invoke("convert", str(tmp_path / "hf"), str(tmp_path / "back"), "--to", "ckpt")
    with pytest.raises(ConfigError, match="sizes come from the YAML"):
        invoke("convert", str(folder / "policy/model.ckpt"), str(tmp_path / "other"))


def test_a_translation_is_a_configuration_of_ours(folder: Path, tmp_path: Path) -> None:
    from mindrlhf_grpo.config.file import load_config

    done = invoke("translate", "--config", str(folder / "newer.yaml"), "--backend", "torch")
    (tmp_path / "ours.yaml").write_text(done.stdout)
    config = load_config(tmp_path / "ours.yaml", [])
    assert isinstance(config, RunConfig)
    assert config.train.steps == 1


def test_launch_says_what_it_runs() -> None:
    """Findings F6 and F6e: msrun gets an interpreter that it knows, and every machine its rank."""
    done = invoke("launch", "--worker_num=16", "--local_worker_num", "8", "--node_rank", "1", "--cluster_time_out=60",
                  "--dry-run", "train", "--config", "x.yaml", "--backend", "mindspore")  # fmt: skip
    path, python, *words = done.output.split()
    assert path == f"PATH={Path(sys.executable).parent}:$PATH"
    assert python == sys.executable
    assert words[:5] == ["-m", "mindspore.parallel.cluster.run", "--worker_num=16", "--local_worker_num=8",
                         "--master_addr=127.0.0.1"]  # fmt: skip
    assert {"--node_rank=1", "--cluster_time_out=60", "--join=True"} <= set(words)
    assert words[words.index("-m", 1) - 1] == "python"
    assert words[-7:] == ["recipe", "mindrlhf", "train", "--config", "x.yaml", "--backend", "mindspore"]
    torch = invoke("launch", "--workers", "16", "--local-workers", "8", "--node-rank", "1", "--dry-run", "train",
                   "--config", "x.yaml", "--backend", "torch").output.split()  # fmt: skip
    assert {"torch.distributed.run", "--nnodes=2", "--nproc-per-node=8", "--node-rank=1"} <= set(torch)
    assert torch[0] == sys.executable


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "16", "--local-workers", "8", "train", "--config", "x"), "8 of 16 workers are on this machine: give each machine its --node-rank"),
        (("--workers", "2", "--node-rank", "1", "train", "--config", "x"), "--node-rank is 1, and all 2 workers are on this machine"),
        (("--workers", "2", "--local-workers", "3", "train", "--config", "x"), "--local-workers is 3; accepted: 1 to --workers, 2"),
        (("--workers", "2", "train", "--config", "x", "--verifier_functions", "a"), "option '--verifier_functions' is unknown.*'verifier_function'"),
        (("--workers", "2", "trian", "--config", "x"), "launch starts train or run, not 'trian' .did you mean 'train'"),
        (("--launcher", "msrun", "train", "--config", "x", "--backend", "torch"), "the backend torch is started by torchrun"),
        (("--workers", "5", "--local-workers", "2", "--node-rank", "0", "train", "--config", "x", "--backend", "torch"), "2 does not divide 5"),
        (("--bind_core", "True", "train", "--config", "x", "--backend", "torch"), "--bind_core is an option of msrun, not of torchrun"),
        (("--join", "False", "train", "--config", "x"), "--join is False; accepted: True"),
    ],
)  # fmt: skip
def test_launch_starts_nothing_that_would_be_refused(
    words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding F6d: everything from an unknown option on went to the child, and processes were started."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    with pytest.raises(ConfigError, match=message):
        invoke("launch", *words)


def test_launch_refuses_an_option_that_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding F6d: ``launch --workers 2 --node_ranks 1 --dry-run train`` started a job."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    done = CliRunner().invoke(
        app, ["launch", "--workers", "2", "--node_ranks", "1", "--dry-run", "train", "--config", "x"]
    )
    assert done.exit_code == 2
    assert "No such option: --node_ranks" in done.output
    missing = CliRunner().invoke(app, ["launch", "--workers", "2", "train"])
    assert missing.exit_code == 2
    assert "Missing option '--config'" in missing.output


@pytest.mark.parametrize("launcher", ["torchrun", "msrun"])
def test_launch_starts_two_processes(launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding F6: msrun put ``python`` before the path of an interpreter, and every process died of a SyntaxError."""
    backend = {"torchrun": "torch", "msrun": "mindspore"}[launcher]
    pytest.importorskip(backend)
    (tmp_path / "script.py").write_text(
        "import os, sys\n"
        "if os.environ.get('MS_ROLE') != 'MS_SCHED':\n"
        "    rank = os.environ['RANK' if 'RANK' in os.environ else 'RANK_ID']\n"
        "    open(f'{sys.argv[1]}/rank_{rank}', 'w').write(sys.executable)\n"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 9\n")  # another interpreter, earlier in PATH
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("MINDRLHF_BACKEND", backend)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = CliRunner().invoke(app, ["launch", "--workers", "2", "--master-port", str(port), "--log-dir", str(tmp_path / "logs"),
                                    "run", str(tmp_path / "script.py"), str(tmp_path)])  # fmt: skip
    assert done.exit_code == 0
    found = {path.name: Path(path.read_text()).parent for path in tmp_path.glob("rank_*")}
    assert found == dict.fromkeys(["rank_0", "rank_1"], Path(sys.executable).parent)


def test_launch_passes_sigterm_on_to_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding newcomer P2 (SIGTERM), its kind: a launcher of ours must not kill or forget the one that it started."""
    program = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    started = Launch(
        launcher="torchrun", workers=1, local_workers=1, node_rank=None, address="", port=1, log_dir="", further=()
    )
    monkeypatch.setattr(Launch, "words", lambda *_: [sys.executable, "-c", program])
    with terminated_like_interrupted():
        assert started.run([], os.environ) == 7


def test_weights_are_held_against_the_sizes(folder: Path, tmp_path: Path) -> None:
    """Finding F6c: weights of another model were written with the sizes of the YAML."""
    for name, sizes, message in (
        ("deeper", {"num_layers": 3}, r"does not fit the sizes of its model in 12 weights: .*layers.2.*is missing"),
        ("flatter", {"num_layers": 1}, r"in 12 weights: model\.layers\.1\.\S+ is one too many"),
        ("wider", {"intermediate_size": 64}, r"gate_proj.weight is \[48, 32\], \[64, 32\] by the sizes"),
        ("heads", {"n_kv_heads": 4}, r"k_proj.weight is \[16, 32\], \[32, 32\] by the sizes"),
        ("vocabulary", {"vocab_size": 300}, r"embed_tokens.weight is \[259, 32\], \[300, 32\] by the sizes"),
    ):
        path = mindrlhf_runs.write_yaml(tmp_path / f"{name}.yaml", folder / "policy/model.ckpt", **sizes)
        out = tmp_path / name
        with pytest.raises(CheckpointError, match=message):
            invoke("convert", str(folder / "policy/model.ckpt"), str(out), "--config", str(path))
        assert not out.exists(), "nothing is written"
    reward = invoke(
        "convert", str(folder / "reward/model.ckpt"), str(tmp_path / "rm"), "--config", str(folder / "reward.yaml")
    )
    assert reward.output.startswith("27 tensors in")


def test_a_script_of_the_first_generation_gets_its_names(folder: Path) -> None:
    """Finding F6b: ppo_train.py stopped at ``set_pipeline_parallel_context``, and the error was called a bug."""
    (folder / "ppo_train.py").write_text(
        "from mindrlhf.trainer.ppo_trainer import PPOTrainer\n"
        "from mindrlhf.utils.configs import init_configs, init_network_and_optimizer, init_ppo_dataset\n"
        "from mindrlhf.utils.utils import set_pipeline_parallel_context\n"
        "set_pipeline_parallel_context(parallel_mode='x', full_batch=True, optimizer_shard=True, stage_num=1, enable_alltoall=False)\n"
        "from mindrlhf.utils.adam import AdamWeightDecayOp\n"
    )
    with pytest.raises(ConfigError, match=r"mindrlhf.utils has no adam here; it has configs, .*ppo_train.py:5\)"):
        invoke("run", str(folder / "ppo_train.py"))


@pytest.mark.parametrize(("shared", "pretrain"), [(True, 0.9), (False, 0.0)])
@pytest.mark.row("mindrlhf", "YAML", backend="none")
def test_the_fields_of_ppo(folder: Path, shared: bool, pretrain: float) -> None:
    names = ("sft_model_path", "critic_model_path", "reward_model_path")
    paths = {name: json.loads((folder / "args.json").read_text())[name] for name in names}
    values = {**yaml.safe_load((folder / "ppo.yaml").read_text()), **paths, "mind_dataset_dir": str(folder / "rows.jsonl"),
              "is_shared_backbone": shared, "pretrain_coef": pretrain, "save_ckpt_dir": str(folder / "fields"),
              "vf_coef": 0.5, "kl_coef": 0.03}  # fmt: skip
    (folder / "fields.yaml").write_text(yaml.safe_dump(values))
    config = read_settings(folder / "fields.yaml", backend="torch").config
    assert isinstance(config, RunConfig)
    assert (config.algorithm.name, config.algorithm.kl_in, config.algorithm.kl_coef) == ("ppo", "reward", 0.03)
    assert config.rollout.group_size == 1
    assert config.critic is not None
    assert config.critic.shared is shared
    assert (config.critic.path is None) is shared
    assert config.critic.coef == (0.5 if shared else 1.0)
    mix = config.algorithm.pretraining
    assert (mix.coef if mix else None) == (pytest.approx(9.0) if pretrain else None)
    with pytest.raises(ConfigError, match="scale_reward"):
        read_settings(folder / "fields.yaml", ["scale_reward=True"], backend="torch")


def test_weights_that_say_too_little_are_named(folder: Path, tmp_path: Path) -> None:
    ckpt = folder / "policy/model.ckpt"
    with pytest.raises(ConfigError, match=r"model\.ckpt has no config\.json; sizes come from the model's YAML"):
        read_settings(folder / "newer.yaml", [f"actor_config.load={ckpt}"], backend="torch")
    (tmp_path / "odd.yaml").write_text("model: {model_config: {type: LlamaConfi, hidden_size: 8}}\n")
    words = [
        f"actor_config.load={ckpt}",
        f"actor_config.model_config={tmp_path / 'odd.yaml'}",
        f"actor_config.save={tmp_path}",
    ]
    with pytest.raises(ConfigError, match=r"'LlamaConfi' is unknown .did you mean 'LlamaConfig'"):
        read_settings(folder / "newer.yaml", words, backend="torch")
    words = [f"rl_config.tokenizer_dir={tmp_path}", f"actor_config.save={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match="no tokenizer in"):
        read_settings(folder / "newer.yaml", words, backend="torch")
