"use strict";
// Completions as shaded tokens, with the figures of a token beside the pointer.

const Tokens = (() => {
  const { byId, make, number, signed } = Page;
  const vocabulary = Page.json(byId("vocabulary"));
  const FIRST = 1500; // tokens drawn at once; the rest on demand
  const SURPRISE = 6; // nats at which a token has the full colour
  const shown = new WeakMap(); // <pre> -> rollout
  const tip = byId("tip");

  // Control, invisible and direction-changing characters as ⟨U+202E⟩, so that a reader sees what is there.
  function visible(text) {
    return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g,
      (char) => `⟨U+${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  }

  function pieces(rollout) {
    rollout.pieces ??= rollout.t.map((place) => vocabulary.pieces[place]);
    return rollout.pieces;
  }

  function text(rollout) {
    return rollout.e ? pieces(rollout).join("") : rollout.text ?? pieces(rollout).join("");
  }

  // Whether an environment wrote the token: nothing was sampled there, and nothing is learned.
  function foreign(rollout, at) {
    return (rollout.e ?? []).some(([start, end]) => start <= at && at < end);
  }

  function advantage(rollout, at) {
    return Array.isArray(rollout.a) ? rollout.a[at] : rollout.a;
  }

  function milli(values, at) {
    return values && values[at] !== null && values[at] !== undefined ? values[at] / 1000 : null;
  }

  // Which tokens overlap a match of the query, as a set of positions.
  function matches(rollout, query) {
    const hits = new Set();
    if (!query) return hits;
    const starts = [];
    let joined = "";
    for (const piece of pieces(rollout)) {
      starts.push(joined.length);
      joined += piece.toLowerCase();
    }
    let token = 0;
    for (let at = joined.indexOf(query); at >= 0; at = joined.indexOf(query, at + query.length)) {
      while (token + 1 < starts.length && starts[token + 1] <= at) token += 1;
      for (let one = token; one < starts.length && starts[one] < at + query.length; one += 1) hits.add(one);
    }
    return hits;
  }

  function shade(span, rollout, at, shading, scale) {
    const value = shading === "advantage" ? advantage(rollout, at) : milli(rollout.l, at);
    if (value === null || value === undefined) return;
    const share = shading === "advantage" ? Math.abs(value) / scale : -value / SURPRISE;
    if (share < 0.005) return;
    span.classList.add(shading === "logp" ? "unlikely" : value > 0 ? "up" : "down");
    span.style.setProperty("--w", `${Math.round(8 + 52 * Math.min(1, share))}%`);
  }

  function spans(rollout, from, to, { shading, scale, query }) {
    const hits = matches(rollout, query);
    const made = document.createDocumentFragment();
    for (let at = from; at < to; at += 1) {
      const span = make("span", { "data-at": at }, visible(pieces(rollout)[at]));
      if (hits.has(at)) span.classList.add("hit");
      if (foreign(rollout, at)) span.classList.add("foreign");
      else shade(span, rollout, at, shading, scale);
      made.append(span);
    }
    return made;
  }

  // A completion; `options`: shading, scale (largest |advantage| of the step), query (lower case).
  function block(rollout, options) {
    if (options.shading === "none") return make("pre", { dir: "auto", tabindex: 0 }, ...marked(visible(text(rollout)), options.query));
    const drawn = Math.min(FIRST, rollout.t.length);
    const pre = make("pre", { class: "tokens", tabindex: 0, "aria-label": "Tokens: arrow keys read them one by one" },
      spans(rollout, 0, drawn, options));
    shown.set(pre, rollout);
    if (drawn === rollout.t.length) return pre;
    const more = make("button", { class: "more", type: "button" }, `Show ${(rollout.t.length - drawn).toLocaleString("en")} more tokens`);
    more.addEventListener("click", () => {
      pre.append(spans(rollout, drawn, rollout.t.length, options));
      more.remove();
    });
    return make("div", {}, pre, more);
  }

  // Text with the matches of the query in <mark>.
  function marked(whole, query) {
    if (!query) return [whole];
    const lower = whole.toLowerCase();
    const parts = [];
    let done = 0;
    for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, done)) {
      parts.push(whole.slice(done, at), make("mark", {}, whole.slice(at, at + query.length)));
      done = at + query.length;
    }
    return [...parts, whole.slice(done)];
  }

  function figures(rollout, at) {
    const logp = milli(rollout.l, at);
    const trained = milli(rollout.p, at);
    const rows = [
      ["token", JSON.stringify(pieces(rollout)[at])],
      ["id", String(vocabulary.ids[rollout.t[at]])],
      ["position", `${at + 1} of ${rollout.tokens.toLocaleString("en")}`],
      foreign(rollout, at) ? ["written by", "the environment"] : null,
      foreign(rollout, at) ? null : ["log-prob", logp === null ? "–" : `${logp.toFixed(3)} (p ${number(Math.exp(logp))})`],
      trained === null ? null : ["in training", trained.toFixed(3)],
      foreign(rollout, at) ? null : ["advantage", signed(advantage(rollout, at))],
    ].filter((row) => row !== null);
    return make("table", {}, ...rows.map(([name, value]) => make("tr", {}, make("th", {}, name), make("td", {}, visible(value)))));
  }

  function tell(span) {
    const pre = span.closest("pre");
    tip.replaceChildren(figures(shown.get(pre), Number(span.dataset.at)));
    tip.hidden = false;
    const box = span.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, window.innerWidth - tip.offsetWidth - 8));
    const below = box.bottom + 8 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? box.bottom + 8 : box.top - tip.offsetHeight - 8}px`;
  }

  function hush() {
    tip.hidden = true;
    document.querySelectorAll(".tokens .now").forEach((span) => span.classList.remove("now"));
  }

  function step(pre, move) {
    const current = pre.querySelector(".now");
    const next = current ? (move > 0 ? current.nextElementSibling : current.previousElementSibling) : pre.firstElementChild;
    if (!next) return;
    hush();
    next.classList.add("now");
    next.scrollIntoView({ block: "nearest" });
    tell(next);
  }

  document.addEventListener("pointerover", (event) => {
    const span = event.target instanceof Element ? event.target.closest(".tokens > span") : null;
    if (span) tell(span);
    else if (!tip.hidden) hush();
  });
  document.addEventListener("focusout", hush);
  document.addEventListener("keydown", (event) => {
    const pre = event.target instanceof Element ? event.target.closest("pre.tokens") : null;
    if (!pre || (event.key !== "ArrowLeft" && event.key !== "ArrowRight")) return;
    step(pre, event.key === "ArrowRight" ? 1 : -1);
    event.preventDefault();
  });

  return { block, text, visible, marked };
})();
