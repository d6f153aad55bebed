// A layer at one of its output pixels, and what all scenes draw alike: stage.py, line by line.

import { Cells, inputLine, kernelLine, outputLine } from "./cells.js";
import { Layer } from "./layer.js";
import { Values, axis } from "./values.js";
import { signed } from "./wording.js";

/** @typedef {import("./cells.js").Cell} Cell */
/** @typedef {import("./values.js").Place} Place */
/** @typedef {{ height: number, content: string, label: string }} Scene */

// A scene is as wide as a phone.
export const WIDTH = 448;
export const MARGIN = 8;
// Channels and filters drawn of many.
export const SHOWN = 3;

/** A layer at one of its output pixels, `at` in the order of memory, with one of its first filters at work. */
export class Stage {
  /** @param {Values} values @param {number} at @param {number} filter */
  constructor(values, at, filter = 0) {
    this.values = values;
    this.g = values.g;
    this.at = at;
    this.filter = filter;
    this.solid = this.g.rank === 3;
    const [, y, x] = values.axes;
    /** @type {Place} */
    this.place = [Math.floor(at / (y.out * x.out)), Math.floor(at / x.out) % y.out, at % x.out];
  }

  /** @param {Place} place */
  index(place) {
    const [, y, x] = this.values.axes;
    return (place[0] * y.out + place[1]) * x.out + place[2];
  }

  inputCells() {
    const [rooms, most] = this.solid ? [[5, 6, 6], 3] : [[1, 9, 9], 5];
    return new Cells(this.values.axes.map((side, i) => inputLine(side, this.place[i], rooms[i], most)), this.solid);
  }

  /** @param {number} most */
  kernelCells(most) {
    return new Cells(this.values.axes.map((side) => kernelLine(side, this.solid ? 3 : most)), this.solid);
  }

  outputCells() {
    const rooms = this.solid ? [4, 5, 5] : [1, 6, 6];
    return new Cells(this.values.axes.map((side, i) => outputLine(side, this.place[i], rooms[i])), this.solid);
  }

  oneCell() {
    return new Cells(Array(3).fill(kernelLine(axis(1, 1, 1, 0, 0, 1, 1), 1)), this.solid);
  }
}

/** At the pixel in the middle. @param {Layer} g */
export function middleOf(g) {
  const [z, y, x] = new Values(g).axes;
  return Math.floor(z.out / 2) * y.out * x.out + Math.floor(y.out / 2) * x.out + Math.floor(x.out / 2);
}

/** The name of a channel after the depthwise step; a letter where its input channel has several kernels.
 * @param {Layer} g @param {number} j */
export function lane(g, j) {
  const c = Math.floor(j / g.multiplier), m = j % g.multiplier;
  return g.multiplier === 1 ? `channel ${c + 1}` : `channel ${c + 1}${String.fromCharCode(97 + m)}`;
}

/** @param {Layer} g @param {number} j */
export function hue(g, j) {
  const c = Math.floor(j / g.multiplier), m = j % g.multiplier;
  return m % 2 ? `c${c} light` : `c${c}`;
}

/** @param {string} name */
export function term(name) {
  return ` data-term="${name}"`;
}

/** @param {(tap: Place) => number} weight @returns {Cell} */
export function weights(weight) {
  return (tap) => ["weight", signed(weight(tap))];
}

/** @param {number} x @param {number} y @param {string} content @param {string} kind */
export function text(x, y, content, kind) {
  return `<text class="${kind}" x="${x}" y="${y}">${content}</text>`;
}
