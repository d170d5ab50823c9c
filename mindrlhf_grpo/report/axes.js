"use strict";
// Geometry of a chart: no DOM. Values may be null (not measured).

const Axes = (() => {
  const MAX_BARS = 120;

  // Round numbers that divide [low, high] into about `count` parts.
  function ticks(low, high, count) {
    const raw = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-6; at += 1) found.push(at * step || 0); // never -0
    return { found, step };
  }

  // Low and high of the axis for the series between two indices.
  function range(series, from, to, zero, percent) {
    let low = Infinity;
    let high = -Infinity;
    for (const values of series) {
      for (let at = from; at <= to; at += 1) {
        const value = values[at];
        if (value === null) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    if (low > high) return { low: 0, high: 1 };
    if (zero) {
      low = Math.min(0, low);
      high = Math.max(0, high);
    }
    if (percent) high = high > 0.5 ? Math.max(1, high) : Math.max(0.01, high);
    if (low === high) {
      const margin = Math.abs(low) / 2 || 1;
      return { low: zero && low >= 0 ? 0 : low - margin, high: high + margin };
    }
    const margin = (high - low) * 0.06;
    return { low: zero && low === 0 ? 0 : low - margin, high: percent && high === 1 ? 1 : high + margin };
  }

  // Exponential means from both ends, averaged, so that the curve does not lag; gaps stay gaps.
  function smoothed(values, count) {
    const keep = Math.exp(-1 / Math.max(1.5, count / 60));
    const forward = exponential(values, keep);
    const backward = exponential([...values].reverse(), keep).reverse();
    return forward.map((value, at) => (value === null ? null : (value + backward[at]) / 2));
  }

  function exponential(values, keep) {
    let sum = 0;
    let weight = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = keep * sum + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
      return sum / weight;
    });
  }

  // Path through the measured points; where points are denser than pixels, each pixel keeps its low and high.
  function line(steps, values, from, to, x, y) {
    const parts = [];
    let pixel = null;
    let low = 0;
    let high = 0;
    function flush() {
      if (pixel === null) return;
      parts.push(`${pixel},${y(low).toFixed(1)}`);
      if (high !== low) parts.push(`${pixel},${y(high).toFixed(1)}`);
    }
    const dense = to - from > 800;
    for (let at = from; at <= to; at += 1) {
      const value = values[at];
      if (value === null) continue;
      const place = dense ? Math.round(x(steps[at])) : Number(x(steps[at]).toFixed(1));
      if (place === pixel) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      } else {
        flush();
        pixel = place;
        low = value;
        high = value;
      }
    }
    flush();
    return parts.length ? `M${parts.join("L")}` : "";
  }

  // Cuts [from, to] into at most MAX_BARS runs of steps and stacks the means of the series in each.
  function bars(series, from, to) {
    const size = Math.ceil((to - from + 1) / MAX_BARS);
    const made = [];
    for (let first = from; first <= to; first += size) {
      const last = Math.min(to, first + size - 1);
      let base = 0;
      const parts = series.map((values) => {
        let sum = 0;
        for (let at = first; at <= last; at += 1) sum += values[at] || 0;
        const top = base + sum / (last - first + 1);
        const part = [base, top];
        base = top;
        return part;
      });
      made.push({ first, last, parts, total: base });
    }
    return made;
  }

  // Index of the step nearest to a step number.
  function nearest(steps, wanted) {
    let low = 0;
    let high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < wanted) low = middle;
      else high = middle;
    }
    return wanted - steps[low] <= steps[high] - wanted ? low : high;
  }

  function tickName(value, step, percent) {
    const digits = (size) => Math.max(0, Math.min(12, -Math.floor(Math.log10(size) + 1e-9) + (String(size).includes("25") ? 1 : 0)));
    if (percent) return `${(100 * value).toFixed(digits(step * 100))}%`;
    if (value === 0) return "0";
    if (step < 1e-4) return value.toExponential(1).replaceAll("-", "−");
    if (Math.abs(value) >= 10000) return `${Number((value / 1000).toPrecision(4))}k`;
    return value.toFixed(digits(step)).replace("-", "−");
  }

  return { ticks, range, smoothed, line, bars, nearest, tickName };
})();
