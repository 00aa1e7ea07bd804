/* What the explorables compute with: seeded random numbers and small dense linear algebra.

   Classic scripts, not ES modules: browsers refuse to import modules from file://. Each adds its part to
   the global `icl`, and none touches the page while it loads, so that Node can run them for the tests.
   A matrix is an array of rows. */

globalThis.icl = globalThis.icl || {};

icl.math = (() => {
  "use strict";

  /* Uniform numbers in [0, 1) from a 32-bit seed (mulberry32). */
  function uniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  /* Standard normal numbers from a seed (Box and Muller). `.uniform` draws from the same stream. */
  function normal(seed) {
    const draw = uniform(seed);
    const next = () => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
    next.uniform = draw;
    return next;
  }

  /* The first `count` of a random order of 0 .. total - 1. */
  function choose(total, count, draw) {
    const order = Array.from({ length: total }, (_, i) => i);
    for (let i = 0; i < count; i++) {
      const j = i + Math.floor(draw() * (total - i));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order.slice(0, count);
  }

  const zeros = (rows, columns) => Array.from({ length: rows }, () => new Array(columns).fill(0));
  const transpose = (A) => A[0].map((_, j) => A.map((row) => row[j]));
  const dot = (a, b) => {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  };
  const apply = (A, x) => A.map((row) => dot(row, x));
  const scale = (factor, a) => a.map((value) => factor * value);
  const add = (a, b) => a.map((value, i) => value + b[i]);
  const mean = (a) => a.reduce((sum, value) => sum + value, 0) / a.length;

  /* Solution x of A x = b for a symmetric positive definite A (Cholesky). */
  function solve(A, b) {
    const size = b.length;
    const L = zeros(size, size);
    const x = new Array(size).fill(0);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j <= i; j++) {
        let sum = A[i][j];
        for (let k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
        L[i][j] = i === j ? Math.sqrt(sum) : sum / L[j][j];
      }
      x[i] = (b[i] - dot(L[i].slice(0, i), x)) / L[i][i];
    }
    for (let i = size - 1; i >= 0; i--) {
      for (let k = i + 1; k < size; k++) x[i] -= L[k][i] * x[k];
      x[i] /= L[i][i];
    }
    return x;
  }

  /* The largest eigenvalue of a symmetric matrix, the smallest below it being no larger in size: power
     iteration on the Rayleigh quotient, whose error is the square of the vector's. */
  function largestEigenvalue(A, tolerance = 1e-13, most = 10000) {
    let v = A.map((_, i) => 1 + ((i * 0.618034) % 1)); // no symmetry that an eigenvector could be orthogonal to
    let value = 0;
    for (let step = 0; step < most; step++) {
      const size = Math.sqrt(dot(v, v));
      v = scale(1 / size, v);
      const image = apply(A, v);
      const next = dot(v, image);
      if (Math.abs(next - value) <= tolerance * Math.abs(next)) return next;
      [value, v] = [next, image];
    }
    return value;
  }

  return {
    uniform, normal, choose, zeros, transpose, dot, scale, add, mean, solve,
    largestEigenvalue,
  };
})();
