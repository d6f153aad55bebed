// The scenes for one output pixel: scenes.py, line by line.

import { Cells, SLANT_X, SLANT_Y, range } from "./cells.js";
import { both } from "./comparison.js";
import { MARGIN, SHOWN, Stage, WIDTH, hue, lane, term, text, weights } from "./stage.js";
import { count, plural, shape, signed } from "./wording.js";

/** @typedef {import("./cells.js").Cell} Cell */
/** @typedef {import("./values.js").Place} Place */
/** @typedef {import("./stage.js").Scene} Scene */
/** @typedef {{ name: string, kind: string, source: Cell, weight: (tap: Place) => number, part: number }} Row */

const TOP = 40;
// A volume's name above it, and what keeps it from the one above.
const NAME = 16;
const APART = 6;
// Outputs that are not at work show their values where these take no more products than this.
const QUICK = 200;

/** @type {Record<string, (stage: Stage) => Scene>} */
export const SCENES = { dense, depthwise, pointwise, both };

/** @param {Stage} stage @returns {Scene} */
function dense(stage) {
  const { g, values, filter: f } = stage;
  const rows = range(0, Math.min(g.channels, SHOWN)).map((c) => ({
    name: `channel ${c + 1}`,
    kind: `c${c}`,
    source: input(stage, c),
    weight: /** @param {Place} tap */ (tap) => values.dense(f, c, tap),
    part: values.densePart(f, c, stage.place),
  }));
  const label = `Filter ${f + 1} lies on ${plural(g.channels, "channel")} at once and makes one pixel of its output.`;
  const size = [g.channels, ...g.kernel];
  return mixing(stage, "input", g.inputSize, stage.inputCells(), size, stage.kernelCells(5), rows,
    (filter, at) => values.denseSum(filter, at), label);
}

/** @param {Stage} stage @returns {Scene} */
function pointwise(stage) {
  const { g, values, filter: f } = stage;
  const rows = range(0, Math.min(g.depthwiseChannels, SHOWN)).map((j) => ({
    name: lane(g, j),
    kind: hue(g, j),
    source: middle(stage, j, true),
    weight: () => values.pointwise(f, j),
    part: values.pointwise(f, j) * values.depthwiseSum(j, stage.place),
  }));
  const label = `Filter ${f + 1} mixes ${plural(g.depthwiseChannels, "channel")} at one pixel.`;
  const kernel = [g.depthwiseChannels, ...g.kernel.map(() => 1)];
  return mixing(stage, "after depthwise", g.depthwiseSize, stage.outputCells(), kernel, stage.oneCell(), rows,
    (filter, at) => values.pointwiseSum(filter, at), label);
}

/** Channels on the left, one filter's kernel in the middle, a sum, and the first filters' outputs on the right.
 * @param {Stage} stage @param {string} name @param {number[]} size @param {Cells} cells @param {number[]} kernelSize
 * @param {Cells} kernel @param {Row[]} rows @param {(f: number, at: Place) => number | null} total
 * @param {string} label @returns {Scene} */
function mixing(stage, name, size, cells, kernelSize, kernel, rows, total, label) {
  const g = stage.g, made = stage.outputCells();
  const filters = Math.min(g.filters, SHOWN);
  const pitch = Math.max(cells.height, kernel.height) + NAME + APART, outPitch = made.height + NAME + APART;
  const high = Math.max(rows.length * pitch, filters * outPitch);
  const top = TOP + (high - rows.length * pitch) / 2, outTop = TOP + (high - filters * outPitch) / 2;
  const right = WIDTH - MARGIN - 8 - Math.max(made.width, 40);
  const x = MARGIN + cells.width + Math.floor((right - MARGIN - cells.width - kernel.width) * 7 / 16);
  const sumX = right - 30, sumY = TOP + high / 2, several = rows.length > 1 || size[0] > 1;
  const parts = captions(x + kernel.width / 2, [
    [name, shape(size), cells],
    [`kernel ${stage.filter + 1} of ${count(g.filters)}`, shape(kernelSize), kernel],
    ["output", shape(g.outputSize), made],
  ], g.rank);
  rows.forEach((row, index) => {
    const y = top + index * pitch + NAME + (pitch - NAME - APART) / 2;
    parts.push(
      text(MARGIN, y - cells.height / 2 - 4, row.name, "name"),
      cells.draw(MARGIN, y - cells.height / 2, `cells ${row.kind}`, term("in_channels"), row.source),
      text((MARGIN + cells.width + x) / 2, y + 5, "∗", "sign"),
      kernel.draw(x, y - kernel.height / 2, `cells ${row.kind}`, term("kernel_size"), weights(row.weight)),
      text(x + kernel.width + 5, y + 3.5, signed(row.part), "part"),
      several ? line([Math.min(x + kernel.width + 30, sumX - 14), y], [sumX - 9, sumY]) : "");
  });
  const target = outTop + stage.filter * outPitch + NAME + middleHeight(stage, made);
  if (several) {
    parts.push(`<circle class="node" cx="${sumX}" cy="${sumY}" r="9"/>`, text(sumX, sumY + 4, "Σ", "sum"));
  }
  parts.push(arrow([several ? sumX + 9 : x + kernel.width + 30, sumY], [right - 4, target]));
  for (let f = 0; f < filters; f++) {
    const y = outTop + f * outPitch + NAME, kind = f === stage.filter ? "cells out at-work" : "cells out";
    parts.push(
      text(right, y - 4, `filter ${f + 1}`, "name"),
      made.draw(right, y, kind, term("out_channels") + grid(stage, made, f), output(stage, f, total)));
  }
  const sum = total(stage.filter, stage.place);
  const rest = sum === null ? "" : `, together ${signed(sum - rows.reduce((added, row) => added + row.part, 0))}`;
  parts.push(more(MARGIN, TOP + high + 10, size[0] - rows.length, "channel", rest, "note"));
  parts.push(more(WIDTH - MARGIN, TOP + high + 10, g.filters - filters, "filter", "", "note end"));
  return { height: TOP + high + 18, content: parts.join(""), label };
}

/** @param {Stage} stage @returns {Scene} */
function depthwise(stage) {
  const { g, values } = stage;
  const cells = stage.inputCells(), kernel = stage.kernelCells(5), made = stage.outputCells();
  const channels = Math.min(g.channels, g.multiplier === 1 ? SHOWN : 2), copies = Math.min(g.multiplier, 2);
  const each = Math.max(kernel.height, made.height) + NAME + APART;
  const pitch = Math.max(cells.height + NAME + APART, copies * each);
  const right = WIDTH - MARGIN - 8 - Math.max(made.width, 40);
  const x = MARGIN + cells.width + Math.floor((right - MARGIN - cells.width - kernel.width) * 7 / 16);
  const parts = captions(x + kernel.width / 2, [
    ["input", shape(g.inputSize), cells],
    [plural(g.depthwiseChannels, "kernel"), shape([1, ...g.kernel]), kernel],
    ["after depthwise", shape(g.depthwiseSize), made],
  ], g.rank);
  for (let c = 0; c < channels; c++) {
    const y = TOP + c * pitch + NAME + (pitch - NAME - APART) / 2;
    parts.push(
      text(MARGIN, y - cells.height / 2 - 4, `channel ${c + 1}`, "name"),
      cells.draw(MARGIN, y - cells.height / 2, `cells c${c}`, term("in_channels"), input(stage, c)));
    for (let m = 0; m < copies; m++) {
      const j = c * g.multiplier + m, center = y + (m - (copies - 1) / 2) * each;
      const kind = `cells ${hue(g, j)}`, end = center - made.height / 2;
      parts.push(
        text((MARGIN + cells.width + x) / 2, center + 5, "∗", "sign"),
        kernel.draw(x, center - kernel.height / 2, kind, term("kernel_size"), weights((tap) => values.depthwise(j, tap))),
        arrow([x + kernel.width + 8, center], [right - 4, end + middleHeight(stage, made)]),
        text(right, end - 4, lane(g, j), "name"),
        made.draw(right, end, kind, term("depth_multiplier") + grid(stage, made, stage.filter), middle(stage, j, false)));
    }
  }
  const bottom = TOP + channels * pitch;
  parts.push(more(MARGIN, bottom + 10, g.channels - channels, "channel", "", "note"));
  parts.push(more(WIDTH - MARGIN, bottom + 10, g.multiplier - copies, "kernel", " for each channel", "note end"));
  const label = `${plural(g.multiplier, "kernel")} for each channel; a kernel sees its own channel and no other.`;
  return { height: bottom + 18, content: parts.join(""), label };
}

/** @param {Stage} stage @param {number} c @returns {Cell} */
function input(stage, c) {
  const { values, place: at, solid } = stage, axes = values.axes;
  return (place) => {
    const under = axes.every((side, i) => isTap(side, at[i], place[i]));
    const inside = axes.every((side, i) => 0 <= place[i] && place[i] < side.n);
    if (solid) return under ? ["tap", `${values.inputs(c, place)}`] : ["", ""];
    return [(under ? "tap" : "in") + (inside ? "" : " pad"), `${values.inputs(c, place)}`];
  };
}

/** @param {import("./values.js").Axis} side @param {number} at @param {number} place */
function isTap(side, at, place) {
  const offset = place - at * side.s + side.before;
  return 0 <= offset && offset < side.reach && offset % side.d === 0;
}

/** A channel after the depthwise step: all of it, or as far as it is.
 * @param {Stage} stage @param {number} j @param {boolean} done @returns {Cell} */
function middle(stage, j, done) {
  const quick = stage.g.kernelArea <= QUICK;
  return (place) => {
    const index = stage.index(place);
    if (stage.solid && place[0] !== stage.place[0]) return ["", ""];
    if (index === stage.at) return [done ? "tap" : "now", signed(stage.values.depthwiseSum(j, place))];
    if (index > stage.at && !done) return ["later", ""];
    return [done ? "in" : "done", quick ? signed(stage.values.depthwiseSum(j, place)) : ""];
  };
}

/** @param {Stage} stage @param {number} f @param {(f: number, at: Place) => number | null} total @returns {Cell} */
function output(stage, f, total) {
  const quick = stage.g.depthwiseChannels * stage.g.kernelArea <= QUICK;
  return (place) => {
    const index = stage.index(place);
    if (stage.solid && place[0] !== stage.place[0]) return ["", ""];
    if (index > stage.at) return ["later", ""];
    if (index === stage.at) return ["now", signed(total(f, place))];
    return ["done", quick ? signed(total(f, place)) : ""];
  };
}

/** For a pointer: the filter, the first place that is drawn, and where its face lies.
 * @param {Stage} stage @param {Cells} made @param {number} f */
function grid(stage, made, f) {
  const depth = made.z.places.indexOf(stage.place[0]);
  const [across, down] = stage.solid ? [SLANT_X * depth, made.rise - SLANT_Y * depth] : [0, 0];
  return ` data-grid="${f} ${stage.place[0]} ${made.y.places[0]} ${made.x.places[0]} ${across} ${down}"`;
}

/** How far down in `made` the pixel at work is. @param {Stage} stage @param {Cells} made */
function middleHeight(stage, made) {
  const row = made.rows[made.y.places.indexOf(stage.place[1])], depth = made.z.places.indexOf(stage.place[0]);
  return row + made.unit / 2 + (stage.solid ? made.rise - SLANT_Y * depth : 0);
}

/** What each column is, its size, and how much of it is drawn.
 * @param {number} center @param {[string, string, Cells][]} columns @param {number} rank */
function captions(center, columns, rank) {
  /** @type {string[]} */
  const parts = [];
  columns.forEach(([name, size, cells], index) => {
    const at = [MARGIN, center, WIDTH - MARGIN][index], kind = ["", " middle", " end"][index];
    parts.push(text(at, 12, name, `title${kind}`), text(at, 25, size, `name${kind}`));
    if (!(cells.z.whole && cells.y.whole && cells.x.whole)) {
      const lines = [cells.z, cells.y, cells.x].slice(3 - rank);
      const few = lines.map((line) => count(line.places.length)).join("×");
      parts.push(text(at, 37, `drawn: ${few} of ${lines.map((line) => count(line.stop - line.first)).join("×")}`, `small${kind}`));
    }
  });
  return parts;
}

/** @param {number[]} start @param {number[]} end */
function line([x0, y0], [x1, y1]) {
  return `<path class="line" d="M${x0} ${y0}L${x1} ${y1}"/>`;
}

/** @param {number[]} start @param {number[]} end */
function arrow([x0, y0], [x1, y1]) {
  return `<path class="line" d="M${x0} ${y0}L${x1 - 8} ${y1}h8m-5 -4l5 4l-5 4"/>`;
}

/** @param {number} x @param {number} y @param {number} number @param {string} thing @param {string} rest @param {string} kind */
function more(x, y, number, thing, rest, kind) {
  return number > 0 ? text(x, y, `and ${count(number)} more ${thing}${number === 1 ? "" : "s"}${rest}`, kind) : "";
}
