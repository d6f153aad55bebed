// What the page says of a layer, piece by piece, as HTML: wording.py, arithmetic.py and snippets.py, line by line.

import { range } from "./cells.js";
import { Layer } from "./layer.js";
import { SHOWN, Stage, lane } from "./stage.js";

/** @typedef {import("./layer.js").Cost} Cost */
/** @typedef {{ name: string, input: number[], kernels: number, kernel: number[], output: number[],
 *   factors: [string, number][][], cost: Cost }} Step */

const COLUMNS = ["input", "kernels", "output", "multiplications", "parameters", "bytes moved", "FLOPs per byte"];
// Products are written out up to so many.
const WRITTEN = 9;

/** What holds for all output pixels. @param {Layer} g @returns {Record<string, string>} */
export function layerWords(g) {
  const whole = g.dense.multiplications, one = g.depthwise.multiplications, two = g.pointwise.multiplications;
  const share = percent(one + two, whole), cheaper = one + two < whole, [full, first, second] = steps(g);
  return {
    headline: headline(g),
    axes: g.axes.join(", "),
    total_dense: count(whole),
    total_separable: count(one + two),
    total_steps: `${count(one)} + ${count(two)} = ${count(one + two)}`,
    share,
    verdict: cheaper ? "of the multiplications" : "of the multiplications: NOT cheaper",
    formula_dense: formula(full),
    formula_depthwise: formula(first),
    formula_pointwise: formula(second),
    closed: closed(g),
    sizes: outputSizes(g).map((line) => `<li>${line}</li>`).join(""),
    title_dense: "1. Dense: every filter looks at every channel",
    title_depthwise: "2. Depthwise: every channel by itself",
    title_pointwise: `3. Pointwise: ${g.depthwiseChannels > 1 ? "the channels are mixed" : "one channel, nothing to mix"}`,
    title_both: "4. Side by side: what is saved, and what is lost",
    say_dense: sayDense(g),
    say_depthwise: sayDepthwise(g),
    say_pointwise: sayPointwise(g, one, two),
    say_saved: `The dense way takes ${count(whole)} multiplications, the separable way ${count(one + two)}: ${share}.`,
    say_lost: sayLost(g, cheaper),
    say_drawn: sayDrawn(g),
    rows: rows(g),
    ...snippets(g),
  };
}

/** What changes from one output pixel to the next. @param {Stage} stage @returns {Record<string, string>} */
export function pixelWords(stage) {
  const g = stage.g, done = stage.at + 1, pixels = BigInt(g.pixels);
  return {
    position: `output pixel ${count(done)} of ${count(g.pixels)}`,
    count_dense: count(g.dense.multiplications / pixels * BigInt(done)),
    count_separable: count(g.separable.multiplications / pixels * BigInt(done)),
    now_dense: nowDense(stage),
    now_depthwise: nowDepthwise(stage),
    now_pointwise: nowPointwise(stage),
    now_both: nowBoth(stage),
  };
}

/** @param {Layer} g @returns {Step[]} */
function steps(g) {
  /** @type {[string, number][]} */
  const pixels = g.outSpatial.map((side) => ["output_size", side]);
  /** @type {[string, number][]} */
  const kernel = g.kernel.map((side) => ["kernel_size", side]);
  /** @type {[string, number]} */
  const channels = ["in_channels", g.channels];
  /** @type {[string, number]} */
  const filters = ["out_channels", g.filters];
  /** @type {[string, number][]} */
  const copies = g.multiplier > 1 ? [["depth_multiplier", g.multiplier]] : [];
  return [
    { name: "dense", input: g.inputSize, kernels: g.filters, kernel: [g.channels, ...g.kernel], output: g.outputSize,
      factors: [[filters], [...kernel, channels], pixels], cost: g.dense },
    { name: "depthwise", input: g.inputSize, kernels: g.depthwiseChannels, kernel: [1, ...g.kernel], output: g.depthwiseSize,
      factors: [[channels], ...copies.map((copy) => [copy]), kernel, pixels], cost: g.depthwise },
    { name: "pointwise", input: g.depthwiseSize, kernels: g.filters, kernel: [g.depthwiseChannels, ...g.kernel.map(() => 1)],
      output: g.outputSize, factors: [[filters], [channels, ...copies], pixels], cost: g.pointwise },
  ];
}

/** @param {Layer} g */
function headline(g) {
  const article = [11, 18].includes(g.kernel[0]) || `${g.kernel[0]}`[0] === "8" ? "An" : "A";
  const kind = g.rank > 1 ? `${article} ${times(g.kernel)} convolution` : `A 1-d convolution of kernel ${g.kernelArea}`;
  return [`${kind} from ${count(g.channels)} to ${plural(g.filters, "channel")}`, ...settings(g)].join(", ");
}

/** @param {Layer} g */
function settings(g) {
  const padding = g.padding.map(([before, after]) => (before === after ? `${before}` : `${before} before and ${after} after`));
  const found = [];
  /** @type {[string, string[], string][]} */
  const named = [["stride", g.stride.map(String), "1"], ["padding", padding, "0"], ["dilation", g.dilation.map(String), "1"]];
  for (const [name, values, plain] of named) {
    if (values.some((value) => value !== plain)) {
      found.push(`${name} ${new Set(values).size === 1 ? values[0] : `(${values.join(", ")})`}`);
    }
  }
  return [...found, ...(g.multiplier > 1 ? [`depth multiplier ${g.multiplier}`] : [])];
}

/** How each side of the output follows from the input's, equal sides together. @param {Layer} g */
function outputSizes(g) {
  /** @type {[string[], string][]} */
  const lines = [];
  let last = "";
  g.axes.forEach((name, i) => {
    const [n, k, s, pads, d, out] = [g.size[i], g.kernel[i], g.stride[i], g.padding[i], g.dilation[i], g.outSpatial[i]];
    const padded = [n, ...(pads.some(Boolean) ? pads : [])].join(" + ");
    const positions = `${padded} - ${d === 1 ? k : `(${d}·(${k} - 1) + 1)`}`;
    const side = `${s > 1 ? `floor((${positions}) / ${s})` : positions} + 1 = ${out}`;
    const same = `${[n, k, s, pads, d, out]}`;
    if (same === last) lines[lines.length - 1][0].push(name);
    else lines.push([[name], side]);
    last = same;
  });
  return lines.map(([names, side]) => `${names.join(", ")}: ${side}`);
}

/** A piece of text that lights up together with everything else of the same argument.
 * @param {string} term @param {string | number} content */
function lit(term, content) {
  return `<span class="term" data-term="${term}">${content}</span>`;
}

/** @param {Step} step */
function formula(step) {
  const groups = step.factors.map((group) => {
    const inner = group.map(([name, value]) => lit(name, value)).join("·");
    return group.length > 1 ? `(${inner})` : inner;
  });
  return `${groups.join("·")} = ${count(step.cost.multiplications)}`;
}

/** @param {Layer} g */
function closed(g) {
  const [copies, filters, area] = [BigInt(g.multiplier), BigInt(g.filters), BigInt(g.kernelArea)];
  return `${lit("depth_multiplier", g.multiplier)}·(1/${lit("out_channels", g.filters)} + 1/${lit("kernel_size", g.kernelArea)})`
    + ` = ${decimal(copies * (filters + area), filters * area, 4)}`;
}

/** @param {Layer} g */
function sayDense(g) {
  const each = g.filters === 1 ? "The one filter has" : `Each of the ${count(g.filters)} filters has`;
  return `${lit("out_channels", each)} a kernel of ${lit("kernel_size", times(g.kernel))} weights for `
    + `${lit("in_channels", allOf(g.channels))}. It lies on ${g.channels === 1 ? "it" : "all of them at once"}, and each pixel of `
    + `its output takes ${plural(g.channels * g.kernelArea, "product")}. ${sayMoves(g)}`;
}

/** Stride, padding and dilation in a sentence. @param {Layer} g */
function sayMoves(g) {
  const zeros = g.padding.some(([before, after]) => before || after);
  const padding = zeros ? `, over an input with ${lit("padding", "zeros around it")} (dashed)` : "";
  const apart = g.dilation.some((d) => d !== 1) ? `; its weights lie ${lit("dilation", stepsOf(g.dilation))} apart` : "";
  return `From one output pixel to the next it moves by ${lit("stride", stepsOf(g.stride))}${padding}${apart}.`;
}

/** @param {number[]} values */
function stepsOf(values) {
  return new Set(values).size === 1 ? plural(values[0], "pixel") : `${shape(values)} pixels`;
}

/** @param {Layer} g */
function sayDepthwise(g) {
  const copies = g.multiplier === 1 ? "One kernel" : `${count(g.multiplier)} kernels`;
  const channels = g.channels === 1 ? "the one channel" : `each of the ${count(g.channels)} channels`;
  return `${lit("depth_multiplier", copies)} of ${lit("kernel_size", times(g.kernel))} weights for ${lit("in_channels", channels)}, `
    + `and a kernel lies on its own channel alone: ${plural(g.kernelArea, "product")} for each pixel.`;
}

/** @param {Layer} g @param {bigint} one @param {bigint} two */
function sayPointwise(g, one, two) {
  const each = g.filters === 1 ? "The one filter" : `Each of the ${count(g.filters)} filters`;
  const does = g.depthwiseChannels === 1 ? "multiplies the one channel by a number: there is nothing to mix."
    : `takes one number of ${lit("in_channels", allOf(g.depthwiseChannels))} at a single pixel and mixes them: 1×1 kernels.`;
  return `${lit("out_channels", each)} ${does} Articles that count this step alone, ${count(two)}, forget the ${count(one)} of `
    + "the depthwise step.";
}

/** @param {Layer} g @param {boolean} cheaper */
function sayLost(g, cheaper) {
  const most = Math.min(g.filters, g.kernelArea), copies = g.multiplier;
  if (copies >= most) {
    return `With ${lit("depth_multiplier", plural(copies, "kernel"))} for each channel every dense layer can be written as a `
      + `separable one: nothing is lost${cheaper ? "" : ", and nothing is saved"}.`;
  }
  const own = copies === 1 ? "multiples of one kernel" : `mixes of ${count(copies)} kernels`;
  return "It is not the same function. For each input channel, the filters of a dense layer have kernels of their own (their "
    + `rank is up to ${count(most)}); those of a separable layer are ${lit("depth_multiplier", own)} (rank ${count(copies)}). `
    + `Training makes up for much of that. With ${plural(most, "kernel")} for each channel it would be the same function.`;
}

/** @param {Layer} g */
function sayDrawn(g) {
  const few = g.channels > SHOWN || g.filters > SHOWN || g.multiplier > 1;
  return `Drawn are the pixels around the kernel${few ? " and the first channels and filters" : ""}; the dots say where there are `
    + "more. Numbers and sums are those of the whole layer. Weights and pixels are made up.";
}

/** @param {Layer} g */
function rows(g) {
  const total = percent(g.separable.multiplications, g.dense.multiplications);
  return [
    ...steps(g).map((step) => row(step.name, [
      shape(step.input), `${count(step.kernels)} of ${shape(step.kernel)}`, shape(step.output), ...numbers(step.cost)])),
    row("separable", ["", "", "", ...numbers(g.separable, `<small>${total} of dense</small>`)], ' class="sum"'),
  ].join("");
}

/** @param {Cost} cost @param {string} more */
function numbers(cost, more = "") {
  return [`${count(cost.multiplications)}${more}`, count(cost.parameters), count(cost.bytes),
    decimal(2n * cost.multiplications, cost.bytes, 2)];
}

/** A row; each cell carries its column's name, which narrow screens show beside it.
 * @param {string} name @param {string[]} cells @param {string} attributes */
function row(name, cells, attributes = "") {
  const written = cells.map((cell, i) => `<td data-label="${COLUMNS[i]}">${cell ? `<span>${cell}</span>` : ""}</td>`).join("");
  return `<tr${attributes}><th scope="row">${name}</th>${written}</tr>`;
}

/** The layer as code to copy. @param {Layer} g @returns {Record<string, string>} */
function snippets(g) {
  const conv = `nn.Conv${g.rank}d`, even = g.padding.every(([before, after]) => before === after);
  const channels = lit("in_channels", g.channels), filters = lit("out_channels", g.filters);
  const between = lit("depth_multiplier", g.depthwiseChannels), kernel = lit("kernel_size", short(g.kernel));
  /** @type {[string, number[], number][]} */
  const settings = [["stride", g.stride, 1], ["padding", even ? g.padding.map(([before]) => before) : [0], 0], ["dilation", g.dilation, 1]];
  const options = settings.filter(([, values, plain]) => values.some((value) => value !== plain))
    .map(([name, values]) => `, ${name}=${lit(name, short(values))}`).join("");
  const amounts = [...g.padding].reverse().flat().map(String);
  const zeros = even ? "" : `    nn.ZeroPad${g.rank}d(${lit("padding", tuple(amounts))}),\n`;
  const pairs = even ? "" : `, padding=${lit("padding", tuple(g.padding.map(([before, after]) => `(${before}, ${after})`)))}`;
  const whole = `${conv}(${channels}, ${filters}, kernel_size=${kernel}${options}, bias=False)`;
  const copies = g.multiplier > 1 ? `, depth_multiplier=${lit("depth_multiplier", g.multiplier)}` : "";
  return {
    code_dense: zeros ? `dense = nn.Sequential(\n${zeros}    ${whole},\n)` : `dense = ${whole}`,
    code_separable: `separable = nn.Sequential(\n${zeros}`
      + `    ${conv}(${channels}, ${between}, kernel_size=${kernel}${options}, groups=${channels}, bias=False),  # depthwise\n`
      + `    ${conv}(${between}, ${filters}, kernel_size=1, bias=False),  # pointwise\n)`,
    code_ours: `ours = depthwise.SeparableConv${g.rank}d(${channels}, ${filters}, ${kernel}${options}${pairs}, bias=False${copies})`,
    code_command: `depthwise explain ${g.inputSize.join("x")} --filters ${filters} --kernel ${lit("kernel_size", joined(g.kernel))}`
      + flags(g, even),
  };
}

/** @param {Layer} g @param {boolean} even */
function flags(g, even) {
  const padding = even ? joined(g.padding.map(([before]) => before)) : g.padding.map((pair) => pair.join(":")).join("x");
  const options = [["stride", joined(g.stride), "1"], ["padding", padding, "0"], ["dilation", joined(g.dilation), "1"]];
  const written = options.filter(([, value, plain]) => value !== plain).map(([name, value]) => ` --${name} ${lit(name, value)}`);
  return written.join("") + (g.multiplier > 1 ? ` --multiplier ${lit("depth_multiplier", g.multiplier)}` : "");
}

/** @param {string[]} values */
function tuple(values) {
  return values.length === 1 ? `(${values[0]},)` : `(${values.join(", ")})`;
}

/** As Python takes it: one number where all are the same. @param {number[]} values */
function short(values) {
  return new Set(values).size === 1 ? `${values[0]}` : tuple(values.map(String));
}

/** As the command line takes it: one number where all are the same. @param {number[]} values */
function joined(values) {
  return new Set(values).size === 1 ? `${values[0]}` : values.join("x");
}

/** @param {Stage} stage */
function where(stage) {
  return `at ${shape(stage.place.slice(3 - stage.g.rank))}`;
}

/** @param {Stage} stage */
function nowDense(stage) {
  const { g, values, filter: f, place: at } = stage;
  const parts = range(0, Math.min(g.channels, SHOWN)).map((c) => values.densePart(f, c, at));
  const products = values.tapsFew(WRITTEN).map((tap) => [values.dense(f, 0, tap), values.inputs(0, values.under(tap, at))]);
  const said = parts.map((part, c) => (c ? `channel ${c + 1}: ${signed(part)}` : `channel 1: ${added(products)}${signed(part)}`));
  return `Filter ${f + 1} ${where(stage)}: ${said.join("; ")}${together(values.denseSum(f, at), parts, g.channels)}.`;
}

/** @param {Stage} stage */
function nowDepthwise(stage) {
  const { g, values, place: at } = stage;
  const products = values.tapsFew(WRITTEN).map((tap) => [values.depthwise(0, tap), values.inputs(0, values.under(tap, at))]);
  const sums = range(0, Math.min(g.depthwiseChannels, SHOWN)).map((j) => values.depthwiseSum(j, at));
  const others = sums.slice(1).map((sum, i) => `; ${lane(g, i + 1)}: ${signed(sum)}`).join("");
  return `Every channel by itself ${where(stage)}: ${lane(g, 0)}: ${added(products)}${signed(sums[0])}${others}.`;
}

/** @param {Stage} stage */
function nowPointwise(stage) {
  const { g, values, filter: f, place: at } = stage;
  const products = range(0, Math.min(g.depthwiseChannels, SHOWN)).map((j) => [values.pointwise(f, j), values.depthwiseSum(j, at)]);
  const rest = products.length === g.depthwiseChannels ? "" : " + …";
  const sum = products.map(([weight, value]) => timed(weight, value)).join(" + ");
  return `Filter ${f + 1} ${where(stage)}: ${sum}${rest} = <b>${signed(values.pointwiseSum(f, at))}</b>.`;
}

/** @param {Stage} stage */
function nowBoth(stage) {
  const { values, filter: f, place: at } = stage;
  return `Filter ${f + 1} ${where(stage)}: dense ${signed(values.denseSum(f, at))}, separable ${signed(values.pointwiseSum(f, at))}: two functions.`;
}

/** @param {number | null} total @param {number[]} parts @param {number} channels */
function together(total, parts, channels) {
  if (channels === 1) return "";
  const others = channels - parts.length;
  const rest = total === null ? "" : `: ${signed(total - parts.reduce((a, b) => a + b, 0))}`;
  const more = others ? `; ${others === 1 ? "the other" : `${count(others)} others`}${rest}` : "";
  return `${more}; together <b>${signed(total)}</b>`;
}

/** @param {number[][]} pairs */
function added(pairs) {
  return pairs.map(([weight, value], i) => `${timed(weight, value)}${i < pairs.length - 1 ? " + " : " = "}`).join("");
}

/** @param {number} weight @param {number} value */
function timed(weight, value) {
  return `${bracketed(weight)}·${bracketed(value)}`;
}

/** @param {number} value */
function bracketed(value) {
  return value < 0 ? `(${signed(value)})` : `${value}`;
}

/** With a minus sign that is one; dots for what is not added up. @param {number | null} value */
export function signed(value) {
  return value === null ? "…" : `${value}`.replace("-", "−");
}

/** @param {number | bigint} value */
export function count(value) {
  return `${value}`.replace(/\B(?=(\d{3})+$)/g, ",");
}

/** @param {number} number @param {string} thing */
export function plural(number, thing) {
  return `${count(number)} ${thing}${number === 1 ? "" : "s"}`;
}

/** @param {number} channels */
function allOf(channels) {
  return { 1: "the one channel", 2: "both channels" }[channels] ?? `all ${plural(channels, "channel")}`;
}

/** (channels, *spatial), as everywhere. @param {number[]} size */
export function shape(size) {
  return `(${size.join(", ")})`;
}

/** @param {number[]} sizes */
function times(sizes) {
  return sizes.join("×");
}

/** One decimal, or two digits of what is below 1 %. @param {bigint} part @param {bigint} whole */
export function percent(part, whole) {
  let digits = 1;
  while (part > 0n && part * 10n ** BigInt(digits + 1) < whole) digits += 1;
  return `${decimal(100n * part, whole, digits)} %`;
}

/** part / whole, rounded; a half goes up. @param {bigint} part @param {bigint} whole @param {number} digits */
function decimal(part, whole, digits) {
  const unit = 10n ** BigInt(digits), scaled = (2n * part * unit + whole) / (2n * whole);
  return `${count(scaled / unit)}.${`${scaled % unit}`.padStart(digits, "0")}`;
}
