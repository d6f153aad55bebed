// A layer as its fields say it, checked as Python checks it: geometry.py and cost.py, with the same messages.

/** @typedef {{ channels: string, size: string, filters: string, kernel: string, stride: string, padding: string,
 *   dilation: string, multiplier: string }} Fields */
/** @typedef {{ multiplications: bigint, parameters: bigint, bytes: bigint }} Cost */

const AXES = [[], ["length"], ["height", "width"], ["depth", "height", "width"]];

/** What is wrong with a layer, in the words of Python. */
export class LayerError extends Error {}

/** The shape of one separable convolution, and what it costs. */
export class Layer {
  /** @param {Fields} fields */
  constructor(fields) {
    const input = sizeOf(`${fields.channels}x${fields.size}`);
    const kernel = sizeOf(fields.kernel), stride = sizeOf(fields.stride), dilation = sizeOf(fields.dilation);
    const padding = paddingOf(fields.padding);
    this.filters = atLeast(wholeOf(fields.filters), 1, "out_channels");
    this.rank = input.length - 1;
    if (!AXES[this.rank]?.length) {
      throw new LayerError(`input_size is (channels, *spatial) with 1, 2 or 3 spatial dimensions; got ${repr(input)}`);
    }
    this.channels = atLeast(input[0], 1, "channels of the input");
    /** @type {number[]} */
    this.size = input.slice(1).map((n, i) => atLeast(n, 1, `the input's ${this.axes[i]}`));
    this.kernel = perAxis(kernel, this.rank, "kernel_size");
    this.stride = perAxis(stride, this.rank, "stride");
    this.dilation = perAxis(dilation, this.rank, "dilation");
    this.padding = this.padded(padding);
    this.multiplier = atLeast(wholeOf(fields.multiplier), 1, "depth_multiplier");
    this.checkKernel();
    this.inputSize = [this.channels, ...this.size];
    this.outSpatial = this.size.map((n, i) => {
      const [before, after] = this.padding[i];
      return Math.floor((n + before + after - this.dilation[i] * (this.kernel[i] - 1) - 1) / this.stride[i]) + 1;
    });
    this.depthwiseChannels = this.channels * this.multiplier;
    this.kernelArea = product(this.kernel);
    this.depthwiseSize = [this.depthwiseChannels, ...this.outSpatial];
    this.outputSize = [this.filters, ...this.outSpatial];
    this.pixels = product(this.outSpatial);
  }

  get axes() { return AXES[this.rank]; }

  /** @param {string | (number | number[])[]} padding @returns {number[][]} */
  padded(padding) {
    if (padding === "valid") return this.size.map(() => [0, 0]);
    if (typeof padding === "string") {
      return this.size.map((n, i) => {
        const k = this.kernel[i], s = this.stride[i], d = this.dilation[i];
        const total = Math.max((Math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0);
        return [Math.floor(total / 2), total - Math.floor(total / 2)];
      });
    }
    if (padding.some(Array.isArray)) {
      const pairs = padding.filter((end) => Array.isArray(end) && end.length === 2);
      if (pairs.length !== this.rank || padding.length !== this.rank) {
        throw new LayerError(`padding as pairs needs one (before, after) per spatial dimension, ${this.rank} here; got ${repr(padding)}`);
      }
      return pairs.map((end) => /** @type {number[]} */ (end).map((amount) => atLeast(amount, 0, "padding")));
    }
    if (padding.length !== 1 && padding.length !== this.rank) {
      const pair = this.rank === 1 && padding.length === 2 ? `; for one axis write ((${padding[0]}, ${padding[1]}),)` : "";
      throw new LayerError(`padding is one int, or ${this.rank} for a ${this.rank}-d convolution; got ${repr(padding)}${pair}`);
    }
    const ends = padding.map((amount) => atLeast(/** @type {number} */ (amount), 0, "padding"));
    return this.size.map((_, i) => [ends[i % ends.length], ends[i % ends.length]]);
  }

  checkKernel() {
    this.size.forEach((n, i) => {
      const k = this.kernel[i], d = this.dilation[i], [before, after] = this.padding[i];
      const reach = d * (k - 1) + 1;
      if (n + before + after < reach) {
        throw new LayerError(
          `the kernel covers ${reach} pixels along the ${this.axes[i]} (kernel_size ${k}, dilation ${d}), more `
          + `than the padded input's ${n + before + after} (input ${n}, padding ${before} before and ${after} `
          + "after): the output would be empty; use more padding, a smaller kernel or a larger input");
      }
    });
  }

  get dense() { return cost(this.channels, this.outputSize, this.kernel, 1, this.size); }
  get depthwise() { return cost(this.channels, this.depthwiseSize, this.kernel, this.channels, this.size); }
  get pointwise() { return cost(this.depthwiseChannels, this.outputSize, [1], 1, this.outSpatial); }

  get separable() {
    const one = this.depthwise, two = this.pointwise;
    return {
      multiplications: one.multiplications + two.multiplications,
      parameters: one.parameters + two.parameters,
      bytes: one.bytes + two.bytes,
    };
  }
}

/** Of float32 numbers, and exact, however large. @param {number} channels @param {number[]} out @param {number[]} kernel
 * @param {number} groups @param {number[]} size @returns {Cost} */
function cost(channels, out, kernel, groups, size) {
  const terms = big([channels / groups, ...kernel]), made = big(out), parameters = BigInt(out[0]) * terms;
  return { multiplications: made * terms, parameters, bytes: 4n * (big([channels, ...size]) + parameters + made) };
}

/** @param {number[]} sizes */
export function big(sizes) {
  return sizes.reduce((all, size) => all * BigInt(size), 1n);
}

/** @param {number[]} sizes */
export function product(sizes) {
  return sizes.reduce((all, size) => all * size, 1);
}

/** Whole numbers as the command line reads them; beyond 15 digits a page's numbers are not exact.
 * @param {string} text @returns {number | null} */
function whole(text) {
  if (!/^-?[0-9]{1,40}$/.test(text)) return null;
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new LayerError(`${text} is more than this page can count`);
  return value;
}

/** @param {string} text */
function wholeOf(text) {
  return whole(text) ?? text;
}

/** @param {string} text @returns {number[]} */
function sizeOf(text) {
  const parts = text.toLowerCase().split("x").map(whole);
  if (parts.includes(null)) throw new LayerError(`${repr(text)} is not numbers joined by x, such as 3x224x224`);
  return /** @type {number[]} */ (parts);
}

/** @param {string} text @returns {string | (number | number[])[]} */
function paddingOf(text) {
  if (text === "same" || text === "valid") return text;
  const ends = text.toLowerCase().split("x").map((part) => part.split(":").map(whole));
  if (ends.flat().includes(null)) throw new LayerError(`${repr(text)} is not 1, 1x2, 3:0 (before:after), same or valid`);
  const known = /** @type {number[][]} */ (ends);
  return text.includes(":") ? known.map((end) => (end.length === 1 ? [end[0], end[0]] : end)) : known.map((end) => end[0]);
}

/** @param {number[]} values @param {number} rank @param {string} name */
function perAxis(values, rank, name) {
  if (values.length !== 1 && values.length !== rank) {
    throw new LayerError(`${name} is one int, or ${rank} for a ${rank}-d convolution; got ${repr(values)}`);
  }
  const checked = values.map((value) => atLeast(value, 1, name));
  return AXES[rank].map((_, i) => checked[i % checked.length]);
}

/** @param {number | string} value @param {number} least @param {string} name @returns {number} */
function atLeast(value, least, name) {
  if (typeof value === "string") throw new LayerError(`${name} must be an integer; got ${repr(value)}`);
  if (value < least) throw new LayerError(`${name} must be at least ${least}; got ${value}`);
  return value;
}

/** As Python writes it. @param {unknown} value @returns {string} */
function repr(value) {
  if (Array.isArray(value)) return `(${value.map(repr).join(", ")}${value.length === 1 ? "," : ""})`;
  return typeof value === "string" ? (value.includes("'") ? `"${value}"` : `'${value}'`) : `${value}`;
}
