// The page alive: fields, keys and pointers change its state; whatever the state changes is written anew.

import { CELL, CUBE } from "./cells.js";
import { Layer, LayerError } from "./layer.js";
import { Player, stillness } from "./player.js";
import { SCENES } from "./scenes.js";
import { SHOWN, Stage, middleOf } from "./stage.js";
import { Values } from "./values.js";
import { layerWords, pixelWords } from "./wording.js";

/** @typedef {import("./layer.js").Fields} Fields */
/** @typedef {{ at: number, filter: number }} Spot */

/** Name, label, the argument it is, and its slider's ends. @type {[keyof Fields, string, string, number, number][]} */
const FIELDS = [
  ["channels", "in_channels", "in_channels", 1, 256],
  ["size", "input size", "output_size", 1, 64],
  ["filters", "out_channels", "out_channels", 1, 512],
  ["kernel", "kernel_size", "kernel_size", 1, 11],
  ["stride", "stride", "stride", 1, 4],
  ["padding", "padding", "padding", 0, 8],
  ["dilation", "dilation", "dilation", 1, 4],
  ["multiplier", "depth_multiplier", "depth_multiplier", 1, 9],
];

/** Start the page whose own layer is `own`. @param {Fields} own */
export function start(own) {
  new Page(own);
}

class Page {
  /** @param {Fields} own */
  constructor(own) {
    this.own = own;
    /** @type {Fields} */
    this.fields = { ...own };
    this.values = new Values(new Layer(own));
    this.filter = 0;
    /** @type {Spot | null} */
    this.hovered = null;
    this.pinned = false;
    this.scene = 0;
    /** @type {Set<string>} */
    this.seen = new Set();
    this.player = new Player(() => this.moved());
    this.makeFields();
    this.listen();
    this.show(all("[hidden]"));
    if (matchMedia("(max-width: 1179px)").matches) one("details", HTMLDetailsElement).open = false;
    this.fromLink(true);
    window.addEventListener("hashchange", () => this.fromLink(false));
  }

  get g() { return this.values.g; }

  /** What is shown: where the pointer is, or where the kernel is. @returns {Spot} */
  get spot() { return this.hovered ?? { at: this.player.at, filter: this.filter }; }

  // Fields

  makeFields() {
    one(".fields").innerHTML = FIELDS.map(([name, label, term, least, most]) => `<div class="field">
<label for="field-${name}" class="name"><span class="term" data-term="${term}">${label}</span></label>
<input type="range" data-slides="${name}" min="${least}" max="${most}" step="1" aria-label="${label}">
<input type="text" id="field-${name}" data-field="${name}" spellcheck="false"></div>`).join("");
    const hints = { size: "7x7", padding: "1, 3:0, same or valid" };
    for (const [name, hint] of Object.entries(hints)) one(`#field-${name}`, HTMLInputElement).title = hint;
  }

  /** @param {Partial<Fields>} changes @param {number | null} at */
  change(changes, at = null) {
    this.fields = { ...this.fields, ...changes };
    const error = one("#layer-error");
    let layer;
    try {
      layer = new Layer(this.fields);
    } catch (problem) {
      if (!(problem instanceof LayerError)) throw problem;
      error.textContent = problem.message;
      this.mark(false);
      this.writeFields();
      this.toLink();
      return;
    }
    error.textContent = "";
    this.mark(true);
    this.values = new Values(layer);
    this.player.count = layer.pixels;
    this.player.at = Math.min(at ?? middleOf(layer), layer.pixels - 1);
    this.filter = Math.min(this.filter, layer.filters - 1);
    this.hovered = null;
    this.writeFields();
    this.write(layerWords(layer));
    // How the page's own size was read says nothing of another.
    for (const note of all("[data-own]")) note.hidden = FIELDS.some(([name]) => this.fields[name] !== this.own[name]);
    this.moved();
    this.makeFocusable();
  }

  /** @param {boolean} valid */
  mark(valid) {
    for (const stage of all(".stage")) stage.classList.toggle("stale", !valid);
    for (const field of all("[data-field]")) field.setAttribute("aria-invalid", `${!valid && field === document.activeElement}`);
  }

  writeFields() {
    for (const [name] of FIELDS) {
      const field = one(`#field-${name}`, HTMLInputElement), slider = one(`[data-slides=${name}]`, HTMLInputElement);
      if (field !== document.activeElement) field.value = this.fields[name];
      slider.value = String(Number.parseInt(this.fields[name], 10) || 0);
    }
    for (const radio of all("[name=rank]")) {
      const input = /** @type {HTMLInputElement} */ (radio);
      input.checked = input.value === `${this.fields.size.split("x").length}`;
    }
  }

  /** The same layer in so many dimensions. @param {number} rank */
  turnInto(rank) {
    /** @type {Partial<Fields>} */
    const changes = {};
    for (const name of /** @type {(keyof Fields)[]} */ (["size", "kernel", "stride", "padding", "dilation"])) {
      const parts = this.fields[name].toLowerCase().split("x");
      if (name === "size") changes[name] = Array.from({ length: rank }, (_, i) => parts[i % parts.length]).join("x");
      else if (parts.length > 1 || name === "padding") changes[name] = Array.from({ length: /[a-z]/.test(parts[0]) ? 1 : rank }, (_, i) => parts[i % parts.length]).join("x");
    }
    this.change(changes);
  }

  // What is shown

  moved() {
    const { at, filter } = this.spot, stage = new Stage(this.values, at, filter), said = pixelWords(stage);
    this.write(said);
    for (const name of this.seen) this.draw(name, stage);
    const play = one("[data-do=play]"), scrub = one("#scrub", HTMLInputElement);
    play.textContent = this.player.playing ? "❚❚ pause" : "▶ play";
    play.setAttribute("aria-label", this.player.playing ? "pause" : "play");
    scrub.max = `${this.player.count - 1}`;
    scrub.value = `${at}`;
    scrub.setAttribute("aria-valuetext", said.position);
    if (this.player.playing || this.hovered) return;
    one("#live").textContent = plain(said[`now_${Object.keys(SCENES)[this.scene]}`]);
    this.toLink();
  }

  /** @param {string} name @param {Stage} stage */
  draw(name, stage) {
    const svg = one(`[data-scene=${name}]`), scene = SCENES[name](stage);
    const before = stillness() ? [] : tapsIn(svg);
    svg.setAttribute("viewBox", `0 0 448 ${scene.height}`);
    svg.setAttribute("aria-label", scene.label);
    svg.innerHTML = scene.content;
    if (before.length) glide(before, svg);
  }

  /** @param {Record<string, string>} words */
  write(words) {
    for (const [key, word] of Object.entries(words)) {
      for (const place of all(`[data-out=${key}]`)) if (place.innerHTML !== word) place.innerHTML = word;
    }
  }

  /** Formulas can be walked through by keyboard. */
  makeFocusable() {
    for (const term of all(".formula .term")) term.setAttribute("tabindex", "0");
  }

  /** @param {Iterable<Element>} hidden */
  show(hidden) {
    for (const element of hidden) element.removeAttribute("hidden");
    for (const stage of all(".stage")) {
      stage.setAttribute("tabindex", "0");
      stage.setAttribute("role", "group");
      stage.setAttribute("aria-label", "picture; arrow keys move the kernel, space plays, 1 to 3 choose the filter, Enter pins");
    }
    for (const block of all(".code")) {
      const name = block.querySelector("h3")?.textContent;
      block.insertAdjacentHTML("beforeend", `<button type="button" data-do="copy" aria-label="copy: ${name}">Copy</button>`);
    }
  }

  // The link

  toLink() {
    const state = new URLSearchParams({ ...this.fields, at: `${this.player.at}`, filter: `${this.filter}`, scene: `${this.scene + 1}` });
    // A frame without an address of its own has none to change.
    try { history.replaceState(null, "", `#${state}`); } catch { /* it stays as it is */ }
  }

  /** @param {boolean} first */
  fromLink(first) {
    const state = new URLSearchParams(location.hash.slice(1)), known = this.fields;
    // A link may be to what is no layer: then the page's own is shown beside what is wrong.
    if (first) this.change(this.own);
    /** @type {Partial<Fields>} */
    const changes = {};
    for (const name of /** @type {(keyof Fields)[]} */ (Object.keys(known))) changes[name] = state.get(name) ?? known[name];
    const number = /** @param {string} name */ (name) => {
      const value = Number(state.get(name) ?? Number.NaN);
      return Number.isSafeInteger(value) && value >= 0 ? value : null;
    };
    this.filter = Math.min(number("filter") ?? 0, SHOWN - 1);
    this.scene = Math.min(Math.max((number("scene") ?? 1) - 1, 0), 3);
    this.change(changes, number("at"));
    if (state.has("scene") && first) one(`#scene-${this.scene + 1}`).scrollIntoView();
  }

  // Pointers and keys

  listen() {
    document.addEventListener("click", (event) => this.clicked(event));
    document.addEventListener("input", (event) => this.entered(event));
    document.addEventListener("focusin", (event) => this.light(event.target));
    document.addEventListener("focusout", () => this.light(null));
    document.addEventListener("pointerover", (event) => this.light(event.target));
    one("form").addEventListener("submit", (event) => event.preventDefault());
    for (const stage of all(".stage")) {
      stage.addEventListener("pointermove", (event) => this.hover(/** @type {PointerEvent} */ (event)));
      stage.addEventListener("pointerleave", () => this.leave());
      stage.addEventListener("keydown", (event) => this.pressed(/** @type {KeyboardEvent} */ (event)));
    }
    const watch = new IntersectionObserver((entries) => this.watched(entries), { rootMargin: "60px" });
    for (const svg of all("[data-scene]")) watch.observe(svg);
    const sections = new IntersectionObserver((entries) => this.reached(entries), { rootMargin: "-30% 0px -60% 0px" });
    for (const section of all(".scene")) sections.observe(section);
  }

  /** Only what can be seen is drawn. @param {IntersectionObserverEntry[]} entries */
  watched(entries) {
    for (const entry of entries) {
      const name = /** @type {SVGElement} */ (entry.target).dataset.scene ?? "";
      if (entry.isIntersecting) {
        this.seen.add(name);
        this.draw(name, new Stage(this.values, this.spot.at, this.spot.filter));
      } else {
        this.seen.delete(name);
      }
    }
  }

  /** @param {IntersectionObserverEntry[]} entries */
  reached(entries) {
    const entry = entries.find((each) => each.isIntersecting);
    if (!entry) return;
    this.scene = Number(entry.target.id.slice(-1)) - 1;
    all(".steps a").forEach((link, i) => {
      if (i === this.scene) link.setAttribute("aria-current", "step");
      else link.removeAttribute("aria-current");
    });
    if (!this.player.playing) this.toLink();
  }

  /** @param {Event} event */
  clicked(event) {
    const target = /** @type {Element} */ (event.target), link = target.closest(".steps a");
    if (link) {
      event.preventDefault();
      const section = one(`#scene-${link.textContent?.[0]}`);
      section.scrollIntoView({ behavior: stillness() ? "auto" : "smooth" });
      one(".stage", HTMLElement, section).focus({ preventScroll: true });
    }
    const doing = target.closest("[data-do]");
    if (doing) this.act(/** @type {HTMLElement} */ (doing));
    const spot = target.closest(".stage") ? spotOf(/** @type {PointerEvent} */ (event), this.g) : null;
    if (spot) this.pin(spot);
  }

  /** @param {HTMLElement} button */
  act(button) {
    const player = this.player;
    /** @type {Record<string, () => void>} */
    const acts = {
      play: () => player.toggle(),
      first: () => player.go(0),
      back: () => player.go(player.at - 1),
      forward: () => player.go(player.at + 1),
      last: () => player.go(player.count - 1),
      reset: () => this.change(this.own),
      link: () => copy(location.href, button),
      copy: () => copy(button.parentElement?.nextElementSibling?.textContent ?? "", button),
    };
    const act = button.dataset.do ?? "";
    if (act !== "play" && act in acts && !["link", "copy"].includes(act)) player.pause();
    this.unpin();
    acts[act]();
  }

  /** @param {Event} event */
  entered(event) {
    const input = /** @type {HTMLInputElement} */ (event.target);
    const { field, slides } = input.dataset;
    this.unpin();
    if (input.id === "scrub") {
      this.player.pause();
      this.player.go(Number(input.value));
    } else if (input.name === "rank") {
      this.turnInto(Number(input.value));
    } else if (slides === "size") {
      this.change({ size: Array(this.fields.size.split("x").length).fill(input.value).join("x") });
    } else if (slides) {
      this.change({ [slides]: input.value });
    } else if (field === "size" && !/x/i.test(input.value)) {
      this.change({ size: Array(this.g.rank).fill(input.value).join("x") });
    } else if (field) {
      this.change({ [field]: input.value });
    }
  }

  /** @param {PointerEvent} event */
  hover(event) {
    if (this.pinned || this.player.playing || event.pointerType === "touch") return;
    const spot = spotOf(event, this.g);
    if (spot?.at === this.hovered?.at && spot?.filter === this.hovered?.filter) return;
    this.hovered = spot;
    this.moved();
  }

  leave() {
    if (!this.hovered) return;
    this.hovered = null;
    this.moved();
  }

  /** @param {Spot} spot */
  pin(spot) {
    const again = this.pinned && spot.at === this.player.at && spot.filter === this.filter;
    this.player.pause();
    this.hovered = null;
    this.player.at = spot.at;
    this.filter = spot.filter;
    this.pinned = !again;
    this.showPin();
    this.moved();
  }

  unpin() {
    this.pinned = false;
    this.showPin();
  }

  showPin() {
    for (const stage of all(".stage")) stage.toggleAttribute("data-pinned", this.pinned);
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const player = this.player, [, y, x] = this.values.axes;
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowRight: () => player.go(player.at + 1),
      ArrowLeft: () => player.go(player.at - 1),
      ArrowDown: () => { if (player.at + x.out < player.count) player.go(player.at + x.out); },
      ArrowUp: () => { if (player.at >= x.out) player.go(player.at - x.out); },
      PageDown: () => { if (player.at + x.out * y.out < player.count) player.go(player.at + x.out * y.out); },
      PageUp: () => { if (player.at >= x.out * y.out) player.go(player.at - x.out * y.out); },
      Home: () => player.go(0),
      End: () => player.go(player.count - 1),
      " ": () => player.toggle(),
      Enter: () => this.pin({ at: player.at, filter: this.filter }),
      Escape: () => this.unpin(),
    };
    const filter = Number(event.key) - 1;
    if (filter >= 0 && filter < Math.min(SHOWN, this.g.filters)) {
      this.filter = filter;
      this.moved();
    } else if (event.key in keys && !(event.key.startsWith("Page") && this.g.rank < 3)) {
      event.preventDefault();
      if (event.key !== " ") player.pause();
      if (event.key !== "Enter") this.unpin();
      keys[event.key]();
    }
  }

  /** Light up all that belongs to the argument under the pointer or in focus. @param {EventTarget | null} target */
  light(target) {
    const found = target instanceof Element ? /** @type {HTMLElement | null} */ (target.closest("[data-term]")) : null;
    const focused = /** @type {HTMLElement | null} */ (document.activeElement?.closest("[data-term]") ?? null);
    const term = (found ?? (target ? null : focused))?.dataset.term;
    if (term) document.body.dataset.lit = term;
    else delete document.body.dataset.lit;
  }
}

/** The output pixel under a pointer. @param {PointerEvent} event @param {Layer} g @returns {Spot | null} */
function spotOf(event, g) {
  const grid = /** @type {SVGGElement | null} */ (/** @type {Element} */ (event.target).closest("[data-grid]"));
  const matrix = grid?.getScreenCTM();
  if (!grid || !matrix) return null;
  const [filter, z, y0, x0, across, down] = (grid.dataset.grid ?? "").split(" ").map(Number);
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
  const unit = g.rank === 3 ? CUBE : CELL, [rows, columns] = [1, ...g.outSpatial].slice(-2);
  const y = y0 + Math.floor((at.y - down) / unit), x = x0 + Math.floor((at.x - across) / unit);
  return y < y0 || x < x0 || y >= rows || x >= columns ? null : { at: (z * rows + y) * columns + x, filter };
}

/** Where the kernel's cells begin, in each volume of a flat scene. @param {Element} svg @returns {number[][]} */
function tapsIn(svg) {
  return Array.from(svg.querySelectorAll(".cells > .tap:not(.pad):not(.top):not(.side), .cells > .now:not(.top):not(.side)"),
    (path) => (/^M(\S+) ([\d.]+)/.exec(path.getAttribute("d") ?? "") ?? []).slice(1).map(Number));
}

/** Let the kernel glide from where it was. @param {number[][]} before @param {Element} svg */
function glide(before, svg) {
  const after = tapsIn(svg);
  if (after.length !== before.length) return;
  const paths = svg.querySelectorAll(".cells > .tap:not(.pad):not(.top):not(.side), .cells > .now:not(.top):not(.side)");
  after.forEach(([x, y], i) => {
    const dx = before[i][0] - x, dy = before[i][1] - y;
    if (dx || dy) paths[i].animate([{ transform: `translate(${dx}px, ${dy}px)` }, { transform: "none" }], 160);
  });
}

/** @param {string} text @param {HTMLElement} button */
async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = byHand(text) ? "Copied" : "Not allowed here";
  }
  window.setTimeout(() => { button.textContent = label; }, 1500);
}

/** The older way to copy, where the newer is not allowed. @param {string} text */
function byHand(text) {
  const area = document.body.appendChild(document.createElement("textarea"));
  area.value = text;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/** @param {string} html */
function plain(html) {
  return html.replaceAll(/<[^>]*>/g, "");
}

/** @param {string} selector @returns {HTMLElement[]} */
function all(selector) {
  return Array.from(document.querySelectorAll(selector));
}

/** The one element that a selector names. @template {Element} T
 * @param {string} selector @param {new () => T} kind @param {ParentNode} within @returns {T} */
function one(selector, kind = /** @type {new () => any} */ (Element), within = document) {
  const found = within.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`the page has no ${selector}`);
  return found;
}
