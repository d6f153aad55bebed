// Volumes as cells: a flat grid for ranks 1 and 2, a block of cubes for rank 3: cells.py, line by line.

/** @typedef {import("./values.js").Place} Place */
/** @typedef {import("./values.js").Axis} Axis */
/** @typedef {(place: Place) => [string, string]} Cell what a cell is, and what stands in it */

export const CELL = 16;
export const CUBE = 13;
// Where one step of depth lands on paper.
export const SLANT_X = 6;
export const SLANT_Y = 5;
// Between places that are no neighbours.
const GAP = 10;
const SOLID = ["tap", "now", "weight"];

/** The places of one axis that are drawn, of those from `first` up to `stop`; pixels are from 0 up to `end`. */
export class Line {
  /** @param {number[]} places @param {number} first @param {number} stop @param {number} end */
  constructor(places, first, stop, end) {
    this.places = places;
    this.first = first;
    this.stop = stop;
    this.end = end;
    this.whole = places.length === stop - first;
  }

  /** Where each place begins, and where the last ends. @param {number} unit */
  starts(unit) {
    /** @type {number[]} */
    const starts = [];
    let x = 0;
    this.places.forEach((place, index) => {
      if (index && place !== this.places[index - 1] + 1) x += GAP;
      starts.push(x);
      x += unit;
    });
    return [...starts, x];
  }
}

/** @param {number} begin @param {number} end */
export function range(begin, end) {
  return Array.from({ length: Math.max(end - begin, 0) }, (_, i) => begin + i);
}

/** All taps of a short kernel, the first few and the last of a long one. @param {number} k @param {number} most */
function keptTaps(k, most) {
  return k <= most ? range(0, k) : [...range(0, Math.max(most - 2, 2)), k - 1];
}

/** @param {Axis} axis @param {number} most */
export function kernelLine(axis, most) {
  return new Line(keptTaps(axis.k, most), 0, axis.k, axis.k);
}

/** Padding and pixels: all, or those around the kernel, or only the pixels under some of its taps.
 * @param {Axis} axis @param {number} at @param {number} room @param {number} most */
export function inputLine(axis, at, room, most) {
  const first = -axis.before, stop = axis.n + axis.after, start = at * axis.s - axis.before;
  if (stop - first <= room) return new Line(range(first, stop), first, stop, axis.n);
  if (axis.reach <= room) {
    const begin = Math.min(Math.max(start - Math.floor((room - axis.reach) / 2), first), stop - room);
    return new Line(range(begin, begin + room), first, stop, axis.n);
  }
  return new Line(keptTaps(axis.k, most).map((tap) => start + tap * axis.d), first, stop, axis.n);
}

/** @param {Axis} axis @param {number} at @param {number} room */
export function outputLine(axis, at, room) {
  if (axis.out <= room) return new Line(range(0, axis.out), 0, axis.out, axis.out);
  const begin = Math.min(Math.max(at - Math.floor(room / 2), 0), axis.out - room);
  return new Line(range(begin, begin + room), 0, axis.out, axis.out);
}

/** A grid or a block over three lines: depth, height, width. */
export class Cells {
  /** @param {Line[]} lines @param {boolean} solid */
  constructor(lines, solid) {
    this.z = lines[0];
    this.y = lines[1];
    this.x = lines[2];
    this.solid = solid;
    this.unit = solid ? CUBE : CELL;
    const depth = this.z.places.length;
    /** How much higher the back is than the front. */
    this.rise = solid ? SLANT_Y * depth : 0;
    this.columns = this.x.starts(this.unit);
    this.rows = this.y.starts(this.unit);
    this.width = this.columns[this.columns.length - 1] + (solid ? SLANT_X * depth : 0);
    this.height = this.rows[this.rows.length - 1] + this.rise;
  }

  /** The cells with their corner at (x, y); `cell` says what each is: "" for one that is not drawn.
   * @param {number} x @param {number} y @param {string} kind @param {string} attributes @param {Cell} cell */
  draw(x, y, kind, attributes, cell) {
    const drawn = this.solid ? this.cubes(cell) : this.squares(cell);
    return `<g class="${kind}${this.solid ? " solid" : ""}" transform="translate(${x} ${y})"${attributes}>${drawn}</g>`;
  }

  /** @param {Cell} cell */
  squares(cell) {
    /** @type {Map<string, string>} */
    const paths = new Map();
    let texts = "";
    this.y.places.forEach((y, r) => this.x.places.forEach((x, c) => {
      const [what, content] = cell([this.z.places[0], y, x]), row = this.rows[r], column = this.columns[c];
      paths.set(what, `${paths.get(what) ?? ""}M${column} ${row}h${CELL}v${CELL}h-${CELL}z`);
      texts += written(column + CELL / 2, row + 11.5, content);
    }));
    // What is at work lies above its neighbours' edges.
    const isSolid = /** @param {[string, string]} path */ ([what]) => Number(SOLID.includes(what.split(" ")[0]));
    const ordered = Array.from(paths).sort((a, b) => isSolid(a) - isSolid(b));
    const squares = ordered.map(([what, path]) => `<path class="${what}" d="${path}"/>`).join("");
    return squares + texts + this.breaks();
  }

  /** Dots where an axis leaves places out, and where it goes on. */
  breaks() {
    const wide = this.columns[this.columns.length - 1], high = this.rows[this.rows.length - 1];
    return leftOut(this.x, this.columns).map((at) => `<text class="more" x="${at}" y="${high / 2 + 3}">⋯</text>`).join("")
      + leftOut(this.y, this.rows).map((at) => `<text class="more" x="${wide * 3 / 4}" y="${at + 3}">⋮</text>`).join("");
  }

  /** @param {Cell} cell */
  cubes(cell) {
    /** @type {string[]} */
    const layers = [];
    this.z.places.forEach((z, depth) => {
      const right = SLANT_X * depth, down = this.rise - SLANT_Y * depth, inFront = !layers.some(Boolean);
      let layer = "";
      // What lies to the left and below is hidden by what lies to the right and above it.
      for (let r = this.y.places.length - 1; r >= 0; r--) {
        this.x.places.forEach((x, c) => {
          const [what, content] = cell([z, this.y.places[r], x]), column = this.columns[c] + right, row = this.rows[r] + down;
          if (!what) return;
          layer += SOLID.includes(what) ? cube(column, row, what) : face(column, row, what);
          layer += inFront ? written(column + CUBE / 2, row + 9.5, content) : "";
        });
      }
      layers.push(layer);
    });
    return this.frame() + layers.reverse().join("");
  }

  /** The edges of the block; those of the pixels inside the padding drawn through, the padding's dashed. */
  frame() {
    const lines = [this.z, this.y, this.x];
    const spans = lines.map((line) => [0, line.places.length]);
    const inner = lines.map((line) =>
      [line.places.filter((place) => place < 0).length, line.places.filter((place) => place < line.end).length]);
    const dashed = `${spans}` !== `${inner}` ? `<path class="rim" d="${this.box(spans)}"/>` : "";
    const seen = inner.every(([start, stop]) => start < stop);
    return dashed + (seen ? `<path class="frame" d="${this.box(inner)}"/>` : "");
  }

  /** @param {number[][]} spans */
  box([[z0, z1], [y0, y1], [x0, x1]]) {
    const left = this.columns[x0], right = this.columns[x1], top = this.rows[y0] + this.rise, bottom = this.rows[y1] + this.rise;
    const a = [SLANT_X * z0, SLANT_Y * z0], b = [SLANT_X * z1, SLANT_Y * z1];
    const sides = [a, b].map(([dx, dy]) => `M${left + dx} ${top - dy}H${right + dx}V${bottom - dy}H${left + dx}z`).join("");
    return sides + [left, right].map((px) =>
      [top, bottom].map((py) => `M${px + a[0]} ${py - a[1]}L${px + b[0]} ${py - b[1]}`).join("")).join("");
  }
}

/** What stands in a cell, smaller the longer it is. @param {number} x @param {number} y @param {string} content */
function written(x, y, content) {
  if (!content) return "";
  const length = content.length > 2 ? ` class="l${Math.min(content.length, 5)}"` : "";
  return `<text x="${x}" y="${y}"${length}>${content}</text>`;
}

/** @param {Line} line @param {number[]} starts */
function leftOut(line, starts) {
  const found = [];
  if (line.places[0] > line.first) found.push(-6);
  for (let i = 1; i < line.places.length; i++) {
    if (line.places[i] !== line.places[i - 1] + 1) found.push(starts[i] - GAP / 2);
  }
  if (line.places[line.places.length - 1] < line.stop - 1) found.push(starts[starts.length - 1] + 6);
  return found;
}

/** @param {number} x @param {number} y @param {string} what */
function face(x, y, what) {
  return `<path class="${what}" d="M${x} ${y}h${CUBE}v${CUBE}h-${CUBE}z"/>`;
}

/** @param {number} x @param {number} y @param {string} what */
function cube(x, y, what) {
  return `<path class="${what} top" d="M${x} ${y}l${SLANT_X} -${SLANT_Y}h${CUBE}l-${SLANT_X} ${SLANT_Y}z"/>`
    + `<path class="${what} side" d="M${x + CUBE} ${y}l${SLANT_X} -${SLANT_Y}v${CUBE}l-${SLANT_X} ${SLANT_Y}z"/>`
    + face(x, y, what);
}
