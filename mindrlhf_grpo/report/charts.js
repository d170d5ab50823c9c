"use strict";
// The curves. All charts share one range of steps, one crosshair and one scale across: steps, or what they cost.

const Charts = (() => {
  const { byId, make, draw, number } = Page;
  const { steps, series, charts, across: scalesAcross } = Page.json(byId("run-data"));
  const HEIGHT = 170;
  const EDGE = { left: 46, right: 12, top: 8, bottom: 20 };
  const FEW = 40; // measured points that are also drawn as dots
  const CLICK = 260; // ms in which a second click makes a double click
  const view = { from: 0, to: steps.length - 1, hover: null, across: "step" };
  const drawn = [];
  let onOpen = null; // called with a step number when a chart is clicked

  // The place of each step on the scale across.
  function places() {
    return scalesAcross[view.across] || steps;
  }

  function build(spec) {
    const hidden = new Set();
    const chart = { spec, hidden, svg: draw("svg", { tabindex: 0, role: "img", "aria-label": described(spec) }) };
    chart.values = [];
    const legend = make("div", { class: "legend" });
    spec.series.forEach((name, index) => legend.append(legendButton(chart, name, index)));
    chart.figure = make("figure", { class: spec.wide ? "chart wide" : "chart", "data-chart": spec.title },
      make("h3", {}, spec.title), make("p", { class: "says" }, spec.says), legend, chart.svg);
    listen(chart);
    return chart;
  }

  function described(spec) {
    const ends = spec.series.map((name, index) => {
      const measured = series[name].filter((value) => value !== null);
      return `${spec.labels[index]} from ${number(measured[0], spec.percent)} to ${number(measured.at(-1), spec.percent)}`;
    });
    return `${spec.title}: ${ends.join(", ")}`;
  }

  function legendButton(chart, name, index) {
    const value = make("span", { class: "value" });
    const button = make("button", { type: "button", "aria-pressed": "true", title: name },
      ...(chart.spec.series.length > 1 ? [make("i", { class: `n${index % 8}` }), make("span", { class: "name" }, chart.spec.labels[index])] : []), value);
    button.addEventListener("click", () => {
      const off = !chart.hidden.delete(index) && chart.hidden.add(index);
      button.setAttribute("aria-pressed", off ? "false" : "true");
      render(chart);
    });
    chart.values.push(value);
    return button;
  }

  // Bars need half a step of room at each end; lines run from edge to edge.
  function scales(chart, low, high) {
    const { left, right, top, bottom } = EDGE;
    const width = chart.width - left - right;
    const height = HEIGHT - top - bottom;
    const xs = places();
    const span = xs[view.to] - xs[view.from];
    const room = chart.spec.stacked || span === 0 ? span / Math.max(1, view.to - view.from) || 1 : 0;
    const first = xs[view.from] - room / 2;
    chart.x = (place) => left + ((place - first) / (span + room)) * width;
    chart.y = (value) => top + (1 - (value - low) / (high - low)) * height;
    chart.placeAt = (pixel) => first + ((pixel - left) / width) * (span + room);
    chart.room = (room / (span + room)) * width;
  }

  function render(chart) {
    const { spec, svg } = chart;
    chart.width = svg.clientWidth || 400;
    svg.setAttribute("viewBox", `0 0 ${chart.width} ${HEIGHT}`);
    svg.replaceChildren();
    const shown = spec.series.map((name, index) => ({ values: series[name], index })).filter(({ index }) => !chart.hidden.has(index));
    const bars = spec.stacked ? Axes.bars(shown.map(({ values }) => values), view.from, view.to) : null;
    const range = bars ? Axes.range([bars.map((bar) => bar.total)], 0, bars.length - 1, true, false)
      : Axes.range(shown.flatMap(withBand(spec)).map(reaching), 0, steps.length - 1, spec.zero, spec.percent);
    scales(chart, range.low, range.high);
    grid(chart, range);
    chart.inside = draw("svg", { x: EDGE.left - 4, width: chart.width - EDGE.left - EDGE.right + 8, height: HEIGHT, viewBox: `${EDGE.left - 4} 0 ${chart.width - EDGE.left - EDGE.right + 8} ${HEIGHT}` });
    for (const [first, last, text] of spec.alarms) drawAlarm(chart, first, last, text);
    svg.append(chart.inside);
    if (bars) drawBars(chart, shown, bars);
    else for (const one of shown) drawLine(chart, one.values, one.index);
    chart.cross = draw("line", { class: "cross", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
    chart.at = draw("text", { class: "at", y: HEIGHT - 6, "text-anchor": "middle", visibility: "hidden" });
    chart.drag = draw("rect", { class: "drag", y: EDGE.top, height: HEIGHT - EDGE.top - EDGE.bottom, visibility: "hidden" });
    svg.append(chart.drag, chart.cross, chart.at);
    point(chart);
  }

  function grid(chart, { low, high }) {
    const { found, step } = Axes.ticks(low, high, 4);
    for (const value of found) {
      const y = chart.y(value);
      chart.svg.append(draw("line", { class: "grid", x1: EDGE.left, x2: chart.width - EDGE.right, y1: y, y2: y }));
      const text = Axes.tickName(value, step, chart.spec.percent);
      chart.svg.append(draw("text", { x: EDGE.left - 6, y: y + 4, "text-anchor": "end" }, text));
    }
    chart.labels = draw("g", {});
    const across = Axes.ticks(places()[view.from], places()[view.to], Math.max(2, Math.floor(chart.width / 75)));
    for (const value of across.found.filter((one) => view.across !== "step" || Number.isInteger(one))) {
      const text = view.across === "step" ? value.toLocaleString("en") : compact(value);
      const x = Math.min(chart.x(value), chart.width - 3.5 * text.length - 2);
      chart.labels.append(draw("text", { x, y: HEIGHT - 6, "text-anchor": "middle" }, text));
    }
    chart.svg.append(chart.labels);
  }

  function compact(value) {
    return value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 2 });
  }

  // The first and the last place to draw: where a curve has no point at an edge of the view, its next point outside.
  function reach(values) {
    let [from, to] = [view.from, view.to];
    while (from > 0 && values[from] === null) from -= 1;
    while (to < steps.length - 1 && values[to] === null) to += 1;
    return [from, to];
  }

  function reaching(values) {
    const [from, to] = reach(values);
    return values.map((value, at) => (at < from || at > to ? null : value));
  }

  function drawLine(chart, values, index) {
    const color = `n${index % 8}`;
    const measured = [];
    const [from, to] = reach(values);
    for (let at = from; at <= to; at += 1) if (values[at] !== null) measured.push(at);
    const ends = chart.spec.bands[chart.spec.series[index]];
    if (ends) drawBand(chart, series[ends[0]], series[ends[1]], color);
    const noisy = byId("smooth").checked && measured.length > FEW && chart.spec.title !== "Learning rate";
    const path = (list, kind) => draw("path", { class: `${color} ${kind}`, d: Axes.line(places(), list, from, to, chart.x, chart.y) });
    chart.inside.append(path(values, noisy ? "raw" : ""));
    if (noisy) chart.inside.append(path(Axes.smoothed(values, measured.length), ""));
    if (measured.length > FEW) return;
    for (const at of measured) {
      chart.inside.append(draw("circle", { class: color, r: 2.4, cx: chart.x(places()[at]), cy: chart.y(values[at]) }));
    }
  }

  function withBand(spec) {
    return ({ values, index }) => [values, ...(spec.bands[spec.series[index]] || []).map((name) => series[name])];
  }

  // Steps at which an alarm sounded; one step is drawn wide enough to be seen.
  function drawAlarm(chart, first, last, text) {
    if (last < steps[view.from] || first > steps[view.to]) return;
    const place = (step) => chart.x(places()[Axes.nearest(steps, step)]);
    const from = Math.max(EDGE.left, place(first));
    const to = Math.min(chart.width - EDGE.right, place(last));
    const box = { y: EDGE.top, height: HEIGHT - EDGE.top - EDGE.bottom };
    const title = draw("title", {}, `alarm ${text}`);
    chart.svg.append(draw("rect", { class: "alarm", x: from, width: Math.max(3, to - from), ...box }, title));
    chart.svg.append(draw("line", { class: "alarm-start", x1: from, x2: from, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
  }

  // Between two curves, where both were measured.
  function drawBand(chart, low, high, color) {
    const at = [];
    const [from, to] = reach(low);
    for (let index = from; index <= to; index += 1) if (low[index] !== null && high[index] !== null) at.push(index);
    if (at.length < 2) return;
    const place = (values) => (index) => `${chart.x(places()[index]).toFixed(1)},${chart.y(values[index]).toFixed(1)}`;
    const outline = [...at.map(place(high)), ...at.reverse().map(place(low))];
    chart.inside.append(draw("path", { class: `${color} band`, d: `M${outline.join("L")}Z` }));
  }

  function drawBars(chart, shown, bars) {
    shown.forEach(({ index }, part) => {
      const boxes = bars.filter((bar) => bar.total > 0).map((bar) => {
        const left = chart.x(places()[bar.first]) - chart.room / 2;
        const width = chart.x(places()[bar.last]) + chart.room / 2 - left;
        const inner = (width > 5 ? width - 1.5 : width * 0.95).toFixed(1);
        const [base, top] = bar.parts[part].map((value) => chart.y(value).toFixed(1));
        return `M${left.toFixed(1)},${base}h${inner}V${top}h-${inner}Z`;
      });
      chart.svg.append(draw("path", { class: `part n${index % 8}`, d: boxes.join("") }));
    });
  }

  // Crosshair and legend values at the step pointed to, or the last values.
  function point(chart) {
    const at = view.hover ?? view.to;
    const inside = view.hover !== null;
    for (const element of [chart.cross, chart.at]) element.setAttribute("visibility", inside ? "visible" : "hidden");
    chart.labels.setAttribute("opacity", inside ? 0.35 : 1);
    if (inside) {
      const x = chart.x(places()[at]);
      chart.cross.setAttribute("x1", x);
      chart.cross.setAttribute("x2", x);
      chart.at.setAttribute("x", Math.min(Math.max(x, EDGE.left + 20), chart.width - 28));
      chart.at.textContent = `step ${steps[at].toLocaleString("en")}`;
    }
    chart.spec.series.forEach((name, index) => {
      chart.values[index].textContent = number(lastMeasured(series[name], at), chart.spec.percent);
    });
  }

  function lastMeasured(values, at) {
    for (let index = at; index >= 0; index -= 1) if (values[index] !== null) return values[index];
    return null;
  }

  function hover(at) {
    if (at === view.hover) return;
    view.hover = at;
    drawn.forEach(point);
  }

  function zoom(from, to) {
    view.from = from;
    view.to = to;
    view.hover = null;
    byId("unzoom").hidden = from === 0 && to === steps.length - 1;
    drawn.forEach(render);
  }

  function clamped(at) {
    return Math.min(view.to, Math.max(view.from, at));
  }

  function listen(chart) {
    const { svg } = chart;
    let start = null;
    let waiting = 0; // for a second click
    const place = (event) => event.clientX - svg.getBoundingClientRect().left;
    const indexAt = (pixel) => clamped(Axes.nearest(places(), chart.placeAt(pixel)));
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      start = place(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      hover(indexAt(place(event)));
      if (start === null) return;
      chart.drag.setAttribute("visibility", "visible");
      chart.drag.setAttribute("x", Math.min(start, place(event)));
      chart.drag.setAttribute("width", Math.abs(place(event) - start));
    });
    svg.addEventListener("pointerup", (event) => {
      if (start === null) return;
      const [from, to] = [indexAt(Math.min(start, place(event))), indexAt(Math.max(start, place(event)))];
      const dragged = Math.abs(place(event) - start) > 6;
      start = null;
      chart.drag.setAttribute("visibility", "hidden");
      if (dragged && to > from) zoom(from, to);
      if (dragged) return;
      clearTimeout(waiting);
      waiting = setTimeout(() => open(to), CLICK);
    });
    svg.addEventListener("dblclick", () => {
      clearTimeout(waiting);
      zoom(0, steps.length - 1);
    });
    svg.addEventListener("pointercancel", () => { start = null; });
    svg.addEventListener("pointerleave", () => hover(null));
    svg.addEventListener("keydown", (event) => key(event));
  }

  function key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
    if (event.key in moves) hover(clamped((view.hover ?? view.to) + moves[event.key]));
    else if (event.key === "Enter") open(view.hover ?? view.to);
    else if (event.key === "Escape") zoom(0, steps.length - 1);
    else return;
    event.preventDefault();
  }

  function open(at) {
    if (onOpen) onOpen(steps[at]);
  }

  function start() {
    let section = "";
    for (const spec of charts) {
      if (spec.section !== section) byId("charts").append(make("h3", { class: "part" }, spec.section));
      section = spec.section;
      const chart = build(spec);
      drawn.push(chart);
      byId("charts").append(chart.figure);
    }
    drawn.forEach(render);
    const across = byId("across");
    for (const name of Object.keys(scalesAcross)) across.append(make("option", { value: name }, name === "step" ? "steps" : name));
    across.addEventListener("change", () => {
      view.across = across.value;
      drawn.forEach(render);
    });
    byId("smooth").addEventListener("change", () => drawn.forEach(render));
    byId("unzoom").addEventListener("click", () => zoom(0, steps.length - 1));
    let waiting = 0;
    window.addEventListener("resize", () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => drawn.forEach(render));
    });
  }

  if (steps.length) start();
  return { set onOpen(callback) { onOpen = callback; } };
})();
