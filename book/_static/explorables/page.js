/* What the explorables are made of on the page: sliders, buttons, numbers, plots and matrices.

   Everything is an HTML control or SVG, so that it can be used with a keyboard, scales on a phone and takes
   its colours from the theme (explorables.css). An explorable adds `mount(root, data)` to `icl.explorables`
   under its name; its chapter leaves a <div class="explorable" data-explorable="name"> with the data. */

globalThis.icl = globalThis.icl || {};
icl.explorables = icl.explorables || {};

icl.page = (() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";

  /* A new element inside `parent`; `text` is its text, all else are attributes. */
  function element(parent, tag, { text, ...attributes } = {}) {
    const made = tag.startsWith("svg:")
      ? document.createElementNS(SVG, tag.slice(4))
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    parent?.append(made);
    return made;
  }

  /* A number as a page shows it: three significant digits. */
  const short = (value) =>
    !Number.isFinite(value) ? "overflow"
      : value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(2)
      : String(Number(value.toPrecision(3)));

  /* From the smallest to the largest of some numbers; and a little more, for an axis. */
  const around = (...series) => [Math.min, Math.max].map((end) => end(...series.map((values) => end(...values))));
  function widened([low, high], margin = 0.06) {
    return [low - margin * (high - low), high + margin * (high - low)];
  }

  let ids = 0;

  /* A labelled slider. `values`, if given, are what its steps stand for (else min, max, step).
     Calls change(value) at every move; returns { set(value), input }. It may be set to what lies between two
     of the values, and shows it until it is moved. */
  function slider(parent, { name, label, min, max, step = 1, values, value, format = short }, change) {
    const row = element(parent, "div", { class: "explorable-slider" });
    const id = `explorable-${++ids}`;
    element(row, "label", { for: id, text: label });
    const range = values ? { min: 0, max: values.length - 1, step: 1 } : { min, max, step };
    const input = element(row, "input", { type: "range", id, name, ...range });
    const shown = element(row, "output", { for: id });
    const away = (wanted) => values.map((one) => Math.abs(one - wanted));
    const show = (value) => {
      shown.textContent = format(value);
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    const set = (wanted) => {
      input.value = values ? away(wanted).indexOf(Math.min(...away(wanted))) : wanted;
      show(values ? wanted : Number(input.value));
    };
    set(value);
    input.addEventListener("input", () => {
      const moved = values ? values[Number(input.value)] : Number(input.value);
      show(moved);
      change(moved);
    });
    return { set, input };
  }

  /* What to try, and what will be seen. */
  function advice(parent, text) {
    const place = element(parent, "p");
    element(place, "strong", { text: "Try: " });
    place.append(text);
  }

  /* A row for buttons and the like. */
  const row = (parent) => element(parent, "div", { class: "explorable-row" });

  function button(parent, text, click) {
    const made = element(parent, "button", { type: "button", text });
    made.addEventListener("click", click);
    return made;
  }

  /* A named number that changes: numbers(parent, { risk: "excess risk" }).show({ risk: 0.1 }). */
  function numbers(parent, labels) {
    const list = element(parent, "dl", { class: "explorable-numbers" });
    const places = {};
    for (const [name, label] of Object.entries(labels)) {
      const pair = element(list, "div");
      element(pair, "dt", { text: label });
      places[name] = element(pair, "dd", { "data-number": name });
    }
    return {
      show(values) {
        for (const [name, value] of Object.entries(values)) {
          places[name].textContent = short(value);
          places[name].dataset.value = value; // unrounded, for tests
        }
      },
    };
  }

  /* Round numbers that divide low .. high; powers of ten and their 2 and 5 fold on a logarithmic axis. */
  function ticks(low, high, log) {
    if (log) {
      const found = [];
      const decades = Math.log10(high / low);
      const subs = decades > 3 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 5];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const sub of subs) found.push(Number((sub * 10 ** power).toPrecision(3)));
      }
      const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
      const every = Math.ceil(inside.length / 7);
      return inside.filter((_, i) => i % every === 0);
    }
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, 5].find((sub) => sub * power >= rough) || 10);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
      found.push(Number((i * step).toPrecision(12)));
    }
    return found;
  }

  /* A plot with axes. draw({ x: [low, high], y: [low, high], marks }) draws it anew, where a mark is
       { kind: "line", x, y, look }        one line; gaps where y is not finite
       { kind: "points", x, y, look }      markers only
       { kind: "bars", x, y, look, width } bars from zero, `width` in units of x
       { kind: "level", y, look }          a horizontal line; { kind: "place", x, look } a vertical one
       { kind: "area", x, low, high, look } what lies between two lines
       { kind: "text", x, y, text }        a word at a place
     `look` names a class of explorables.css (its colour, dash and marker); a mark with a `label` is in the
     legend. `alt` is what a screen reader is told; draw may renew it. click(x, y) is called with the place that
     a pointer picks, beside controls that do the same. */
  function plot(parent, { title, alt, xLabel = "", yLabel = "", logX = false, logY = false, width = 420, height = 260, click }) {
    const figure = element(parent, "figure", { class: "explorable-plot" });
    if (title) element(figure, "figcaption", { text: title });
    const svg = element(figure, "svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": alt });
    const legend = element(figure, "div", { class: "explorable-legend" });
    const inner = { left: 54, right: width - 10, top: 8, bottom: height - 40 };
    const scale = ([low, high], from, to, log) => (value) => {
      const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
      return from + share * (to - from);
    };
    const unscale = ([low, high], share, log) => (log ? low * (high / low) ** share : low + share * (high - low));
    let ranges;
    if (click) {
      svg.classList.add("picked");
      svg.addEventListener("click", (event) => {
        const box = svg.getBoundingClientRect();
        const right = (((event.clientX - box.left) / box.width) * width - inner.left) / (inner.right - inner.left);
        const up = (inner.bottom - ((event.clientY - box.top) / box.height) * height) / (inner.bottom - inner.top);
        if (Math.min(right, up) < 0 || Math.max(right, up) > 1) return;
        click(unscale(ranges.x, right, logX), unscale(ranges.y, up, logY));
      });
    }

    function draw({ x, y, marks, alt: told }) {
      svg.replaceChildren();
      legend.replaceChildren();
      if (told) svg.setAttribute("aria-label", told);
      ranges = { x, y };
      const X = scale(x, inner.left, inner.right, logX);
      const Y = scale(y, inner.bottom, inner.top, logY);
      for (const value of ticks(...x, logX)) {
        const at = X(value);
        element(svg, "svg:line", { class: "grid", x1: at, x2: at, y1: inner.top, y2: inner.bottom });
        element(svg, "svg:text", { class: "tick", x: at, y: inner.bottom + 15, "text-anchor": "middle", text: short(value) });
      }
      for (const value of ticks(...y, logY)) {
        const at = Y(value);
        element(svg, "svg:line", { class: "grid", x1: inner.left, x2: inner.right, y1: at, y2: at });
        element(svg, "svg:text", { class: "tick", x: inner.left - 6, y: at + 4, "text-anchor": "end", text: short(value) });
      }
      element(svg, "svg:text", { class: "axis", x: (inner.left + inner.right) / 2, y: height - 6, "text-anchor": "middle", text: xLabel });
      const middle = (inner.top + inner.bottom) / 2;
      element(svg, "svg:text", { class: "axis", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})`, text: yLabel });
      // Values beyond the axis are drawn just outside it, where the frame cuts them off.
      const frame = element(svg, "svg:svg", { x: inner.left, y: inner.top, width: inner.right - inner.left,
        height: inner.bottom - inner.top, viewBox: `${inner.left} ${inner.top} ${inner.right - inner.left} ${inner.bottom - inner.top}` });
      const clamp = (at) => Math.max(-2 * height, Math.min(3 * height, at));
      for (const mark of marks) {
        const look = `mark ${mark.look}`;
        if (mark.kind === "level") {
          element(frame, "svg:line", { class: look, x1: inner.left, x2: inner.right, y1: clamp(Y(mark.y)), y2: clamp(Y(mark.y)) });
        } else if (mark.kind === "place") {
          element(frame, "svg:line", { class: look, x1: X(mark.x), x2: X(mark.x), y1: inner.top, y2: inner.bottom });
        } else if (mark.kind === "bars") {
          const zero = Y(logY ? y[0] : 0);
          const wide = Math.abs(X(x[0] + (mark.width || 0.8)) - X(x[0]));
          mark.x.forEach((value, i) => {
            const at = clamp(Y(mark.y[i]));
            element(frame, "svg:rect", { class: `${look} bar`, x: X(value) - wide / 2, width: wide, y: Math.min(at, zero), height: Math.abs(at - zero) });
          });
        } else if (mark.kind === "area") {
          const along = (edge) => mark.x.map((value, i) => `${X(value).toFixed(2)} ${clamp(Y(edge[i])).toFixed(2)}`);
          element(frame, "svg:path", { class: `${look} area`, d: `M${[...along(mark.low), ...along(mark.high).reverse()].join("L")}Z` });
        } else if (mark.kind === "text") {
          element(frame, "svg:text", { class: "tick", x: X(mark.x), y: clamp(Y(mark.y)) + 4, "text-anchor": "middle", text: mark.text });
        } else if (mark.kind === "points") {
          symbols(frame, look, Array.from(mark.x, (value, i) => [X(value), clamp(Y(mark.y[i]))]));
        } else {
          let path = "";
          let open = false;
          mark.x.forEach((value, i) => {
            const at = Y(mark.y[i]);
            if (!Number.isFinite(at)) open = false;
            else {
              path += `${open ? "L" : "M"}${X(value).toFixed(2)} ${clamp(at).toFixed(2)}`;
              open = true;
            }
          });
          element(frame, "svg:path", { class: look, d: path, fill: "none" });
        }
        if (mark.label) entry(legend, mark);
      }
    }
    return { draw };
  }

  /* Markers of a look at some places: circles, or diamonds where the look says so. They are one path: many
     elements would take their time. */
  function symbols(parent, look, places, size = 4) {
    const [wide, turn] = [size + 1, `a${size} ${size} 0 1 0`];
    const circle = ([x, y]) => `M${(x - size).toFixed(2)} ${y.toFixed(2)}${turn} ${2 * size} 0${turn} ${-2 * size} 0Z`;
    const diamond = ([x, y]) => `M${x.toFixed(2)} ${(y - wide).toFixed(2)}l${wide} ${wide}l${-wide} ${wide}l${-wide} ${-wide}Z`;
    const one = /diamond|preprocessed|trained/.test(look) ? diamond : circle;
    const finite = places.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
    element(parent, "svg:path", { class: `${look} point`, d: finite.map(one).join("") });
  }

  function entry(legend, { kind, look, label }) {
    const item = element(legend, "span");
    const svg = element(item, "svg:svg", { viewBox: "0 0 26 12", width: 26, height: 12, "aria-hidden": "true" });
    if (kind === "bars" || kind === "area") element(svg, "svg:rect", { class: `mark ${look} bar`, x: 6, y: 1, width: 14, height: 10 });
    else if (kind === "points") symbols(svg, `mark ${look}`, [[13, 6]]);
    else element(svg, "svg:path", { class: `mark ${look}`, d: "M0 6H26", fill: "none" });
    item.append(label);
  }

  /* A heat map of a matrix, white at zero; blue is negative and red positive, numbers say the same.
     show(values, marked) draws it anew; entries of `marked` that are true get a frame. */
  function matrix(parent, { title, limit, digits = 2, rows, columns }) {
    const table = element(parent, "table", { class: "explorable-matrix" });
    if (title) element(table, "caption", { text: title });
    return {
      show(values, marked) {
        table.querySelector("tbody")?.remove();
        const body = element(table, "tbody");
        if (columns) {
          const head = element(body, "tr");
          if (rows) element(head, "td");
          for (const name of columns) element(head, "th", { scope: "col", text: name });
        }
        values.forEach((entries, i) => {
          const line = element(body, "tr");
          if (rows) element(line, "th", { scope: "row", text: rows[i] });
          entries.forEach((value, j) => {
            const text = value === 0 ? "0" : Math.abs(value) < 1000 ? value.toFixed(digits) : short(value);
            const cell = element(line, "td", { text });
            const share = Math.min(1, Math.abs(value) / limit);
            cell.style.setProperty("--share", `${Math.round(60 * share)}%`);
            cell.className = value < 0 ? "negative" : "positive";
            cell.classList.toggle("marked", Boolean(marked?.[i][j]));
          });
        });
      },
    };
  }

  /* Start every explorable of the page. What the fallback said gives way to it. */
  function start() {
    for (const root of document.querySelectorAll(".explorable[data-explorable]")) {
      const explorable = icl.explorables[root.dataset.explorable];
      if (!explorable || root.dataset.ready) continue;
      root.dataset.ready = "yes";
      const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
      root.querySelector(".explorable-fallback")?.remove();
      root.state = explorable.mount(root, data); // a function that tells tests what is shown
    }
  }
  if (typeof document !== "undefined") {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else start();
  }

  return { element, advice, short, around, widened, slider, row, button, numbers, plot, matrix };
})();
