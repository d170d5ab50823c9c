"""The tables of ``docs/algorithms.md``: every estimator, loss and objective there is, from the registries themselves.

``python -m docs.tables.algorithms --write`` writes them into the document, between its two markers; without
``--write`` they are printed. Each name of a registry has exactly one entry here: anything else raises.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from docs.tables.document import between, print_or_write
from mindrlhf_grpo.advantages import ESTIMATORS, WHITENINGS
from mindrlhf_grpo.algorithms.corrections import CORRECTIONS
from mindrlhf_grpo.algorithms.plan import ALGORITHMS
from mindrlhf_grpo.algorithms.task import OBJECTIVES
from mindrlhf_grpo.losses import KL_ESTIMATORS, POLICY_LOSSES

DOCUMENT = Path(__file__).resolve().parents[1] / "algorithms.md"
BEGIN = "<!-- tables: written by python -m docs.tables.algorithms --write -->"
END = "<!-- end of tables -->"
HOST = ("yes", "host", "host")
ALL = ("yes", "yes", "yes")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a table says of a name: formula, where it is from, and who has it under which name."""

    formula: str
    source: str
    peers: str


def arxiv(number: str, title: str) -> str:
    """A link to a paper."""
    return f"[{title}](https://arxiv.org/abs/{number})"


ESTIMATOR_ENTRIES: dict[str, Entry] = {
    "grpo": Entry("(R − mean_g) / (std_g + eps)", arxiv("2402.03300", "DeepSeekMath"),
                  "trl, verl, openrlhf `group_norm`, lightrft, mindrlhf: eps and ddof by preset"),
    "dr_grpo": Entry("R − mean_g", arxiv("2503.20783", "Dr. GRPO"),
                     "trl `scale_rewards: none`; verl `norm_adv_by_std_in_grpo: False`"),
    "rloo": Entry("R − mean of the others of the group", arxiv("2402.14740", "RLOO"), "trl, verl, openrlhf `rloo`"),
    "gdpo": Entry("s = Σ_f w_f (R_f − mean_g,f) / (std_g,f + eps); then (s − mean) / (std + 1e-4) over the batch",
                  arxiv("2601.05242", "GDPO"), "trl `samples`; verl `tokens`; NeMo RL `scale`"),
    "rank_grpo": Entry("`grpo` for each rank k of a list by itself", arxiv("2510.20150", "Rank-GRPO"),
                       "Rank-GRPO: eps 1e-4"),
    "loo": Entry("(R − mean) / (std + eps), both of the others of the group; not divided where that std is 0",
                 "NeMo RL", "NeMo RL `use_leave_one_out_baseline`: eps 1e-6"),
    "reinforce_baseline": Entry("R − mean_g, whitened over the tokens of the batch",
                                arxiv("2501.03262", "REINFORCE++"),
                                "verl `reinforce_plus_plus_baseline`; openrlhf `reinforce_baseline`"),
    "opo": Entry("R − Σ_g n R / Σ_g n", arxiv("2505.23585", "OPO"), "verl `opo`"),
    "pass_k": Entry("best of the group: (R1 − R2) / (std_g + eps); the rest 0", arxiv("2503.19595", "pass@k"),
                    "verl `grpo_passk`"),
    "remax": Entry("R − R of a greedy completion", arxiv("2310.10505", "ReMax"), "verl `remax`"),
    "cpgd": Entry("(R − mean) / (std + eps) over the batch, biased std", arxiv("2505.12504", "CPGD"),
                  "lightrft `cpgd`: over its micro-batch, eps 1e-6"),
}  # fmt: skip

TOKEN_ENTRIES: dict[str, Entry] = {
    "token_rewards": Entry("r_t = −β KL_t, + R at the last token", arxiv("2203.02155", "InstructGPT"),
                           "trl PPO, verl `use_kl_in_reward`, openrlhf, lightrft, mindrlhf (there with + β KL)"),
    "gae": Entry("Â_t = δ_t + γλ Â_{t+1}, δ_t = r_t + γ V_{t+1} − V_t; returns Â + V", arxiv("1506.02438", "GAE"),
                 "trl, lightrft, mindrlhf: λ 0.95; verl, openrlhf: λ 1"),
    "reinforce_pp": Entry("G_t = r_t + γ G_{t+1}, whitened over the tokens of the batch",
                          arxiv("2501.03262", "REINFORCE++"), "verl `reinforce_plus_plus`; openrlhf `reinforce`"),
    "whiten_tokens": Entry("(A − mean) / √(var + 1e-8) over all ranks", "verl `masked_whiten`",
                           "`verl`: unbiased variance; `openrlhf`: biased, at least 1e-8"),
}  # fmt: skip

LOSS_ENTRIES: dict[str, Entry] = {
    "ppo": Entry("−min(min(r, δ) A, clip(r, 1 − ε_l, 1 + ε_h) A); with c and A < 0 at most −c A",
                 arxiv("1707.06347", "PPO"), "all; δ: trl `delta`; c: verl `clip_ratio_c` 3, areal, slime"),
    "gspo": Entry("the same with s = exp(mean log r) of the completion", arxiv("2507.18071", "GSPO"),
                  "`gradient: sequence` trl, openrlhf; `gradient: token` and log s ≤ 10: verl"),
    "item": Entry("the same with exp(mean log r) of the token's item; one ratio for the rest",
                  arxiv("2510.20150", "Rank-GRPO"), "Rank-GRPO `importance_sampling_level: item`"),
    "cispo": Entry("−sg(clip(r, low, high)) A ℓ", arxiv("2506.13585", "CISPO"),
                   "verl, slime, NeMo RL: 1 − ε_l, 1 + ε_h; open-instruct: 0, 1 + ε_h; trl: 0, ε_h"),
    "sapo": Entry("−(4/τ) σ(τ (r − 1)) A, τ by the sign of A", arxiv("2511.20347", "SAPO"),
                  "trl, verl: τ 1.0 and 1.05"),
    "gmpo": Entry("−exp(mean of clipped log r) A", arxiv("2507.20673", "GMPO"),
                  "verl `geo_mean`: bounds 0.2, `aggregation: sequence_mean`"),
    "cpgd": Entry("−min(x A, clip(x, log(1 − ε_l), log(1 + ε_h)) A), x = log r; + drift_coef (r − 1 − x)",
                  arxiv("2505.12504", "CPGD"), "lightrft `--use_cpg_loss`: without the drift"),
}  # fmt: skip

KL_ENTRIES: dict[str, Entry] = {
    "k1": Entry("x = ℓ − ℓr", "[Schulman](http://joschu.net/blog/kl-approx.html)", "openrlhf, lightrft: in the reward"),
    "k2": Entry("x² / 2", "[Schulman](http://joschu.net/blog/kl-approx.html)", "openrlhf `k2`; verl `mse`"),
    "k3": Entry("exp(−x) − 1 + x", "[Schulman](http://joschu.net/blog/kl-approx.html)", "trl, mindrlhf; verl `low_var_kl`"),
    "abs": Entry("|x|", "verl", "verl `abs`"),
    "k3+": Entry("value of k3, gradient of k2", "verl", "verl `k3+`"),
    "r*k3": Entry("r (exp(−x) − 1 + x), r = exp(ℓ − ℓo)", arxiv("2512.02556", "DeepSeek-V3.2"),
                  "slime `--use-unbiased-kl`; trl `use_bias_correction_kl`"),
}  # fmt: skip

CORRECTION_ENTRIES: dict[str, Entry] = {
    "tis": Entry("min(w, 2), w = exp(ℓo − ℓb) of a token", "verl, slime, open-instruct", "verl, slime, open-instruct: 2"),
    "icepop": Entry("w where 0.5 ≤ w ≤ 5, else 0", "openrlhf", "openrlhf `icepop`"),
    "sequence_tis": Entry("min(Π w, 2)", "verl", "verl `sequence`"),
    "sequence_mask": Entry("Π w where it is ≤ 3, else 0", "trl", "trl `sequence_mask`, its default"),
    "geometric_tis": Entry("min((Π w)^(1/n), 2)", "open-instruct, areal", "areal, open-instruct: mean of logs"),
    "seq_mask_tis": Entry("w of the token where 0.5 ≤ (Π w)^(1/n) ≤ 5, else 0", "openrlhf",
                          "openrlhf `seq-mask-tis`; NeMo RL"),
}  # fmt: skip


def table() -> str:
    """All tables as Markdown, from the first heading to the last row.

    Raises:
        ValueError: a name without an entry, an entry without a name, or an empty cell.
    """
    named = {name: described(entry.loss, source=entry.source, peers=entry.peers) for name, entry in OBJECTIVES.items()}
    critic = Entry(
        "½ max((V − R)², (clip(V, Vo ± c) − R)²)", arxiv("1707.06347", "PPO"), "trl, verl, openrlhf, mindrlhf"
    )
    return "\n\n".join(
        [
            "### Algorithms (`algorithm.name`)\n\n" + algorithm_rows(),
            "### Advantages of completions and segments\n\n" + rows(matched(ESTIMATORS, ESTIMATOR_ENTRIES), HOST),
            f"`gdpo` ends in one of {', '.join(f'`{name}`' for name in WHITENINGS)}: see below.",
            "### Advantages of tokens\n\n" + rows(TOKEN_ENTRIES, HOST),
            "### Policy losses (`algorithm.loss`)\n\n" + rows(matched(POLICY_LOSSES, LOSS_ENTRIES), ALL),
            "### KL estimators (`algorithm.kl_estimator`)\n\n" + rows(matched(KL_ESTIMATORS, KL_ENTRIES), ALL),
            "### Loss of a critic\n\n" + rows({"value": critic}, ALL),
            "### Train/rollout corrections (`algorithm.correction`)\n\n"
            + rows(matched(CORRECTIONS, CORRECTION_ENTRIES), HOST),
            "### Preferences, reward models, supervised (`objective.name`)\n\n" + rows(named, ALL),
        ]
    )


def algorithm_rows() -> str:
    """What each name puts together, as a Markdown table."""
    estimators = {estimator: name for name, estimator in ESTIMATORS.items()}
    tokens = {"same": "the number of their completion or item", "sum": "`reinforce_pp` of it", "gae": "`gae` of it"}
    lines = ["| name | advantages | tokens get | loss | prescribes | needs |", "|---|---|---|---|---|---|"]
    for name, algorithm in ALGORITHMS.items():
        score = f"`{estimators[algorithm.estimator]}`" if algorithm.estimator in estimators else "the reward R"
        own = ", ".join(f"{key} {value}" for key, value in algorithm.own.items()) or "nothing"
        groups = [] if algorithm.group_size < 2 else ["groups of 2 or more"]
        needs = ", ".join([*groups, *sorted(algorithm.needs)]) or "nothing"
        cells = [f"`{name}`", score, tokens[algorithm.returns], f"`{algorithm.loss}`", own, needs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def matched(names: Iterable[str], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries in the order of the registry. Raises ValueError where the two differ."""
    wanted = list(names)
    if set(wanted) != set(entries):
        raise ValueError(f"the table and the code differ in {', '.join(sorted(set(wanted) ^ set(entries)))}")
    return {name: entries[name] for name in wanted}


def described(loss: object, *, source: str, peers: str) -> Entry:
    """An entry whose formula is the first sentence of a loss's docstring."""
    text = " ".join((inspect.getdoc(loss) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z)\]`])(?<!et al)\.(?:\s|$)", text)[0]
    sentence = re.sub(r"[:,]?\s*https?://\S+", "", sentence).rstrip(".:, ").replace("``", "`")
    paper = re.fullmatch(r"arXiv:(\S+)", source)
    return Entry(sentence, arxiv(paper[1], source) if paper else source, peers)


def rows(entries: Mapping[str, Entry], tested: tuple[str, str, str]) -> str:
    """One table. Raises ValueError for an empty cell."""
    lines = ["| name | formula | source | peers | numpy | torch | mindspore |", "|---" * 7 + "|"]
    for name, entry in entries.items():
        cells = [f"`{name}`", entry.formula, entry.source, entry.peers, *tested]
        if not all(cell.strip() for cell in cells):
            raise ValueError(f"an empty cell in the row of {name}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def in_document(text: str) -> str:
    """A document with its tables brought up to date. Raises ValueError where the markers are missing."""
    return between(text, BEGIN, END, table())


if __name__ == "__main__":
    print_or_write(DOCUMENT, table, in_document, module="docs.tables.algorithms")
