"""Names that users of TRL, verl and OpenRLHF bring along are known: to a key, or with the reason why there is none."""

from __future__ import annotations

import pytest

from mindrlhf_grpo.cli.explain import explain
from mindrlhf_grpo.config.file import Draft
from mindrlhf_grpo.config.keys import catalogue, record_path
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.peer_names import find_peer_name, peer_names
from mindrlhf_grpo.errors import ConfigError

TRL_GRPO = """
learning_rate model_init_kwargs trust_remote_code router_aux_loss_coef disable_dropout cast_lm_head_to_fp32
remove_unused_columns num_generations num_generations_eval max_completion_length ds3_gather_for_generation
shuffle_dataset pad_to_multiple_of generation_batch_size steps_per_generation temperature top_p top_k min_p
generation_kwargs chat_template_kwargs repetition_penalty cache_implementation use_vllm vllm_mode vllm_model_impl
vllm_enable_sleep_mode vllm_structured_outputs_regex vllm_server_base_url vllm_server_host vllm_server_port
vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length vllm_tensor_parallel_size beta
num_iterations epsilon delta epsilon_high sapo_temperature_neg sapo_temperature_pos vespo_k_pos vespo_lambda_pos
vespo_k_neg vespo_lambda_neg importance_sampling_level reward_weights multi_objective_aggregation scale_rewards
loss_type mask_truncated_completions sync_ref_model ref_model_mixup_alpha ref_model_sync_steps top_entropy_quantile
entropy_coef use_adaptive_entropy entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target
max_tool_calling_iterations vllm_importance_sampling_correction vllm_importance_sampling_mode
vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min off_policy_mask_threshold use_bias_correction_kl
log_completions log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo
use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged
vllm_importance_sampling_cap
"""
TRL_OFFLINE = """
chat_template_path dataset_text_field dataset_kwargs dataset_num_proc eos_token max_length truncation_mode packing
packing_strategy padding_free eval_packing completion_only_loss assistant_only_loss activation_offloading pad_token
precompute_ref_log_probs precompute_ref_batch_size loss_weights ld_alpha f_divergence_type f_alpha_divergence_coef
label_smoothing use_weighting discopop_tau desirable_weight undesirable_weight center_rewards_coefficient
model_name_or_path model_revision dtype attn_implementation use_peft lora_r lora_alpha lora_dropout
lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type use_rslora use_dora load_in_8bit
load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage
"""
TRANSFORMERS = """
output_dir per_device_train_batch_size num_train_epochs max_steps lr_scheduler_type lr_scheduler_kwargs warmup_steps
warmup_ratio optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules
gradient_accumulation_steps average_tokens_across_devices max_grad_norm label_smoothing_factor bf16 fp16
bf16_full_eval fp16_full_eval tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode use_liger_kernel
liger_kernel_config use_cache neftune_noise_alpha torch_empty_cache_steps auto_find_batch_size logging_strategy
logging_steps logging_first_step log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level
log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start
eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics
save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token
hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision load_best_model_at_end metric_for_best_model
greater_is_better ignore_data_skip restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu
accelerator_config parallelism_config dataloader_drop_last dataloader_num_workers dataloader_pin_memory
dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
label_names train_sampling_strategy length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb
ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics
do_train do_eval do_predict resume_from_checkpoint local_rank
"""
VERL = """
data.train_files data.val_files data.train_batch_size data.max_prompt_length data.max_response_length data.truncation
actor_rollout_ref.model.path actor_rollout_ref.model.use_remove_padding
actor_rollout_ref.model.enable_gradient_checkpointing actor_rollout_ref.actor.optim.lr
actor_rollout_ref.actor.optim.lr_warmup_steps_ratio actor_rollout_ref.actor.ppo_mini_batch_size
actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu actor_rollout_ref.actor.ppo_epochs
actor_rollout_ref.actor.use_dynamic_bsz actor_rollout_ref.actor.use_kl_loss actor_rollout_ref.actor.kl_loss_coef
actor_rollout_ref.actor.kl_loss_type actor_rollout_ref.actor.entropy_coeff actor_rollout_ref.actor.clip_ratio
actor_rollout_ref.actor.fsdp_config.param_offload actor_rollout_ref.rollout.n actor_rollout_ref.rollout.temperature
actor_rollout_ref.rollout.tensor_model_parallel_size actor_rollout_ref.rollout.gpu_memory_utilization
actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu algorithm.adv_estimator algorithm.kl_ctrl.kl_coef
algorithm.use_kl_in_reward algorithm.norm_adv_by_std_in_grpo critic.optim.lr trainer.total_epochs trainer.project_name
trainer.experiment_name trainer.logger trainer.nnodes trainer.n_gpus_per_node trainer.save_freq trainer.test_freq
trainer.val_before_train trainer.resume_mode trainer.default_local_dir trainer.critic_warmup
"""
OPENRLHF = """
--pretrain --reward_pretrain --remote_rm_url --save_path --ckpt_path --save_steps --eval_steps --max_epochs
--num_episodes --micro_train_batch_size --train_batch_size --micro_rollout_batch_size --rollout_batch_size
--n_samples_per_prompt --max_samples --prompt_max_len --generate_max_len --zero_stage --bf16 --actor_learning_rate
--critic_learning_rate --init_kl_coef --prompt_data --input_key --apply_chat_template --input_template
--advantage_estimator --packing_samples --gradient_checkpointing --adam_offload --flash_attn --use_wandb
--wandb_run_name --vllm_num_engines --vllm_tensor_parallel_size --colocate_all_models --eps_clip --kl_target --l2
--lr_warmup_ratio --lr_scheduler --load_checkpoint --use_kl_loss --kl_estimator --dynamic_filtering
"""
ASKED = """
scale_rewards gradient_accumulation_steps num_train_epochs trainer.total_epochs warmup_ratio packing
completion_only_loss generation_kwargs model_name_or_path dataset_name eval_strategy save_strategy delta lora_r use_peft
use_vllm sync_ref_model optim logging_steps resume_from_checkpoint algorithm.kl_ctrl.kl_coef micro_rollout_batch_size
push_to_hub log_completions ref_model max_seq_length eos_token padding_side wandb lora epochs
"""


@pytest.mark.parametrize("names", [TRL_GRPO, TRL_OFFLINE, TRANSFORMERS, VERL, OPENRLHF, ASKED])
def test_every_name_of_a_peer_is_explained(names: str) -> None:
    """Finding "Missing in explain": 30 names of TRL and verl were unknown."""
    unknown = []
    for name in names.split():
        try:
            assert name.rpartition(".")[2].lstrip("-") in explain(name)
        except ConfigError:
            unknown.append(name)
    assert unknown == []


def test_every_entry_names_a_key_of_ours() -> None:
    keys = {**catalogue().records, **catalogue(OfflineConfig).records}
    assert [
        entry for entry in peer_names().values() if entry.key and record_path(entry.key.split(".")) not in keys
    ] == []
    assert [entry for entry in peer_names().values() if not (entry.key or entry.note)] == []


def test_a_name_is_answered_in_one_sentence_and_with_the_page_of_its_key() -> None:
    page = explain("use_peft").splitlines()
    assert page[0] == "use_peft: here it is model.lora_rank (above 0 it trains adapters)."
    assert page[2] == "model.lora_rank"
    assert explain("fp16") == "fp16 is not here: weights are float32 or bfloat16 (model.dtype)."
    entry = find_peer_name("actor_rollout_ref.model.use_remove_padding")
    assert entry is not None
    assert entry.key == "train.tokens_per_micro_batch"


def test_the_same_answer_stands_in_the_error_of_a_configuration() -> None:
    draft = Draft(
        {"model": {"path": "m"}, "data": {"source": "d"}, "rewards": [{"function": "format"}], "use_vllm": True}
    )
    with pytest.raises(ConfigError, match="unknown key use_vllm; use_vllm is not here: no vLLM"):
        draft.validated()


@pytest.mark.parametrize("name", ["1", "0"])
def test_a_value_in_a_peers_remark_is_no_name(name: str) -> None:
    """Finding P4: ``explain 1`` spoke of deepspeed's parallel.strategy."""
    with pytest.raises(ConfigError, match="unknown key"):
        explain(name)


def test_a_narrow_terminal_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    narrow = explain("algorithm.kl_coef")
    monkeypatch.setenv("COLUMNS", "200")
    assert narrow.split() == explain("algorithm.kl_coef").split()
    assert max(map(len, narrow.splitlines())) <= 60
