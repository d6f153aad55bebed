// Small whole numbers for the picture's cells, and the sums they come to: values.py, line by line.

import { Layer } from "./layer.js";

/** @typedef {[number, number, number]} Place (z, y, x) */
/** @typedef {{ n: number, k: number, s: number, before: number, after: number, d: number, out: number, reach: number }} Axis */

// A sum of more products is not added up for a picture.
const MOST_PRODUCTS = 20000;
const PRIME = 1009;

/** @param {number} n @param {number} k @param {number} s @param {number} before @param {number} after
 * @param {number} d @param {number} out @returns {Axis} */
export function axis(n, k, s, before, after, d, out) {
  return { n, k, s, before, after, d, out, reach: d * (k - 1) + 1 };
}

/** Depth, height and width; those that a layer does not have are one pixel. @param {Layer} g @returns {Axis[]} */
function axesOf(g) {
  const one = axis(1, 1, 1, 0, 0, 1, 1);
  const axes = g.kernel.map((k, i) =>
    axis(g.size[i], k, g.stride[i], g.padding[i][0], g.padding[i][1], g.dilation[i], g.outSpatial[i]));
  return [...Array(3 - g.rank).fill(one), ...axes];
}

/** The numbers of one layer; `j` is a channel after the depthwise step, `f` a filter. Sums are kept. */
export class Values {
  /** @param {Layer} g */
  constructor(g) {
    this.g = g;
    this.axes = axesOf(g);
    /** @type {Place[]} */
    this.taps = [];
    const [z, y, x] = this.axes;
    for (let a = 0; a < z.k; a++) for (let b = 0; b < y.k; b++) for (let c = 0; c < x.k; c++) this.taps.push([a, b, c]);
    /** @type {Map<string, number>} */
    this.kept = new Map();
  }

  /** 0 to 3; zeros outside. @param {number} c @param {Place} place */
  inputs(c, place) {
    return place.every((i, a) => 0 <= i && i < this.axes[a].n) ? mixed(11, c, place) % 4 : 0;
  }

  /** @param {number} f @param {number} c @param {Place} tap */
  dense(f, c, tap) { return mixed(23 + 37 * f, c, tap) % 3 - 1; }

  /** @param {number} j @param {Place} tap */
  depthwise(j, tap) { return mixed(37, j, tap) % 3 - 1; }

  /** @param {number} f @param {number} j */
  pointwise(f, j) { return mixed(155, j, [0, 0, f]) % 5 - 2; }

  /** All taps of a small kernel, none of a large one. @param {number} most */
  tapsFew(most) { return this.g.kernelArea <= most ? this.taps : []; }

  /** The input's place that a tap lies on, for the output at `at`. @param {Place} tap @param {Place} at @returns {Place} */
  under(tap, at) {
    const [z, y, x] = this.axes;
    return [at[0] * z.s - z.before + tap[0] * z.d, at[1] * y.s - y.before + tap[1] * y.d, at[2] * x.s - x.before + tap[2] * x.d];
  }

  /** One channel's share of a dense output. @param {number} f @param {number} c @param {Place} at */
  densePart(f, c, at) {
    let sum = 0;
    for (const tap of this.taps) sum += this.dense(f, c, tap) * this.inputs(c, this.under(tap, at));
    return sum;
  }

  /** @param {number} f @param {Place} at @returns {number | null} */
  denseSum(f, at) {
    if (this.g.channels * this.g.kernelArea > MOST_PRODUCTS) return null;
    return this.keep(`d ${f} ${at}`, () => {
      let sum = 0;
      for (let c = 0; c < this.g.channels; c++) sum += this.densePart(f, c, at);
      return sum;
    });
  }

  /** @param {number} j @param {Place} at @returns {number} */
  depthwiseSum(j, at) {
    return this.keep(`s ${j} ${at}`, () => {
      const c = Math.floor(j / this.g.multiplier);
      let sum = 0;
      for (const tap of this.taps) sum += this.depthwise(j, tap) * this.inputs(c, this.under(tap, at));
      return sum;
    });
  }

  /** @param {number} f @param {Place} at @returns {number | null} */
  pointwiseSum(f, at) {
    if (this.g.depthwiseChannels * this.g.kernelArea > MOST_PRODUCTS) return null;
    return this.keep(`p ${f} ${at}`, () => {
      let sum = 0;
      for (let j = 0; j < this.g.depthwiseChannels; j++) sum += this.pointwise(f, j) * this.depthwiseSum(j, at);
      return sum;
    });
  }

  /** @param {string} name @param {() => number} sum @returns {number} */
  keep(name, sum) {
    let found = this.kept.get(name);
    if (found === undefined) {
      if (this.kept.size > 50000) this.kept.clear();
      found = sum();
      this.kept.set(name, found);
    }
    return found;
  }
}

/** @param {number} seed @param {number} channel @param {Place} place */
function mixed(seed, channel, place) {
  const h = (seed + 73 * channel + 151 * place[0] + 179 * place[1] + 283 * place[2]) % PRIME;
  return (h * h + seed) % PRIME;
}
