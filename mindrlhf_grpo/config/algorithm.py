"""The configuration of online algorithms. Sections that are null by default belong to some algorithms only."""

from __future__ import annotations

from typing import Any, Literal

from .paths import OptionalPath, Source
from .section import LARGEST_RATE, Section, Unit, key


class CriticConfig(Section):
    """The value model."""

    path: OptionalPath = key(
        None,
        "Folder, hub id, run or checkpoint of a language model or a trained reward model; null: the policy's.",
        peers="verl: critic.model.path; openrlhf: --critic_pretrain",
    )
    learning_rate: float = key(
        1e-5,
        "Learning rate of the critic.",
        peers="verl: critic.optim.lr; openrlhf: --critic_learning_rate",
        gt=0,
        le=LARGEST_RATE,
    )
    value_clip: float = key(
        0.2,
        "Values move at most this far from those before the batch in the loss; 0: no bound.",
        peers="trl: cliprange_value; verl: critic.cliprange_value; openrlhf: --value_clip",
        ge=0,
    )
    warmup_steps: int = key(
        0,
        "First steps in which only the critic learns.",
        peers="verl: trainer.critic_warmup; openrlhf: --freezing_actor_steps",
        ge=0,
    )
    shared: bool = key(
        False,
        "The critic is a head on the policy's body: one model, one optimizer step for both losses.",
        peers="mindrlhf: is_shared_backbone",
    )
    coef: float = key(
        1.0,
        "Weight of the value loss beside the policy's, where they share a body.",
        peers="trl, mindrlhf: vf_coef",
        gt=0,
    )


class ReturnsConfig(Section):
    """From token rewards to advantages."""

    gamma: Unit = key(
        1.0, "Discount of a reward one token later.", peers="trl: gamma; verl: algorithm.gamma; openrlhf: --gamma"
    )
    lam: Unit = key(
        0.95, "Lambda of the generalised advantage estimate.", peers="trl: lam; verl: algorithm.lam; openrlhf: --lambd"
    )
    whiten: bool = key(
        True,
        "Bring the advantages of the global batch to mean 0 and variance 1.",
        peers="trl: whiten_rewards; openrlhf: --no_advantage_std_norm",
    )


class EntropyConfig(Section):
    """Uses of the policy's entropy: a bonus in the loss, and a filter of tokens."""

    coef: float = key(
        0.0, "Weight of the mean entropy as a bonus.", peers="trl: entropy_coef; verl: actor.entropy_coeff", ge=0
    )
    top_fraction: float = key(
        1.0,
        "Share of the most uncertain tokens of a batch that are trained; 1: all.",
        peers="trl: top_entropy_quantile; lightrft: --high_entropy_token_ratio",
        gt=0,
        le=1,
    )
    count: Literal["all", "kept"] = key(
        "all", "Tokens in the denominators of the loss: all (TRL), or those kept (LightRFT)."
    )


class CorrectionConfig(Section):
    """Train/rollout correction: a factor of each token's advantage from exp(old log-prob - sampling log-prob)."""

    level: Literal["token", "sequence", "geometric"] = key(
        "sequence",
        "One factor per token, or per sequence: product of its tokens, or their geometric mean.",
        peers="trl: vllm_importance_sampling_mode; verl: rollout_is",
    )
    mode: Literal["truncate", "mask", "mask_tokens"] = key(
        "mask",
        "Factors above high become high (TIS); or those outside low..high become 0; or, with one factor per sequence, its tokens keep their own.",
        peers="trl: vllm_importance_sampling_mode; verl: rollout_rs",
    )
    low: float = key(0.0, "Smallest factor kept by mask.", peers="verl: rollout_is_threshold_lower", ge=0)
    high: float = key(
        3.0,
        "Largest factor.",
        peers="trl: vllm_importance_sampling_cap; verl: rollout_is_threshold; openrlhf: --vllm_is_truncated_threshold",
        gt=0,
    )


class KlControlConfig(Section):
    """The adaptive controller: kl_coef grows by up to 20 % per horizon while the KL is above its target."""

    target: float = key(6.0, "Target KL per completion.", peers="verl: kl_ctrl.target_kl; openrlhf: --kl_target", gt=0)
    horizon: int = key(
        10000,
        "Completions over which the coefficient adapts.",
        peers="verl: kl_ctrl.horizon; openrlhf: --kl_horizon",
        ge=1,
    )


class DeadGroupTestConfig(Section):
    """The comparison that finds dead groups."""

    without: list[str] = key(
        [],
        "Reward components left out of the comparison, by name: what shapes every reward, such as an overlong penalty.",
        peers="verl: filter_groups.metric",
    )
    tolerance: float = key(1e-6, "Rewards that differ by less are equal.", ge=0)


class ScalingConfig(Section):
    """Normalisation and bounds of rewards and advantages."""

    running_norm: bool = key(
        False,
        "Divide total rewards by the standard deviation of all so far.",
        peers="lightrft: --reward_running_norm",
    )
    minus_mean: bool = key(
        False, "Subtract the mean of all so far first.", peers="lightrft: --reward_running_norm_minus_mean"
    )
    reward_clip: float = key(0.0, "Largest size of a total reward; 0: none.", peers="lightrft: --reward_clip", ge=0)
    whiten: bool = key(
        False,
        "Bring the advantages of the batch's trained tokens to mean 0 and variance 1.",
        peers="lightrft: --advantages_norm",
    )
    advantage_clip: float = key(0.0, "Largest size of an advantage; 0: none.", peers="lightrft: --advantage_clip", ge=0)


class ReferenceSyncConfig(Section):
    """A reference that follows the policy (TR-DPO)."""

    every: int = key(512, "Steps between two moves.", peers="trl: ref_model_sync_steps", ge=1)
    share: float = key(
        0.6, "Share of the policy in the new reference; 1 copies it.", peers="trl: ref_model_mixup_alpha", gt=0, le=1
    )


class ItemsConfig(Section):
    """The item of a list that each token belongs to, for rewards per item."""

    function: str = key(
        "line", "line: items are lines; or your own, pkg.module:function or file.py:function (see batches/items.py)."
    )
    arguments: dict[str, Any] = key({}, "Keyword settings of the function.")
    train_others: bool = key(
        True, "Tokens of no item stay in the loss, with advantage 0 and their KL, and in its denominators."
    )


class PretrainingConfig(Section):
    """Supervised rows whose loss is added to the policy's."""

    source: Source = key(
        ...,
        "Rows of conversations or of prompt and completion, written like data.source.",
        peers="openrlhf: --pretrain_data",
    )
    coef: float = key(
        0.05, "Weight of their mean token loss.", peers="openrlhf: --ptx_coef; mindrlhf: pretrain_coff", gt=0
    )
    rows: int = key(8, "Rows in each update.", ge=1)
    max_tokens: int = key(512, "Longest row in tokens; longer ones are dropped and counted.", ge=2)


class AlgorithmConfig(Section):
    """Advantages and loss. Keys left at null take the preset's value."""

    name: str = key(
        "grpo",
        "Algorithm: its advantages and its loss, such as grpo, rloo, ppo or gspo (docs/algorithms.md lists all); or your own, file.py:thing or pkg.module:thing.",
        peers="verl: algorithm.adv_estimator; openrlhf: --advantage_estimator",
    )
    preset: str | None = key(None, "A peer's numbers: trl, verl, openrlhf, mindrlhf, lightrft.")
    loss: str | dict[str, Any] | None = key(
        None,
        "Policy loss, where it is not the algorithm's own: a name or file.py:thing, or {name: LOSS, argument: value}.",
        peers="verl: policy_loss.loss_mode; trl: importance_sampling_level, loss_type",
    )
    adv_eps: float | None = key(None, "Added to the standard deviation of a group.", gt=0)
    std_ddof: Literal[0, 1] | None = key(None, "1: sample standard deviation, 0: population.")
    clip_low: float | None = key(
        None, "Ratio clipped from below at 1 - clip_low.", peers="trl: epsilon; verl: clip_ratio_low", gt=0, lt=1
    )
    clip_high: float | None = key(
        None, "Ratio clipped from above at 1 + clip_high.", peers="trl: epsilon_high; verl: clip_ratio_high", gt=0
    )
    dual_clip: float | None = key(
        None, "Bound c > 1 on the loss of negative advantages; 0: off.", peers="verl: clip_ratio_c", ge=0
    )
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum", "constant", "token_sum"] | None = key(
        None,
        "The mean of token losses: a weight per token over the global batch.",
        peers="trl: loss_type; verl: loss_agg_mode",
    )
    kl_coef: float | None = key(
        None,
        "Weight of the KL to the reference; 0 loads no reference.",
        peers="trl: beta; verl: kl_loss_coef; openrlhf: --init_kl_coef",
        ge=0,
    )
    kl_estimator: Literal["k1", "k2", "k3", "abs", "k3+", "r*k3"] | None = key(
        None,
        "Per-token KL estimator; k3+ has the value of k3 and the gradient of k2, r*k3 is k3 times the ratio.",
        peers="verl: kl_loss_type; openrlhf: --kl_estimator",
    )
    kl_in: Literal["loss", "reward"] | None = key(
        None,
        "The KL is a term of the loss, or is taken from the reward.",
        peers="verl: use_kl_in_reward; openrlhf: --use_kl_loss",
    )
    inner_epochs: int = key(
        1, "Passes over each batch of completions (mu).", peers="trl: num_iterations; verl: ppo_epochs", ge=1
    )
    updates_per_batch: int = key(
        1,
        "Optimizer steps in each pass; the batch is cut by prompts.",
        peers="verl: ppo_mini_batch_size; trl: steps_per_generation",
        ge=1,
    )
    mask_truncated: bool = key(
        False,
        "Completions cut at max_tokens are not trained on and not counted.",
        peers="trl: mask_truncated_completions",
    )
    dead_groups: Literal["keep", "mask", "resample"] = key(
        "keep",
        "Groups whose rewards are all equal: keep, leave out of the loss, or draw other prompts (DAPO).",
        peers="verl: filter_groups; openrlhf: --dynamic_filtering",
    )
    dead_group_test: DeadGroupTestConfig | None = key(
        None, "The comparison that finds dead groups; null: all components, exactly."
    )
    resample_budget: int = key(
        4,
        "Most rounds of generation for one step when resampling.",
        peers="verl: filter_groups.max_num_gen_batches",
        ge=1,
    )
    scaling: ScalingConfig | None = key(None, "Normalisation and bounds of rewards and advantages.")
    returns: ReturnsConfig | None = key(None, "How token rewards add up; only for ppo and reinforce_pp.")
    entropy: EntropyConfig | None = key(None, "Entropy bonus, and training on uncertain tokens only.")
    correction: CorrectionConfig | None = key(
        None,
        "Weights for the difference between the engine's log-probs and the policy's; null: what token weights would be is logged where old log-probs are computed.",
    )
    kl_control: KlControlConfig | None = key(None, "Adapts kl_coef to a target; needs kl_in: reward.")
    reference_sync: ReferenceSyncConfig | None = key(None, "Moves the reference towards the policy.")
    pretraining: PretrainingConfig | None = key(None, "Supervised rows mixed into each update (PTX).")
