/* Two softmax heads on the pattern, KQ = +-omega I and OV = +-mu, beside one step of gradient descent.

   Every predictor of this part is a weighted sum of the context's y: it is known by the weight that it gives to each
   example, a function of the similarities s_i = <x_i, x_q> to the query. The formulas are those of
   icl_lib/attention_layer.py, estimators.py and approximation.py. */

globalThis.icl = globalThis.icl || {};
icl.explorables = icl.explorables || {};

icl.explorables.two_heads = (() => {
  "use strict";

  const { zeros, dot, mean } = icl.math;

  const PROMPTS = 400; // that losses are measured on ...
  const QUERIES = 2; // ... with so many queries each
  const SHOWN_QUERIES = 60; // of the prompt that is shown
  const EVALUATION = 0; // the seed of the former; the latter have the seeds from 1 on

  // ------------------------------------------------------------------------------------ the task

  /* A prompt of `longest` pairs: w ~ N(0, I / d), x ~ N(0, I), noise of variance `noise`. Shorter prompts are
     its beginnings. */
  function draw({ d, noise, lengths: [, longest] }, queries, next) {
    const vector = () => Array.from({ length: d }, next);
    const w = vector().map((value) => value / Math.sqrt(d));
    const x = Array.from({ length: longest }, vector);
    const y = x.map((row) => dot(row, w) + Math.sqrt(noise) * next());
    return { x, y, w, asked: Array.from({ length: queries }, vector) };
  }

  /* What predictors see of a prompt: y and, for each query, the similarities s; and the best predictions. */
  const seen = ({ x, y, w, asked }) => ({
    y: Float64Array.from(y),
    similar: asked.map((query) => Float64Array.from(x, (row) => dot(row, query))),
    target: asked.map((query) => dot(query, w)),
  });

  const shownPrompt = (data, seed) => draw(data, SHOWN_QUERIES, icl.math.normal(seed));

  function evaluationPrompts(data) {
    const next = icl.math.normal(EVALUATION);
    return Array.from({ length: PROMPTS }, () => draw(data, QUERIES, next));
  }

  // ------------------------------------------------------------------------------ the predictors

  /* The first `count` of two opposite heads: (omega, mu), (-omega, -mu). */
  const heads = (count, omega, mu) => [1, -1].slice(0, count).map((sign) => ({ omega: sign * omega, mu: sign * mu }));

  /* KQ (d + 1, d + 1) and OV (1, d + 1) of a head. */
  function matrices({ omega, mu }, d) {
    const [KQ, OV] = [zeros(d + 1, d + 1), zeros(1, d + 1)];
    for (let j = 0; j < d; j++) KQ[j][j] = omega;
    OV[0][d] = mu;
    return { KQ, OV };
  }

  // Plain loops in what follows: a move of a slider runs it at every query of every prompt.

  /* The attention of a head to examples of similarities s: softmax(omega s). */
  function attention(omega, s) {
    const share = new Float64Array(s.length);
    let [largest, sum] = [-Infinity, 0];
    for (let i = 0; i < s.length; i++) largest = Math.max(largest, omega * s[i]);
    for (let i = 0; i < s.length; i++) sum += share[i] = Math.exp(omega * s[i] - largest);
    for (let i = 0; i < s.length; i++) share[i] /= sum;
    return share;
  }

  /* The weights that predictors give to the examples' y: the heads, and one step of gradient descent from zero,
     debiased (on centred x) or plain. */
  function headWeights(some, s) {
    const weights = new Float64Array(s.length);
    for (const { omega, mu } of some) {
      const share = attention(omega, s);
      for (let i = 0; i < s.length; i++) weights[i] += mu * share[i];
    }
    return weights;
  }
  function stepWeights(step, s, middle) {
    const weights = new Float64Array(s.length);
    for (let i = 0; i < s.length; i++) weights[i] = (step * (s[i] - middle)) / s.length;
    return weights;
  }

  /* The size of the heads' gradient step, sum_h omega_h mu_h. */
  const stepOf = (some) => some.reduce((sum, { omega, mu }) => sum + omega * mu, 0);

  const weightsOf = (some, s) => ({
    heads: headWeights(some, s),
    debiased: stepWeights(stepOf(some), s, mean(s)),
    plain: stepWeights(stepOf(some), s, 0),
  });

  /* The predictions of all three at all queries of prompts (`seen`) cut to L examples, and the best ones. */
  function predictions(prompts, some, L) {
    const found = { heads: [], debiased: [], plain: [], target: [] };
    for (const { y, similar, target } of prompts) {
      similar.forEach((s, query) => {
        const weights = weightsOf(some, s.subarray(0, L));
        for (const name in weights) found[name].push(dot(weights[name], y.subarray(0, L)));
        found.target.push(target[query]);
      });
    }
    return found;
  }

  const meanSquare = (a, b) => mean(a.map((value, i) => (value - b[i]) ** 2));

  /* The losses, noise included, and how far the heads are from both kinds of gradient descent: the mean square
     of the difference relative to the heads' own. */
  function compare({ heads, debiased, plain, target }, noise) {
    const own = mean(heads.map((value) => value ** 2));
    return {
      loss: meanSquare(heads, target) + noise,
      "loss-debiased": meanSquare(debiased, target) + noise,
      "loss-plain": meanSquare(plain, target) + noise,
      "unlike-debiased": meanSquare(heads, debiased) / own,
      "unlike-plain": meanSquare(heads, plain) / own,
    };
  }

  // ------------------------------------------------------------------------ the approximate loss

  /* The approximate population loss of any heads, as in approximation.py. */
  function approximateLoss(some, { d, noise }, L) {
    let loss = 1 + noise;
    for (const one of some) {
      loss -= 2 * one.omega * one.mu;
      for (const other of some) {
        const product = one.omega * other.omega;
        loss += one.mu * other.mu * (product + ((1 + noise) / L) * Math.exp(d * product));
      }
    }
    return loss;
  }

  /* Of heads(count, omega, mu) it is a parabola in mu: its minimizer, its minimum and its curvature. */
  function valley(count, omega, task, L) {
    const atOne = approximateLoss(heads(count, omega, 1), task, L);
    const curvature = atOne - (1 + task.noise) + 2 * count * omega;
    const mu = (count * omega) / curvature;
    return { mu, loss: 1 + task.noise - count * omega * mu, curvature };
  }

  /* Between which mu it is no more than `level`; nan if nowhere. */
  function below(level, count, omega, task, L) {
    const { mu, loss, curvature } = valley(count, omega, task, L);
    const half = Math.sqrt((level - loss) / curvature);
    return [mu - half, mu + half];
  }

  // ------------------------------------------------------------------------------------ the page

  const OMEGA = [0.03, 0.8];
  const MU = [0.1, 20];
  const LEVELS = [1.02, 1.1, 1.3, 1.6, 2, 3, 4, 6]; // times the lowest loss of the map

  /* `steps` + 1 values from low to high at equal ratios, of three digits. */
  const geometric = ([low, high], steps) =>
    Array.from({ length: steps + 1 }, (_, i) => Number((low * (high / low) ** (i / steps)).toPrecision(3)));

  function mount(root, data) {
    const { element, advice, slider, row, button, numbers, plot, matrix, short, widened, around } = icl.page;
    const { d, noise, n, lengths, trained } = data;
    const evaluated = evaluationPrompts(data).map(seen);
    const mapped = geometric(OMEGA, 120);
    const now = { count: 2, omega: 0, mu: 0, L: n, seed: 1, follow: false, trained: null };
    let shown; // the prompt
    let view; // what predictors see of it
    function open(seed) {
      now.seed = seed;
      shown = shownPrompt(data, seed);
      view = seen(shown);
    }

    advice(root,
      "press “keep μ best” and move ω. While it is small, the weights of the examples lie on the straight line of " +
      "debiased gradient descent and the loss hardly changes: the floor of the valley, where training lands. When it " +
      "is large they bend away, and the loss rises. Then press “a trained model” and make L small: the predictions of " +
      "plain gradient descent move away from the heads’, and those of debiased gradient descent stay with them. One " +
      "head alone gives no example a negative weight."
    );

    const omega = slider(root, { name: "omega", label: "ω, in KQ", values: geometric(OMEGA, 70), value: OMEGA[0] }, (value) => move({ omega: value }));
    const mu = slider(root, { name: "mu", label: "μ, in OV", values: geometric(MU, 100), value: MU[0] }, (value) => move({ mu: value, follow: false }));
    slider(root, { name: "L", label: "L, examples", min: lengths[0], max: lengths[1], value: n }, (value) => {
      now.L = value;
      update();
    });

    const choices = row(root);
    const two = button(choices, "two opposite heads", () => move({ count: 2 }));
    const one = button(choices, "one head", () => move({ count: 1 }));
    const follow = button(choices, "keep μ best", () => move({ follow: !now.follow }));
    button(choices, "a trained model", land);
    button(choices, "new prompt", () => {
      open(now.seed + 1);
      update();
    });
    const told = element(choices, "span", { role: "status" });

    const panels = () => element(root, "div", { class: "explorable-panels" });
    const first = panels();
    const panel = (place, title, xLabel, yLabel, options) => plot(place, { title, alt: "", xLabel, yLabel, width: 340, height: 240, ...options });
    const similarity = "similarity ⟨xᵢ, x⟩ to the query x";
    const weightPlot = panel(first, "What each example counts for", similarity, "weight of yᵢ, times L");
    const map = panel(first, "Approximate loss at this L", "ω", "μ", {
      logX: true, logY: true, click: (x, y) => move({ omega: x, mu: y, follow: false }),
    });

    const list = numbers(root, {
      loss: "loss, heads",
      "loss-debiased": "loss, debiased GD",
      "loss-plain": "loss, plain GD",
      "unlike-debiased": "heads − debiased GD*",
      "unlike-plain": "heads − plain GD*",
      step: "step, sum of ωμ",
      approximate: "approximate loss",
    });

    element(root, "p", {
      class: "explorable-note",
      text: `Losses: on ${PROMPTS} prompts, the same throughout, at ${QUERIES} queries each. *Mean square of the difference, relative to the heads’ own; both kinds of gradient descent have the heads’ step.`,
    });

    const second = panels();
    const attentionPlot = panel(second, "Attention to each example", similarity, "attention weight");
    const predictionPlot = panel(second, `Predictions at ${SHOWN_QUERIES} queries`, "gradient descent", "heads");
    const third = panels();
    const tables = ["first", "second"].map((name) => {
      const place = element(third, "div", { class: "explorable-pattern" });
      return {
        place,
        KQ: matrix(place, { title: `KQ of the ${name} head`, limit: OMEGA[1] }),
        OV: matrix(place, { title: `OV of the ${name} head`, limit: MU[1] / 4 }),
      };
    });

    const span = (values) => `from ${short(Math.min(...values))} to ${short(Math.max(...values))}`;

    /* Change some of the settings: unless they say so, the point is no trained model's any longer. */
    function move(changes) {
      Object.assign(now, { trained: null }, changes);
      update();
    }

    /* Go to the place of a trained model, the first or the one after that of now. */
    function land() {
      const { seed, omega, mu } = trained[now.count === 2 ? "two" : "one"];
      const index = (seed.indexOf(now.trained) + 1) % seed.length;
      move({ omega: omega[index], mu: mu[index], follow: false, trained: seed[index] });
    }

    function update() {
      if (now.follow) now.mu = valley(now.count, now.omega, data, now.L).mu;
      omega.set(now.omega);
      mu.set(now.mu);
      for (const [made, on] of [[two, now.count === 2], [one, now.count === 1], [follow, now.follow]]) {
        made.setAttribute("aria-pressed", on);
      }
      told.textContent = now.trained === null ? "" : `trained from seed ${now.trained}`;
      const some = heads(now.count, now.omega, now.mu);
      const measured = compare(predictions(evaluated, some, now.L), noise);
      list.show({ ...measured, approximate: approximateLoss(some, data, now.L), step: stepOf(some) });
      drawWeights(some);
      drawMap();
      drawPredictions(some);
      tables.forEach(({ place, KQ, OV }, h) => {
        place.hidden = h >= now.count;
        if (place.hidden) return;
        const made = matrices(some[h], d);
        KQ.show(made.KQ);
        OV.show(made.OV);
      });
    }

    function drawWeights(some) {
      const s = view.similar[0].subarray(0, now.L);
      const weights = weightsOf(some, s);
      for (const name in weights) weights[name] = weights[name].map((value) => value * now.L);
      const straight = widened(around(s));
      const step = stepOf(some);
      const middle = mean(s);
      const line = (centre) => straight.map((value) => step * (value - centre));
      const bend = meanSquare(weights.heads, weights.debiased) / mean(weights.debiased.map((value) => value ** 2));
      weightPlot.draw({
        x: straight,
        y: widened(around(weights.heads, weights.debiased, weights.plain)),
        alt: `Weight of the y of each of ${now.L} examples in the prediction against the example's similarity to the query. ` +
          `The heads' weights, ${span(weights.heads)}, are off the straight line of debiased gradient descent by ${short(100 * bend)} percent of it in mean squares.`,
        marks: [
          { kind: "level", y: 0, look: "truth" },
          { kind: "line", x: straight, y: line(0), look: "plain", label: "plain GD" },
          { kind: "line", x: straight, y: line(middle), look: "debiased", label: "debiased GD" },
          { kind: "points", x: s, y: weights.heads, look: "model", label: now.count === 2 ? "both heads" : "one head" },
        ],
      });
      const shares = some.map((one) => attention(one.omega, s));
      const looks = [{ look: "head-one", label: "first head" }, { look: "head-two diamond", label: "second head" }];
      attentionPlot.draw({
        x: straight,
        y: [0, 1.06 * Math.max(...shares.flatMap((share) => [...share]))],
        alt: `Attention to each example against its similarity to the query. The first head's weights rise, the largest is ${short(Math.max(...shares[0]))}` +
          `${now.count === 2 ? `; the second's fall, the largest is ${short(Math.max(...shares[1]))}` : ""}; equal weights would be ${short(1 / now.L)}.`,
        marks: [
          { kind: "level", y: 1 / now.L, look: "truth", label: "1 / L" },
          ...shares.map((share, h) => ({ kind: "points", x: s, y: share, ...looks[h] })),
        ],
      });
    }

    function drawMap() {
      const floors = mapped.map((value) => valley(now.count, value, data, now.L));
      const lowest = Math.min(...floors.map(({ loss }) => loss));
      const loss = approximateLoss(heads(now.count, now.omega, now.mu), data, now.L);
      const areas = [];
      const labels = [];
      for (const level of LEVELS) {
        const inside = mapped.filter((_, i) => floors[i].loss <= level * lowest);
        const ends = inside.map((value) => below(level * lowest, now.count, value, data, now.L));
        if (ends.every(([low]) => low < MU[0])) continue;
        areas.push({ kind: "area", x: inside, low: ends.map(([low]) => Math.max(low, MU[0])), high: ends.map(([, high]) => high), look: "terrain" });
        const at = Math.floor(inside.length / 4);
        if (level >= 2) labels.push({ kind: "text", x: inside[at], y: ends[at][0], text: `×${level}` });
      }
      areas[0].label = `deeper blue: lower${labels.length ? "; ×2: twice the lowest" : ""}`;
      const dots = (name, look, label) =>
        trained[name].seed.length ? [{ kind: "points", x: trained[name].omega, y: trained[name].mu, look, label }] : [];
      map.draw({
        x: OMEGA,
        y: MU,
        alt: `Map of the approximate loss over omega and mu. The point omega ${short(now.omega)}, mu ${short(now.mu)} has ${short(loss)}, ` +
          `${short(loss / lowest)} times the lowest; the best mu there is ${short(valley(now.count, now.omega, data, now.L).mu)}.`,
        marks: [
          ...areas,
          ...labels,
          { kind: "line", x: mapped, y: floors.map(({ mu }) => mu), look: "valley", label: "best μ" },
          { kind: "place", x: now.omega, look: "here" },
          { kind: "level", y: now.mu, look: "here", label: "you are here" },
          ...(now.count === 2
            ? dots("two", "trained", `trained at L = ${n}`)
            : [...dots("stuck", "stuck", "two heads, stuck on one sign"), ...dots("one", "trained", `trained at L = ${n}`)]),
        ],
      });
    }

    function drawPredictions(some) {
      const found = predictions([view], some, now.L);
      const reach = widened(around(found.heads, found.debiased, found.plain));
      const unlike = compare(found, noise);
      predictionPlot.draw({
        x: reach,
        y: reach,
        alt: `Predictions of the heads, ${span(found.heads)}, at ${SHOWN_QUERIES} queries of this prompt against those of gradient descent. In mean squares, relative to the heads' own, ` +
          `they differ by ${short(unlike["unlike-debiased"])} from debiased and by ${short(unlike["unlike-plain"])} from plain gradient descent.`,
        marks: [
          { kind: "line", x: reach, y: reach, look: "truth", label: "equal" },
          { kind: "points", x: found.plain, y: found.heads, look: "plain", label: "against plain GD" },
          { kind: "points", x: found.debiased, y: found.heads, look: "debiased diamond", label: "against debiased GD" },
        ],
      });
    }

    open(now.seed);
    land();
    return () => ({ ...now, prompt: shown });
  }

  return {
    shownPrompt, evaluationPrompts, seen, heads, matrices, attention, stepOf, predictions, compare, approximateLoss,
    valley, below, mount,
  };
})();
