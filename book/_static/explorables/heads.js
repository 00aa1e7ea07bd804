/* Switch heads off: a trained transformer with linear attention that runs in the page (chapter 5).

   The Gram form of icl_lib/transformer.py: of a context the model sees G = E^T E / n alone, and every token
   is a linear image e_i A of its raw row, with one matrix A (p x D) a prompt. Numbers are Float64Arrays, row
   by row; B prompts are stacked. Names and symbols are the library's. */

globalThis.icl = globalThis.icl || {};
icl.explorables = icl.explorables || {};

icl.explorables.heads = (() => {
  "use strict";

  const { normal, choose, mean } = icl.math;
  const [FEW, MANY] = [20, 100]; // prompts that risks are averaged over: as many as are answered at once,
  const BUDGET = 1.6e7; // which is, times the weights and the rows of A, so many products
  const SIZE = { width: 330, height: 240 }; // of the plots
  const TRIM = 0.01; // as in icl_lib/training.py

  /* C + A B, or C + A^T B, for a batch of matrices; A is rows x inner (or its transpose), B inner x columns.
     One that there is only one of is the same for the whole batch. Four rows of B at once, for speed. */
  function accumulate(C, A, B, batch, rows, inner, columns, transposed = false) {
    const down = transposed ? 1 : inner;
    const along = transposed ? rows : 1;
    const nextA = A.length > rows * inner ? A.length / batch : 0;
    const nextB = B.length > inner * columns ? B.length / batch : 0;
    for (let row = 0; row < batch * rows; row++) {
      const c = row * columns;
      const which = Math.floor(row / rows);
      let a = which * nextA + (row - which * rows) * down;
      let b = which * nextB;
      let k = 0;
      for (; k + 3 < inner; k += 4) {
        const a0 = A[a], a1 = A[a + along], a2 = A[a + 2 * along], a3 = A[a + 3 * along];
        const b1 = b + columns, b2 = b1 + columns, b3 = b2 + columns;
        for (let j = 0; j < columns; j++) C[c + j] += a0 * B[b + j] + a1 * B[b1 + j] + a2 * B[b2 + j] + a3 * B[b3 + j];
        a += 4 * along;
        b = b3 + columns;
      }
      for (; k < inner; k++) {
        const a0 = A[a];
        for (let j = 0; j < columns; j++) C[c + j] += a0 * B[b + j];
        a += along;
        b += columns;
      }
    }
    return C;
  }

  const multiply = (A, B, batch, rows, inner, columns, transposed) =>
    accumulate(new Float64Array(batch * rows * columns), A, B, batch, rows, inner, columns, transposed);

  function transpose(A, rows, columns) {
    const T = new Float64Array(rows * columns);
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) T[j * rows + i] = A[i * columns + j];
    return T;
  }

  /* Weights { name: { shape, scale, bytes } } of the library's `explorables.pack`, as { shape, values }. */
  function unpack(packed) {
    const weights = {};
    for (const [name, { shape, scale, bytes }] of Object.entries(packed)) {
      const whole = Int8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
      weights[name] = { shape, values: Float64Array.from(whole, (value) => scale * value) };
    }
    return weights;
  }

  /* What the passes need of the weights. Layer 1 starts from the same A in all prompts, and adds
     sum_h M_h G N_h; the last layer is needed through w_out alone, by u_h = W_V W_O w_out and W_K W_Q^T. */
  function prepare(weights) {
    const [p, D] = weights.W_in.shape;
    const layers = Object.keys(weights).filter((name) => name.startsWith("W_Q")).length;
    const [W_in, w_out] = [weights.W_in.values, weights.w_out.values];
    const of = Array.from({ length: layers }, (_, l) => {
      const [H, , k] = weights[`W_Q.${l}`].shape;
      return Array.from({ length: H }, (_, h) => {
        const [Q, K, V, O] = ["Q", "K", "V", "O"].map((name) =>
          weights[`W_${name}.${l}`].values.subarray(h * D * k, (h + 1) * D * k));
        if (l === layers - 1) {
          const u = multiply(V, multiply(O, w_out, 1, k, D, 1), 1, D, k, 1);
          return { u, KQ: multiply(K, transpose(Q, D, k), 1, D, k, D) };
        }
        if (l > 0) return { Q, K, V, O, k };
        const [AQ, AK, AV] = [Q, K, V].map((W) => multiply(W_in, W, 1, p, D, k));
        return { M: multiply(AQ, transpose(AK, p, k), 1, p, k, p), N: multiply(AV, O, 1, p, k, D) };
      });
    });
    return { d: p - 1, p, D, W_in, w_out, layers: of };
  }

  /* Prompts by what no slider changes: w, x and noise of standard deviation one, for up to n_max pairs. */
  function draw({ d, s, law }, n_max, B, seed) {
    const next = normal(seed);
    const nonzero = {
      gaussian: next, "half-normal": () => Math.abs(next()), rademacher: () => Math.sign(next()), binary: () => 1,
    }[law];
    return Array.from({ length: B }, () => {
      const w = new Array(d).fill(0);
      for (const j of choose(d, s, next.uniform)) w[j] = nonzero();
      const x = Array.from({ length: n_max }, () => Array.from({ length: d }, next));
      return { w, x, noise: Array.from({ length: n_max }, next) };
    });
  }

  /* The first n pairs of every prompt, with noise of standard deviation sigma. */
  const observe = (drawn, n, sigma) =>
    drawn.map(({ w, x, noise }) => ({
      w, x: x.slice(0, n), y: x.slice(0, n).map((row, i) => icl.math.dot(row, w) + sigma * noise[i]),
    }));

  /* G of every prompt (B p p). */
  function grams(prompts) {
    const p = prompts[0].w.length + 1;
    const G = new Float64Array(prompts.length * p * p);
    prompts.forEach(({ x, y }, b) => {
      const E = new Float64Array(x.length * p);
      x.forEach((row, i) => {
        E.set(row, i * p);
        E[i * p + p - 1] = y[i];
      });
      const found = multiply(E, E, 1, p, x.length, p, true);
      for (let at = 0; at < p * p; at++) G[b * p * p + at] = found[at] / x.length;
    });
    return G;
  }

  /* G, and what each head of layer 1 adds to A (B p D): all that does not depend on which heads are on. */
  function contexts({ p, D, layers }, G) {
    const B = G.length / (p * p);
    const first = layers.length === 1 ? [] : layers[0].map(({ M, N }) =>
      multiply(multiply(M, G, B, p, p, p), N, B, p, p, D));
    return { B, G, first };
  }

  /* The effective weights A[:d] w_out (B d) that can be read after each layer l = 0 .. L, with the heads on[l][h]. */
  function layerWeights({ d, p, D, W_in, w_out, layers }, { B, G, first }, on) {
    let A = new Float64Array(B * p * D);
    for (let b = 0; b < B; b++) A.set(W_in, b * p * D);
    const read = [multiply(A, w_out, B, d, D, 1)];
    layers.slice(0, -1).forEach((heads, l) => {
      const next = A.slice();
      heads.forEach((head, h) => {
        if (!on[l][h]) return;
        if (l === 0) {
          for (let i = 0; i < next.length; i++) next[i] += first[h][i];
          return;
        }
        // A + (A W_Q) ((A W_K)^T G (A W_V)) W_O
        const { Q, K, V, O, k } = head;
        const [AQ, AK, AV] = [Q, K, V].map((W) => multiply(A, W, B, p, D, k));
        const seen = multiply(AK, multiply(G, AV, B, p, p, k), B, k, p, k, true);
        accumulate(next, multiply(AQ, seen, B, p, k, k), O, B, p, k, D);
      });
      A = next;
      read.push(multiply(A, w_out, B, d, D, 1));
    });
    // A (w_out + sum_h W_Q W_K^T A^T G A u_h)
    const asked = new Float64Array(B * D);
    for (let b = 0; b < B; b++) asked.set(w_out, b * D);
    layers.at(-1).forEach(({ u, KQ }, h) => {
      if (!on.at(-1)[h]) return;
      const v = multiply(G, multiply(A, u, B, p, D, 1), B, p, p, 1);
      accumulate(asked, multiply(v, A, B, 1, p, D), KQ, B, 1, D, D);
    });
    read.push(multiply(A, asked, B, d, D, 1));
    return read;
  }

  /* |w_hat - w|^2 of every prompt. */
  function excessRisks(w_hat, prompts) {
    return prompts.map(({ w }, b) => w.reduce((sum, value, j) => sum + (w_hat[b * w.length + j] - value) ** 2, 0));
  }

  /* The lower of the two in the middle, as torch has it. */
  const median = (values) => Float64Array.from(values).sort()[(values.length - 1) >> 1];

  /* Mean without the largest hundredth. */
  const trimmedMean = (values) =>
    mean(Float64Array.from(values).sort().slice(0, values.length - Math.floor(TRIM * values.length)));

  /* The places of the s largest numbers in size, in order. */
  const largest = (values, s) =>
    [...values.keys()].sort((i, j) => Math.abs(values[j]) - Math.abs(values[i])).slice(0, s).sort((i, j) => i - j);

  /* Of the effective weights read after each layer: their risks, and how many of the s nonzero weights of each
     prompt are among the s largest of the last. */
  function measure(read, prompts, s) {
    const d = prompts[0].w.length;
    const found = prompts.map(({ w }, b) =>
      largest(read.at(-1).subarray(b * d, (b + 1) * d), s).filter((j) => w[j] !== 0).length);
    const risks = read.map((w_hat) => excessRisks(w_hat, prompts));
    return { read, risks: risks.map(trimmedMean), median: median(risks.at(-1)), found };
  }

  function mount(root, data) {
    const { element, advice, slider, row, button, numbers, plot, matrix, short } = icl.page;
    const { d, s, sigma } = data.task;
    const weights = unpack(data.weights);
    const model = prepare(weights);
    const layers = model.layers.length;
    const size = Object.values(weights).reduce((sum, { values }) => sum + values.length, 0);
    const B = Math.max(FEW, Math.min(MANY, Math.floor(BUDGET / (model.p * size))));
    const kept = (version) => model.layers.map((heads, l) => heads.map((_, h) => data.kept[version][l].includes(h)));
    const all = kept("full");
    const now = { seed: 0, n: data.n, sigma, on: kept("full") };
    let drawn, prompts, context, zero, whole, switched;

    advice(root,
      "switch off the head with the longest bar in layer 1, and on again; then do the same in the last layer, where it " +
      "costs much less. Switch off all of layer 1: the later layers, made for what it writes, miss by far more than " +
      "predicting zero does. With “pruned” the risk rises, but most weights that are not zero are still found."
    );

    const board = row(root);
    const grid = element(board, "div", { class: "explorable-heads", role: "group", "aria-label": "heads of each layer" });
    const strongest = Math.max(...data.importance.flat()) || 1;
    const switches = model.layers.map((heads, l) => {
      const line = row(grid);
      element(line, "span", { text: `layer ${l + 1}` });
      return heads.map((_, h) => {
        const made = button(line, String(h + 1), () => {
          now.on[l][h] = !now.on[l][h];
          refresh();
        });
        made.title = `importance ${short(data.importance[l][h])}`;
        element(made, "i").style.setProperty("--share", data.importance[l][h] / strongest);
        return made;
      });
    });
    grid.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [];
      const l = switches.findIndex((line) => line.includes(event.target));
      if (down === undefined || l < 0) return;
      event.preventDefault();
      switches[l + down]?.[switches[l].indexOf(event.target) + right]?.focus();
    });
    const choices = element(board, "div", { class: "explorable-presets" });
    const presets = Object.keys(data.kept).map((version) => [kept(version), button(choices, version, () => {
      now.on = kept(version);
      refresh();
    })]);
    button(choices, "new prompts", () => {
      now.seed += 1;
      redraw();
    });
    const note = "Bars: the heads’ importance in the chapter’s measure. Arrow keys move between heads.";
    element(root, "p", { class: "explorable-note", text: note });

    const [longest, loudest] = [2 * data.n_range[1], 2 * sigma || 1];
    slider(root, { name: "n", label: "n, examples", min: data.n_range[0], max: longest, value: now.n }, (value) => {
      now.n = value;
      observed();
    });
    slider(root, { name: "sigma", label: "σ, noise", min: 0, max: loudest, step: loudest / 20, value: sigma }, (value) => {
      now.sigma = value;
      observed();
    });

    const list = numbers(root, {
      risk: "excess risk", median: "its median", whole: "all heads on", zero: "predicting zero",
      found: `found of ${s}`, "found-mean": "on average",
    });
    const panels = element(root, "div", { class: "explorable-panels" });
    const riskPlot = plot(panels, {
      title: "Risk when read after each layer", alt: "", xLabel: "layers passed", yLabel: "excess risk", logY: true, ...SIZE,
    });
    const weightPlot = plot(panels, {
      title: "Weights of the shown prompt", alt: "", xLabel: "coordinate", yLabel: "weight", ...SIZE,
    });
    const below = element(root, "div", { class: "explorable-panels" });
    const names = ["w*", "read-in", ...model.layers.map((_, l) => `layer ${l + 1}`)];
    const table = matrix(below, {
      title: "Weights of the shown prompt, read after each layer", limit: 2,
      columns: names, rows: Array.from({ length: d }, (_, j) => String(j + 1)),
    });
    const told = element(below, "p", { role: "status" });

    /* New prompts, the first of them shown; then what n and sigma make of them; then what the heads do. */
    function redraw() {
      drawn = draw(data.task, longest, B, now.seed);
      observed();
    }

    function observed() {
      prompts = observe(drawn, now.n, now.sigma);
      context = contexts(model, grams(prompts));
      whole = measure(layerWeights(model, context, all), prompts, s);
      zero = trimmedMean(excessRisks(new Float64Array(B * d), prompts));
      refresh();
    }

    function refresh() {
      switched = String(now.on) === String(all) ? whole : measure(layerWeights(model, context, now.on), prompts, s);
      switches.forEach((line, l) => line.forEach((made, h) => {
        made.setAttribute("aria-pressed", now.on[l][h]);
        made.setAttribute("aria-label", `layer ${l + 1}, head ${h + 1}: ${now.on[l][h] ? "on" : "off"}`);
      }));
      for (const [on, made] of presets) made.setAttribute("aria-pressed", String(on) === String(now.on));
      const { risks, median, found } = switched;
      list.show({ risk: risks.at(-1), median, whole: whole.risks.at(-1), zero, found: found[0], "found-mean": mean(found) });
      drawRisks();
      drawWeights();
    }

    function drawRisks() {
      const { risks } = switched;
      const top = 50 * zero;
      const inside = risks.map((risk) => (risk <= top ? risk : top)); // it may be no number at all
      const x = risks.map((_, l) => l);
      const off = now.on.flat().filter((on) => !on).length;
      riskPlot.draw({
        x: [-0.3, layers + 0.3],
        y: [zero / 500, 1.1 * top],
        alt: "Excess risk of the weights that can be read before any layer and after each: " +
          `${risks.map(short).join(", ")}; with all heads on ${whole.risks.map(short).join(", ")}. Predicting zero: ${short(zero)}.`,
        marks: [
          { kind: "level", y: zero, look: "truth", label: "predicting zero" },
          { kind: "line", x, y: whole.risks, look: "whole", label: "all heads on" },
          { kind: "points", x, y: whole.risks, look: "whole" },
          { kind: "line", x, y: inside, look: "switched", label: off ? `${off} off` : "none off" },
          { kind: "points", x, y: inside, look: "switched diamond" },
          ...x.filter((l) => inside[l] === top)
            .map((l) => ({ kind: "text", x: l, y: top / 6, text: `${short(risks[l])} ↑` })),
        ],
      });
    }

    function drawWeights() {
      const { w } = prompts[0];
      const shown = ({ read }) => read.map((w_hat) => [...w_hat.subarray(0, d)]);
      const columns = [w, ...shown(switched)];
      const last = columns.at(-1);
      const marked = columns.map((column) => largest(column, s));
      const low = Math.min(0, ...w) - 0.6;
      const high = Math.max(0, ...w) + 0.6;
      const x = w.map((_, j) => j + 1);
      const inside = (values) => values.map((value) => Math.max(low, Math.min(high, value)));
      const words = (places) => places.map((j) => j + 1).join(", ");
      const common = marked.at(-1).filter((j) => w[j] !== 0);
      const [risk, best] = [switched, whole].map(({ risks }) => risks.at(-1));
      told.textContent = `Excess risk ${short(risk)}, ${short(risk / best)} times that of all heads. The prompt shown is ` +
        `the first of ${B} of seed ${now.seed}: coordinates ${words(marked[0])} of w* are not zero, and ` +
        `${words(marked.at(-1))} are largest after the last layer: ${common.length} of ${s} found. Frames mark the ` +
        `${s} largest of each column.`;
      weightPlot.draw({
        x: [0.4, d + 0.6],
        y: [low, high],
        alt: `True weights ${w.map(short).join(", ")}; read after the last layer ${last.map(short).join(", ")}.`,
        marks: [
          { kind: "bars", x, y: w, look: "truth faint", width: 0.7, label: "w*" },
          { kind: "points", x, y: inside(shown(whole).at(-1)), look: "whole", label: "all heads on" },
          { kind: "points", x, y: inside(last), look: "switched diamond", label: "as switched" },
        ],
      });
      const framed = columns.map((column, c) => column.map((_, j) => marked[c].includes(j)));
      table.show(icl.math.transpose(columns), icl.math.transpose(framed));
    }

    redraw();
    return () => ({ ...now, weights, prompts, shown: 0 });
  }

  return { unpack, prepare, draw, observe, grams, contexts, layerWeights, measure, mount };
})();
