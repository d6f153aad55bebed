// Both ways side by side: comparison.py, line by line.

import { Cells, range } from "./cells.js";
import { MARGIN, Stage, WIDTH, term, text, weights } from "./stage.js";
import { count, percent, plural, shape, signed } from "./wording.js";

/** @typedef {import("./stage.js").Scene} Scene */

/** The two ways from input to output, their multiplications as bars, and what their kernels can be.
 * @param {Stage} stage @returns {Scene} */
export function both(stage) {
  const g = stage.g, kernel = stage.kernelCells(3);
  const whole = g.dense.multiplications, one = g.depthwise.multiplications, two = g.pointwise.multiplications;
  const most = whole > one + two ? whole : one + two, ones = g.kernel.map(() => 1);
  const dearer = one + two < whole ? "" : ": NOT cheaper";
  const parts = [
    text(MARGIN, 14, "dense", "title"),
    ...volumes(40, [[70, g.inputSize, "c0"], [374, g.outputSize, "out"]]),
    ...way(115, 325, 40, plural(g.filters, "kernel"), shape([g.channels, ...g.kernel]), count(whole), "dense"),
    text(MARGIN, 112, "separable", "title"),
    ...volumes(138, [[70, g.inputSize, "c0"], [222, g.depthwiseSize, "c0"], [374, g.outputSize, "out"]]),
    ...way(110, 180, 138, plural(g.depthwiseChannels, "kernel"), shape([1, ...g.kernel]), count(one), "depthwise"),
    ...way(260, 330, 138, plural(g.filters, "kernel"), shape([g.depthwiseChannels, ...ones]), count(two), "pointwise"),
    text(MARGIN, 212, "multiplications", "title"),
    text(MARGIN, 230, `dense ${count(whole)}`, "name"),
    bar(MARGIN, 235, whole, most, "dense"),
    text(MARGIN, 263,
      `separable ${count(one)} + ${count(two)} = ${count(one + two)}, ${percent(one + two, whole)}${dearer}`, "name"),
    bar(MARGIN, 268, one, most, "depthwise"),
    bar(MARGIN + length(one, most), 268, two, most, "pointwise"),
    text(MARGIN, 302, "what a kernel can be: channel 1 of the first filters", "title"),
    ...denseKernels(stage, kernel, 326),
    ...separableKernels(stage, kernel, 326 + kernel.height + 34),
  ];
  const label = `Dense: ${count(whole)} multiplications. Separable: ${count(one)} and ${count(two)}, together ${count(one + two)}.`;
  return { height: 326 + 2 * kernel.height + 54, content: parts.join(""), label };
}

/** @param {Stage} stage @param {Cells} kernel @param {number} y */
function denseKernels(stage, kernel, y) {
  const middle = y + kernel.height / 2;
  const parts = [text(MARGIN, middle - 2, "dense:", "name"), text(MARGIN, middle + 10, "each its own", "name")];
  for (let f = 0; f < Math.min(stage.g.filters, 4); f++) {
    const x = 100 + 86 * f, draw = weights((tap) => stage.values.dense(f, 0, tap));
    parts.push(text(x, y - 4, `filter ${f + 1}`, "name"), kernel.draw(x, y, "cells dense", term("out_channels"), draw));
  }
  return parts;
}

/** Each a multiple of the channel's one filter, or a mix of its several.
 * @param {Stage} stage @param {Cells} kernel @param {number} y */
function separableKernels(stage, kernel, y) {
  const values = stage.values, copies = stage.g.multiplier;
  const own = weights((tap) => values.depthwise(0, tap));
  const name = copies === 1 ? "the filter a" : `a, of ${count(copies)} filters`;
  const parts = [text(MARGIN, y - 4, name, "name"), kernel.draw(MARGIN, y, "cells c0", term("depth_multiplier"), own)];
  for (let f = 0; f < Math.min(stage.g.filters, 4); f++) {
    const x = 100 + 86 * f;
    const mixed = weights((tap) =>
      range(0, copies).reduce((sum, m) => sum + values.pointwise(f, m) * values.depthwise(m, tap), 0));
    const first = `${signed(values.pointwise(f, 0))} · a`;
    parts.push(
      text(x, y - 4, `filter ${f + 1}`, "name"),
      kernel.draw(x, y, "cells out", term("out_channels"), mixed),
      text(x, y + kernel.height + 12, copies === 1 ? first : `${first} + …`, "name"));
  }
  return parts;
}

/** @param {number} y @param {[number, number[], string][]} drawn */
function volumes(y, drawn) {
  return drawn.map(([x, size, kind]) => {
    const sheets = Math.min(size[0], 4), wide = 30, high = [0, 10, 30, 30][size.length - 1], deep = size.length === 4 ? 8 : 0;
    const boxes = range(0, sheets).reverse().map((i) =>
      box(x - wide / 2 + 4 * i - 2 * (sheets - 1), y - high / 2 - 3 * i + 2 * (sheets - 1), wide, high, deep));
    return `<g class="cells ${kind}">${boxes.join("")}</g>${text(x, y + 36, shape(size), "name middle")}`;
  });
}

/** @param {number} x @param {number} y @param {number} wide @param {number} high @param {number} deep */
function box(x, y, wide, high, deep) {
  const back = deep ? `M${x} ${y}l${deep} -${deep}h${wide}v${high}l-${deep} ${deep}v-${high}zM${x + wide} ${y}l${deep} -${deep}` : "";
  return `<path class="in" d="${back}M${x} ${y}h${wide}v${high}h-${wide}z"/>`;
}

/** @param {number} x @param {number} end @param {number} y @param {string} kernels @param {string} size
 * @param {string} price @param {string} kind */
function way(x, end, y, kernels, size, price, kind) {
  const center = (x + end) / 2;
  return [
    text(center, y - 20, kernels, "name middle"),
    text(center, y - 8, size, "name middle"),
    `<path class="way ${kind}" d="M${x} ${y}H${end - 6}m0 -5l6 5l-6 5"/>`,
    text(center, y + 16, price, price.length < 12 ? "title middle" : "small middle"),
  ];
}

/** @param {bigint} amount @param {bigint} most */
function length(amount, most) {
  return Number(BigInt(WIDTH - 2 * MARGIN) * 8n * amount / most) / 8;
}

/** @param {number} x @param {number} y @param {bigint} amount @param {bigint} most @param {string} kind */
function bar(x, y, amount, most, kind) {
  return `<rect class="bar ${kind}" x="${x}" y="${y}" width="${length(amount, most)}" height="12"/>`;
}
