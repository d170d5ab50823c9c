"use strict";
// Shared by the other scripts: error record, data, small DOM makers, numbers, theme, URL fragment.
// Text from the run reaches the page through text nodes only.

const Page = (() => {
  const root = document.documentElement;
  root.dataset.errors = "";

  function recordError(text) {
    root.dataset.errors += `${text}\n`;
  }
  window.addEventListener("error", (event) => recordError(event.message));
  window.addEventListener("unhandledrejection", (event) => recordError(String(event.reason)));
  document.addEventListener("securitypolicyviolation", (event) => recordError(`policy: ${event.violatedDirective}`));

  function byId(id) {
    return document.getElementById(id);
  }

  function json(element) {
    return JSON.parse(element.textContent);
  }

  // make("p", {class: "small"}, "text", child): strings become text nodes, null children are left out.
  function make(tag, attributes, ...children) {
    return filled(document.createElement(tag), attributes, children);
  }

  function draw(tag, attributes, ...children) {
    return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  }

  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  function number(value, percent) {
    if (value === null || value === undefined) return "–";
    if (percent) return `${(100 * value).toFixed(1)}%`;
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    if (size < 0.001) return value.toExponential(1).replaceAll("-", "−");
    const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
    return value.toFixed(digits).replace("-", "−");
  }

  function signed(value) {
    if (value === null || value === undefined) return "–";
    return value > 0 ? `+${number(value)}` : number(value);
  }

  // The URL fragment holds the state of the page: #step=12&group=3&shade=logp&theme=dark
  function fragment() {
    const text = location.hash.slice(1);
    return new URLSearchParams(text.includes("=") ? text : "");
  }

  function remember(changes) {
    const state = fragment();
    for (const [name, value] of Object.entries(changes)) {
      if (value === "" || value === null) state.delete(name);
      else state.set(name, value);
    }
    history.replaceState(null, "", `#${state}`);
  }

  const themes = ["system", "light", "dark"];

  function setTheme(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    byId("theme").textContent = `Theme: ${root.dataset.theme || "system"}`;
  }

  byId("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "system") + 1) % themes.length];
    setTheme(next);
    remember({ theme: next === "system" ? "" : next });
  });
  setTheme(fragment().get("theme"));

  return { root, byId, json, make, draw, number, signed, fragment, remember };
})();
