// The kernel's way over the output pixels: where it is, and whether it moves by itself.

// Milliseconds from step to step, and for a reader who wants little motion.
const STEP = 450;
const SLOW_STEP = 1100;

/** Keeps a position from 0 up to `count`, and calls `moved` whenever it changes or starts or stops playing. */
export class Player {
  /** @param {() => void} moved */
  constructor(moved) {
    this.moved = moved;
    this.at = 0;
    this.count = 1;
    /** @type {number | null} */
    this.timer = null;
  }

  get playing() { return this.timer !== null; }

  /** @param {number} at */
  go(at) {
    const next = Math.min(Math.max(at, 0), this.count - 1);
    if (next === this.at) return;
    this.at = next;
    this.moved();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.at === this.count - 1) this.at = 0;
    const step = stillness() ? SLOW_STEP : STEP;
    this.timer = window.setInterval(() => {
      if (this.at >= this.count - 1) this.pause();
      else this.go(this.at + 1);
    }, step);
    this.moved();
  }

  pause() {
    if (this.timer === null) return;
    window.clearInterval(this.timer);
    this.timer = null;
    this.moved();
  }
}

/** Whether the reader has asked for little motion. */
export function stillness() {
  return window.matchMedia("(prefers-reduced-motion: reduce)").matches;
}
