"use strict";
// The rollout browser: step, groups, and one group's completions side by side.

const Browser = (() => {
  const { byId, make, number, signed, remember } = Page;
  const stored = [...document.querySelectorAll("script.rollouts")];
  const steps = stored.map((element) => Number(element.dataset.step));
  const loaded = new Map(); // place among the stored steps -> parsed step
  const state = { at: steps.length - 1, group: null, sort: "drawn", shade: "advantage", query: "", ready: false };
  const TITLE = 80; // characters that two lines of the list hold
  const KEYS = { reward: "reward", advantage: "advantage", length: "tokens" };

  function mean(values) {
    const known = values.filter((value) => value !== null && value !== undefined);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  }

  // A score is a number, null, or one of these per segment.
  function scalar(score) {
    return Array.isArray(score) ? mean(score) : score;
  }

  function load(at) {
    if (!loaded.has(at)) {
      const step = Page.json(stored[at]);
      const rewards = step.groups.flatMap((group) => group.rollouts.map((rollout) => scalar(rollout.reward)));
      const known = rewards.filter((value) => value !== null);
      step.low = Math.min(0, ...known);
      step.high = Math.max(0, ...known);
      step.scale = largestAdvantage(step);
      step.shared = shared(step.groups.map((group) => group.prompt));
      loaded.set(at, step);
    }
    return loaded.get(at);
  }

  function largestAdvantage(step) {
    let largest = 1e-9;
    for (const { rollouts } of step.groups) {
      for (const { a } of rollouts) for (const value of [a].flat()) largest = Math.max(largest, Math.abs(value ?? 0));
    }
    return largest;
  }

  // How many characters all prompts begin with (to the start of the line or word) and end with: the template.
  function shared(prompts) {
    const [first] = prompts;
    if (prompts.length < 2) return { start: 0, end: 0 };
    let start = 0;
    while (start < first.length && prompts.every((prompt) => prompt[start] === first[start])) start += 1;
    let end = 0;
    while (end < first.length - start && prompts.every((prompt) => prompt.at(-1 - end) === first.at(-1 - end))) end += 1;
    const line = first.lastIndexOf("\n", start - 1) + 1;
    return { start: start && start - line < 80 ? line : first.lastIndexOf(" ", start) + 1, end };
  }

  function sorted(items, value) {
    if (state.sort === "drawn") return items;
    const sign = state.sort.endsWith("-up") ? 1 : -1;
    return [...items].sort((one, other) => sign * ((value(one) ?? -Infinity * sign) - (value(other) ?? -Infinity * sign)) || 0);
  }

  function figure(rollout) {
    return scalar(rollout[KEYS[state.sort.split("-")[0]]]);
  }

  // Advantages of a group average to 0, so groups are ordered by their most extreme completion.
  function groupFigure(group) {
    const values = group.rollouts.map(figure).filter((value) => value !== null);
    if (!values.length) return null;
    if (!state.sort.startsWith("advantage")) return mean(values);
    return state.sort.endsWith("-up") ? Math.min(...values) : Math.max(...values);
  }

  function contains(group) {
    if (!state.query) return true;
    const texts = [group.prompt, ...Object.values(group.columns), ...group.rollouts.map(Tokens.text)];
    return texts.some((text) => text.toLowerCase().includes(state.query));
  }

  function listed() {
    return sorted(load(state.at).groups.filter(contains), groupFigure);
  }

  function isDead(group) {
    const rewards = group.rollouts.map((rollout) => scalar(rollout.reward));
    return rewards.length > 1 && rewards.every((reward) => reward === rewards[0]);
  }

  // What tells a prompt from the others: what they do not share, else the last turn of its template, else its end.
  function titleOf(prompt, { start, end }) {
    const own = prompt.slice(start, prompt.length - end).trim() || prompt;
    if (start > 0 || own.length <= TITLE) return own;
    const turns = own.split(/<\|[^|<>]{1,40}\|>/).map((turn) => turn.replace(/^(system|user|assistant|model)\s*(\n|$)/, "").trim());
    const last = turns.filter((turn) => turn && !/^(system|user|assistant|model)$/.test(turn)).at(-1) ?? own;
    return last.length > 3 * TITLE ? `…${last.slice(-TITLE)}` : last;
  }

  function listItem(group, step) {
    const strip = make("span", { class: "strip", title: "Reward of each completion" });
    for (const rollout of group.rollouts) {
      const box = make("i");
      const share = step.high > step.low ? (scalar(rollout.reward) - step.low) / (step.high - step.low) : 0;
      box.style.setProperty("--w", `${Math.round(100 * share)}%`);
      strip.append(box);
    }
    const title = titleOf(group.prompt, step.shared) || "(empty prompt)";
    const row = make("span", { class: "row" }, strip, isDead(group) ? make("span", { class: "tag alert", title: "All rewards are equal" }, "dead") : null,
      make("span", { title: "Mean reward" }, number(mean(group.rollouts.map((one) => scalar(one.reward))))));
    const button = make("button", { type: "button", "aria-current": group === state.group ? "true" : "false" },
      make("span", { class: "title", dir: "auto" }, Tokens.visible(title.slice(0, 200))), row);
    button.addEventListener("click", () => choose(group));
    return make("li", {}, button);
  }

  function prompt(group) {
    const columns = Object.entries(group.columns).map(([name, value]) =>
      make("div", {}, make("dt", {}, Tokens.visible(name)), make("dd", {}, ...Tokens.marked(Tokens.visible(value), state.query))));
    return make("section", { class: "prompt" },
      make("header", {}, make("h3", {}, "Prompt"), make("span", { class: "tag" }, `uid ${group.uid}`),
        isDead(group) ? make("span", { class: "tag alert" }, "dead group: all rewards equal") : null),
      make("pre", { dir: "auto", tabindex: 0 }, ...Tokens.marked(Tokens.visible(group.prompt), state.query)),
      columns.length ? make("dl", { class: "columns" }, ...columns) : null);
  }

  function scoreText(score) {
    return Array.isArray(score) ? score.map((value) => number(value)).join(", ") : number(score);
  }

  function card(rollout, step) {
    const side = rollout.advantage > 0 ? "positive" : rollout.advantage < 0 ? "negative" : "";
    const scores = make("div", { class: "scores" },
      make("span", {}, make("small", {}, "reward"), make("b", {}, number(scalar(rollout.reward)))),
      make("span", {}, make("small", {}, "advantage"), make("b", { class: side }, signed(rollout.advantage))));
    const parts = Object.entries(rollout.components).map(([name, value]) => make("span", { class: "tag" }, `${Tokens.visible(name)} ${scoreText(value)}`));
    const tags = make("div", { class: "tags" }, make("span", { class: "tag" }, `#${rollout.sample}`), ...parts,
      make("span", { class: "tag" }, `${rollout.tokens.toLocaleString("en")} tokens`),
      ...environmentTags(rollout),
      make("span", { class: ["length", "turns"].includes(rollout.finish) ? "tag alert" : "tag", title: "Finish reason" }, Tokens.visible(rollout.finish)),
      make("span", { class: "tag", title: "Weight version that sampled it" }, `v${rollout.version}`));
    const cut = rollout.tokens > rollout.t.length ? make("p", { class: "hint more" }, `The page holds the first ${rollout.t.length.toLocaleString("en")} tokens.`) : null;
    return make("section", { class: "card" }, make("header", {}, scores, tags),
      Tokens.block(rollout, { shading: state.shade, scale: step.scale, query: state.query }), cut, conversation(rollout));
  }

  function environmentTags(rollout) {
    if (!rollout.turns) return [];
    const turns = rollout.turns.filter((message) => message.role === "assistant").length;
    const named = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;
    return [
      make("span", { class: "tag" }, named(turns, "turn")), make("span", { class: "tag" }, named(rollout.calls, "call")),
      rollout.failed ? make("span", { class: "tag alert" }, `${named(rollout.failed, "call")} failed`) : null,
      rollout.failure ? make("span", { class: "tag alert", title: Tokens.visible(rollout.failure) }, "environment failed") : null,
    ].filter((tag) => tag !== null);
  }

  // The turns of a conversation with an environment: what the model said and called, and what it was answered.
  function conversation(rollout) {
    if (!rollout.turns) return null;
    const items = rollout.turns.map((message) => make("li", { class: message.role === "assistant" ? "said" : "answered" },
      make("b", {}, Tokens.visible(message.role)),
      message.reward === null || message.reward === undefined ? null : make("span", { class: "tag" }, `reward ${number(message.reward)}`),
      ...message.calls.map((call) => make("code", { dir: "auto" }, ...Tokens.marked(Tokens.visible(call), state.query))),
      message.calls.length ? null : make("span", { dir: "auto" }, ...Tokens.marked(Tokens.visible(message.text), state.query))));
    return make("ol", { class: "turns", "aria-label": "Turns" }, ...items);
  }

  function showGroup() {
    const pane = byId("group");
    if (!state.group) {
      pane.replaceChildren(make("p", { class: "empty" }, "Nothing in this step matches the search."));
      return;
    }
    const step = load(state.at);
    const cards = sorted(state.group.rollouts, figure).map((rollout) => card(rollout, step));
    pane.replaceChildren(prompt(state.group), make("div", { class: "cards" }, ...cards));
  }

  function showScale() {
    const step = load(state.at);
    const words = {
      advantage: step.scale > 1e-9
        ? ["Shading: advantage −", number(step.scale), make("span", { class: "swatch advantage" }), "+", number(step.scale), "."]
        : ["All advantages of this step are 0."],
      logp: ["Shading: likely", make("span", { class: "swatch logp" }), "surprising (log-prob −6 or less)."],
      none: ["Text as decoded, without special tokens."],
    };
    byId("scale").replaceChildren(...words[state.shade]);
  }

  function show() {
    const step = load(state.at);
    const groups = listed();
    if (!groups.includes(state.group)) state.group = groups[0] ?? null;
    byId("step").value = state.at;
    const inPage = step.groups.reduce((sum, group) => sum + group.rollouts.length, 0);
    byId("step-name").textContent = `step ${step.step.toLocaleString("en")}`;
    const part = inPage < step.completions ? ` Step ${step.step}: ${inPage} of ${step.completions} completions.` : "";
    byId("found").textContent = part + (state.query ? ` ${groups.length} of ${step.groups.length} groups match.` : "");
    byId("groups").replaceChildren(...groups.map((group) => listItem(group, step)));
    showGroup();
    showScale();
    if (state.ready) store(step.step);
  }

  // The fragment is written once a reader has done something: a plain address stays plain.
  function store(step) {
    remember({ step, group: state.group ? state.group.uid : "", sort: state.sort === "drawn" ? "" : state.sort,
      shade: state.shade === "advantage" ? "" : state.shade, q: state.query });
  }

  function choose(group) {
    state.group = group;
    show();
    byId("groups").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
  }

  // Keeps the same prompt where the new step has it, else the same place in the list.
  function goTo(at) {
    const place = Math.max(0, Math.min(steps.length - 1, at));
    if (place === state.at) return;
    const old = state.group;
    const index = Math.max(0, listed().indexOf(old));
    state.at = place;
    const groups = listed();
    state.group = groups.find((group) => group.uid === old?.uid) ?? groups[Math.min(index, groups.length - 1)] ?? null;
    show();
  }

  function move(by) {
    const groups = listed();
    const next = groups[groups.indexOf(state.group) + by];
    if (next) choose(next);
  }

  function nextMatch() {
    for (let by = 1; by <= steps.length; by += 1) {
      const at = (state.at + by) % steps.length;
      if (load(at).groups.some(contains)) return goTo(at);
    }
    return undefined;
  }

  function setShade(shade) {
    state.shade = shade;
    for (const input of document.querySelectorAll("#shade input")) input.checked = input.value === shade;
    show();
  }

  function key(event) {
    const field = event.target instanceof Element && event.target.closest("input, select, textarea, button:not(#groups button)");
    if (event.ctrlKey || event.metaKey || event.altKey || (field && event.key !== "Escape")) return;
    const actions = {
      j: () => move(1), k: () => move(-1), "[": () => goTo(state.at - 1), "]": () => goTo(state.at + 1),
      1: () => setShade("advantage"), 2: () => setShade("logp"), 3: () => setShade("none"),
      "/": () => byId("query").focus(), Escape: () => document.activeElement?.blur(),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    actions[event.key]();
    if (event.key !== "Escape") event.preventDefault();
  }

  function restore() {
    const wanted = Page.fragment();
    const at = steps.indexOf(Number(wanted.get("step") ?? NaN));
    if (at >= 0) state.at = at;
    if ([...byId("sort").options].some((option) => option.value === wanted.get("sort"))) state.sort = wanted.get("sort");
    if (["advantage", "logp", "none"].includes(wanted.get("shade"))) state.shade = wanted.get("shade");
    state.query = (wanted.get("q") ?? "").toLowerCase();
    state.group = load(state.at).groups.find((group) => group.uid === wanted.get("group")) ?? null;
    byId("sort").value = state.sort;
    byId("query").value = state.query;
    setShade(state.shade);
  }

  function start() {
    byId("step").addEventListener("input", () => goTo(Number(byId("step").value)));
    byId("step-back").addEventListener("click", () => goTo(state.at - 1));
    byId("step-on").addEventListener("click", () => goTo(state.at + 1));
    byId("sort").addEventListener("change", () => { state.sort = byId("sort").value; show(); });
    byId("query").addEventListener("input", () => { state.query = byId("query").value.toLowerCase(); show(); });
    byId("query").addEventListener("keydown", (event) => { if (event.key === "Enter") nextMatch(); });
    byId("shade").addEventListener("change", (event) => setShade(event.target.value));
    document.addEventListener("keydown", key);
    window.addEventListener("hashchange", () => { if (Page.fragment().has("step")) restore(); });
    Charts.onOpen = (step) => {
      goTo(Axes.nearest(steps, step));
      byId("rollouts").scrollIntoView({ behavior: "smooth" });
    };
    const linked = Page.fragment().has("step");
    restore();
    state.ready = true;
    if (linked) byId("rollouts").scrollIntoView();
  }

  if (steps.length) start();
  return { goTo };
})();
