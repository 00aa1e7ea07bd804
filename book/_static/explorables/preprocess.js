/* Preprocess, then optimize: plain gradient descent beside gradient descent on the covariates R x, step by step.

   The formulas are those of icl_lib/estimators.py, the prompts those of the sparse task of icl_lib/tasks.py. */

globalThis.icl = globalThis.icl || {};
icl.explorables = icl.explorables || {};

icl.explorables.preprocess = (() => {
  "use strict";

  const { dot, scale, add, mean, transpose, solve, largestEigenvalue } = icl.math;

  const AVERAGED = 20; // prompts behind an average: those of the seeds 1, 2, ...
  const SINGLY = 16; // so many steps are taken one by one; then the stride doubles with T

  /* The numbers of steps T that are looked at: 1 .. 16, then eight in every doubling. */
  const STEPS = [];
  for (let T = 1, stride = 1; T <= 4096; T += stride) {
    STEPS.push(T);
    if (T === SINGLY * stride) stride *= 2;
  }

  // ------------------------------------------------------------------------------------ the task

  /* The random numbers of a prompt, enough for the largest d and n. */
  function draw(seed, d, n) {
    const next = icl.math.normal(seed);
    const vector = (size) => Array.from({ length: size }, next);
    return {
      order: icl.math.choose(d, d, next.uniform),
      weights: vector(d),
      query: vector(d),
      pairs: Array.from({ length: n }, () => vector(d + 1)), // x_i, and the noise of y_i
    };
  }

  /* A prompt of n pairs: w has s of d entries N(0, 1) and the rest zero, x ~ N(0, I), noise of standard deviation
     sigma. It uses the first of the random numbers, so that a setting that moves changes the prompt, and does not
     draw another one. */
  function prompt(drawn, { d, s, n, sigma }) {
    const support = drawn.order.filter((j) => j < d).slice(0, s);
    const w = drawn.weights.slice(0, d).map((value, j) => (support.includes(j) ? value : 0));
    const x = drawn.pairs.slice(0, n).map((pair) => pair.slice(0, d));
    const y = x.map((row, i) => dot(row, w) + sigma * drawn.pairs[i].at(-1));
    return { x, y, w, query: drawn.query.slice(0, d), support };
  }

  // ------------------------------------------------------------------------------ the estimators

  /* The sample covariance S = X^T X / n and the correlations r = X^T y / n. */
  function moments({ x, y }) {
    const [columns, n] = [transpose(x), x.length];
    return { S: columns.map((a) => columns.map((b) => dot(a, b) / n)), r: columns.map((a) => dot(a, y) / n) };
  }

  /* R S R with R = diag(r). */
  const preprocessed = (S, r) => S.map((row, i) => row.map((value, j) => r[i] * value * r[j]));

  /* 2 B - B B of a symmetric matrix. */
  function twice(B) {
    const C = B.map((row) => row.slice());
    for (let i = 0; i < B.length; i++) {
      for (let j = 0; j <= i; j++) C[i][j] = C[j][i] = 2 * B[i][j] - dot(B[i], B[j]);
    }
    return C;
  }

  /* Gradient descent from zero, w <- w + alpha (r - S w) with alpha = 1 / lambda_max(S), after each of STEPS.
     Several steps at once are one step of the same form, w <- w + b - B w, and two such make the next. */
  function descend(S, r) {
    const alpha = 1 / largestEigenvalue(S, 1e-12);
    let [stride, B, b] = [1, S.map((row) => scale(alpha, row)), scale(alpha, r)];
    let w = r.map(() => 0);
    return STEPS.map((T) => {
      if (T > SINGLY * stride) {
        b = b.map((value, i) => 2 * value - dot(B[i], b));
        B = twice(B);
        stride *= 2;
      }
      w = w.map((value, i) => value + b[i] - dot(B[i], w));
      return w;
    });
  }

  const times = (a, b) => a.map((value, i) => value * b[i]);

  /* Weight vectors: of both descents after each of STEPS, read as weights of x, and of ridge with its best penalty. */
  function estimates(given, { d, s, n, sigma }) {
    const { S, r } = moments(given);
    const penalty = (sigma ** 2 * d) / s / n;
    return {
      r,
      plain: descend(S, r),
      preprocessed: descend(preprocessed(S, r), times(r, r)).map((w) => times(r, w)),
      ridge: solve(S.map((row, i) => row.map((value, j) => value + (i === j ? penalty : 0))), r),
    };
  }

  /* The excess risk of weights, |w_hat - w|^2 ... */
  const excess = (found, w) => found.reduce((sum, value, j) => sum + (value - w[j]) ** 2, 0);

  /* ... and its parts on and off the support of w. */
  const parts = (found, w) => {
    const over = (kept) => excess(found.filter((_, j) => kept(w[j])), w.filter(kept));
    return { on: over((value) => value !== 0), off: over((value) => value === 0) };
  };

  /* The excess risks of all estimates of a prompt. */
  const risks = ({ plain, preprocessed: rescaled, ridge }, { w }) => ({
    plain: plain.map((found) => excess(found, w)),
    preprocessed: rescaled.map((found) => excess(found, w)),
    ridge: excess(ridge, w),
  });

  /* Their means over prompts. */
  function average(several, settings) {
    const all = several.map((drawn) => {
      const one = prompt(drawn, settings);
      return risks(estimates(one, settings), one);
    });
    const over = (name) => scale(1 / all.length, all.map((one) => one[name]).reduce(add));
    return {
      plain: over("plain"),
      preprocessed: over("preprocessed"),
      ridge: mean(all.map((one) => one.ridge)),
    };
  }

  // ------------------------------------------------------------------------------------ the page

  const D = [2, 20];
  const SIGMAS = Array.from({ length: 30 }, (_, i) => Number((0.05 * (i + 1)).toFixed(2)));
  const FIRST = 6; // the seed of the prompt to begin with, a clear case
  const TICK = 120; // milliseconds between steps while it plays

  function mount(root, data) {
    const { element, advice, slider, row, button, numbers, plot, short, widened, around } = icl.page;
    const now = { d: data.d, s: data.s, n: data.n, sigma: data.sigma, seed: FIRST, T: STEPS[0] };
    const [most, longest] = [Math.max(D[1], data.d), data.lengths[1]];
    const averaged = Array.from({ length: AVERAGED }, (_, i) => draw(i + 1, most, longest));
    const averages = new Map(); // by settings
    let shown; // the prompt, its estimates, their risks, and how they are drawn

    advice(root,
      "press play. After preprocessing the weights grow first on the support, where r is large, and for many steps stay " +
      "small off it; plain gradient descent moves all coordinates at once. Stop where its own risk is lowest: most of what it " +
      "gains is off the support. Then raise s to d: on average the advantage is gone, and ridge wins, whatever this prompt says."
    );

    const set = (name) => (value) => {
      now[name] = value;
      change();
    };
    slider(root, { name: "d", label: "d, covariates", min: Math.min(D[0], data.d), max: most, value: now.d }, set("d"));
    const s = slider(root, { name: "s", label: "s, nonzero weights", min: 1, max: now.d, value: now.s }, set("s"));
    slider(root, { name: "n", label: "n, pairs", min: data.lengths[0], max: longest, value: now.n }, set("n"));
    slider(root, { name: "sigma", label: "σ, noise", values: SIGMAS, value: now.sigma }, set("sigma"));

    const choices = row(root);
    button(choices, "new prompt", () => set("seed")(now.seed + 1));
    button(choices, "previous prompt", () => set("seed")(Math.max(1, now.seed - 1)));
    const told = element(choices, "span", { role: "status" });

    const first = element(root, "div", { class: "explorable-panels" });
    const bars = { height: 210, xLabel: "coordinate, the support first", alt: "" };
    const correlationPlot = plot(first, { ...bars, title: "True weights and correlations" });
    const covariatePlot = plot(first, { ...bars, title: "A query x, and R x" });

    const steps = slider(root, { name: "T", label: "T, steps", values: STEPS, value: now.T, format: String }, (value) => {
      pause();
      now.T = value;
      drawSteps();
    });
    const play = button(row(root), "", () => {
      if (playing) return pause();
      forward();
      if (!still.matches) playing = setInterval(forward, TICK);
      name();
    });

    const second = element(root, "div", { class: "explorable-panels" });
    const panel = (options, labels) => {
      const place = element(second, "div");
      return { ...plot(place, options), ...numbers(place, labels) };
    };
    const errors = (name) => ({ [`${name}-on`]: "error on the support", [`${name}-off`]: "off it" });
    const weightPlots = {
      plain: panel({ ...bars, title: "Plain gradient descent" }, errors("plain")),
      preprocessed: panel({ ...bars, title: "Preprocessed" }, errors("preprocessed")),
    };
    const curves = { height: 240, xLabel: "steps T", yLabel: "excess risk", logX: true, logY: true, alt: "" };
    const labels = (before) => ({ [`${before}plain`]: "plain", [`${before}preprocessed`]: "preprocessed", [`${before}ridge`]: "ridge" });
    const riskPlot = panel({ ...curves, title: "Excess risk, this prompt" }, labels(""));
    const averagePlot = panel({ ...curves, title: `Excess risk, mean of ${AVERAGED} prompts` }, labels("average-"));

    // What plays does so because the reader asked for it; one who wants no motion is taken on step by step.
    const still = matchMedia("(prefers-reduced-motion: reduce)");
    let playing = null;
    const name = () => (play.textContent = playing ? "pause" : still.matches ? "next T" : "play");
    function pause() {
      clearInterval(playing);
      playing = null;
      name();
    }
    function forward() {
      now.T = STEPS[(STEPS.indexOf(now.T) + 1) % STEPS.length];
      steps.set(now.T);
      drawSteps();
      if (now.T === STEPS.at(-1)) pause();
    }
    still.addEventListener("change", pause);

    /* The settings or the prompt have changed. */
    function change() {
      now.s = Math.min(now.s, now.d);
      s.input.max = now.d;
      s.set(now.s);
      told.textContent = `seed ${now.seed}`;
      const one = prompt(averaged[now.seed - 1] || draw(now.seed, most, longest), now);
      const found = estimates(one, now);
      const settings = [now.d, now.s, now.n, now.sigma].join();
      if (!averages.has(settings)) averages.set(settings, average(averaged, now));
      const size = one.w.map(Math.abs);
      const ordered = one.w.map((_, j) => j).sort((i, j) => size[j] - size[i]);
      const limit = 2 * Math.max(...size, ...found.r.map(Math.abs));
      shown = {
        prompt: one,
        found,
        ordered, // the support first, large weights before small ones
        risk: risks(found, one),
        average: averages.get(settings),
        reach: widened(around([0], one.w, found.r, ...found.plain, ...found.preprocessed).map((end) => Math.max(-limit, Math.min(limit, end)))),
      };
      shown.risks = around(...[shown.risk, shown.average].flatMap(({ plain, preprocessed: rescaled, ridge }) => [plain, rescaled, [ridge]]));
      drawPrompt();
      drawSteps();
    }

    const inOrder = (values) => shown.ordered.map((j) => values[j]);

    /* Bars over the coordinates, the true weights as dots, the support shaded. */
    function drawBars(made, y, marks, alt) {
      made.draw({
        x: [0.4, now.d + 0.6],
        y,
        alt,
        marks: [
          { kind: "area", x: [0.5, now.s + 0.5], low: [y[0], y[0]], high: [y[1], y[1]], look: "support", label: "support" },
          { kind: "level", y: 0, look: "here" },
          ...marks,
        ],
      });
    }

    function drawPrompt() {
      const { prompt: { w, query, support }, found: { r }, reach } = shown;
      const places = w.map((_, i) => i + 1);
      const off = r.filter((_, j) => !support.includes(j)).map(Math.abs);
      drawBars(correlationPlot, reach, [
        { kind: "bars", x: places, y: inOrder(r), look: "second", label: "r" },
        { kind: "points", x: places.slice(0, now.s), y: inOrder(w), look: "truth", label: "w*" },
      ], `True weights and correlations of ${now.d} coordinates. On the support of ${now.s} the largest |r| is ${short(Math.max(...support.map((j) => Math.abs(r[j]))))}` +
        `${off.length ? `, off it ${short(Math.max(...off))}` : ""}.`);
      const after = times(r, query);
      drawBars(covariatePlot, widened(around([0], query, after)), [
        { kind: "bars", x: places, y: inOrder(query), look: "model faint", label: "x" },
        { kind: "bars", x: places, y: inOrder(after), look: "second", label: "R x", width: 0.4 },
      ], `A query x and R x by coordinate. Of the squared length of x, ${short(100 * share(query, support))} percent is on the support; of that of R x, ${short(100 * share(after, support))} percent.`);
    }

    const share = (values, support) => support.reduce((sum, j) => sum + values[j] ** 2, 0) / dot(values, values);

    function drawSteps() {
      const { prompt: { w }, found, reach } = shown;
      const index = STEPS.indexOf(now.T);
      const places = w.map((_, i) => i + 1);
      for (const [kind, label] of [["plain", "plain gradient descent"], ["preprocessed", "preprocessed gradient descent"]]) {
        const weights = found[kind][index];
        const { on, off } = parts(weights, w);
        weightPlots[kind].show({ [`${kind}-on`]: on, [`${kind}-off`]: off });
        drawBars(weightPlots[kind], reach, [
          { kind: "bars", x: places, y: inOrder(weights), look: kind, label: `T = ${now.T}` },
          { kind: "points", x: places.slice(0, now.s), y: inOrder(w), look: "truth", label: "w*" },
        ], `Weights of ${label} at T = ${now.T}, beside the true ones. The squared error is ${short(on)} on the support and ${short(off)} off it.`);
      }
      drawRisks(riskPlot, shown.risk, "on this prompt", "", index);
      drawRisks(averagePlot, shown.average, `on average over ${AVERAGED} prompts`, "average-", index);
    }

    function drawRisks(made, { plain, preprocessed: rescaled, ridge }, where, before, index) {
      made.show({ [`${before}plain`]: plain[index], [`${before}preprocessed`]: rescaled[index], [`${before}ridge`]: ridge });
      const lowest = (values) => `${short(Math.min(...values))} at T = ${STEPS[values.indexOf(Math.min(...values))]}`;
      made.draw({
        x: [STEPS[0], STEPS.at(-1)],
        y: [shown.risks[0] / 1.25, shown.risks[1] * 1.25],
        alt: `Excess risk ${where} against the number of steps. At T = ${now.T} plain gradient descent has ${short(plain[index])}, preprocessed ${short(rescaled[index])}; ` +
          `ridge has ${short(ridge)}. The lowest of plain is ${lowest(plain)}, of preprocessed ${lowest(rescaled)}.`,
        marks: [
          { kind: "place", x: now.T, look: "here" },
          { kind: "level", y: ridge, look: "ridge", label: "ridge" },
          { kind: "line", x: STEPS, y: plain, look: "plain", label: "plain" },
          { kind: "line", x: STEPS, y: rescaled, look: "preprocessed", label: "preprocessed" },
          { kind: "points", x: [now.T], y: [plain[index]], look: "plain" },
          { kind: "points", x: [now.T], y: [rescaled[index]], look: "preprocessed" },
        ],
      });
    }

    name();
    change();
    return () => ({ ...now, prompt: shown.prompt, averaged: averaged.map((drawn) => prompt(drawn, now)) });
  }

  return { STEPS, AVERAGED, draw, prompt, moments, estimates, excess, parts, risks, average, mount };
})();
