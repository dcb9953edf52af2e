// Moving among prompts: a plane with landmarks, and a handle that is dragged, driven by keys or by a gamepad.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = 14, TRAIL = 60, KEY_STEP = 4, DEAD = 0.15, LABEL = 22;

function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// What sets each prompt apart: its words without those that all of them have.
export function labels(prompts) {
  const each = prompts.map((prompt) => prompt.split(/\s+/).filter(Boolean));
  const shared = each[0]?.filter((word) => each.every((words) => words.includes(word))) ?? [];
  return each.map((words, i) => {
    const own = words.filter((word) => !shared.includes(word)).join(" ") || prompts[i];
    return own.length > LABEL ? `${own.slice(0, LABEL - 1)}…` : own;
  });
}

export class Move {
  // `onMove(place)` is told of every new place, `onLeave()` when the prompt alone counts again.
  constructor({ askPlane, onMove, onLeave }) {
    Object.assign(this, { askPlane, onMove, onLeave, prompts: [], marks: [], at: null, trail: [], handle: [50, 37.5] });
    const pad = $("pad");
    pad.addEventListener("pointerdown", (event) => {
      if (!this.marks.length) return;
      pad.setPointerCapture(event.pointerId);
      this.pull(event);
    });
    pad.addEventListener("pointermove", (event) => {
      if (pad.hasPointerCapture(event.pointerId)) this.pull(event);
    });
    pad.addEventListener("keydown", (event) => {
      const go = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!go || !this.marks.length) return;
      event.preventDefault();
      this.go(this.handle[0] + KEY_STEP * go[0], this.handle[1] + KEY_STEP * go[1]);
    });
    for (const id of ["across", "up"]) $(id).addEventListener("input", () => this.go(50 + Number($("across").value) / 2, 37.5 - (Number($("up").value) * 37.5) / 100));
    $("use").addEventListener("click", () => this.use($("landmarks").value.split("\n").map((line) => line.trim()).filter(Boolean)));
    $("leave").addEventListener("click", () => {
      this.rest();
      this.onLeave();
    });
    window.addEventListener("gamepadconnected", () => this.pads());
  }

  use(prompts) {
    this.prompts = prompts;
    $("landmarks").value = prompts.join("\n");
    this.askPlane(prompts);
  }

  // Where the landmarks stand: [n][2], or [n][1] for two prompts.
  show(places) {
    const flat = places.map(([x, y]) => [x, y ?? 0]);
    const spans = [0, 1].map((axis) => flat.map((place) => place[axis]));
    const [lows, highs] = [spans.map((v) => Math.min(...v)), spans.map((v) => Math.max(...v))];
    const room = [100 - 2 * MARGIN, 75 - 2 * MARGIN];
    this.unit = Math.max((highs[0] - lows[0]) / room[0], (highs[1] - lows[1]) / room[1]) || 1;
    this.middle = [0, 1].map((axis) => (lows[axis] + highs[axis]) / 2);
    this.dimensions = places[0].length;
    this.marks = flat.map((place) => this.toPad(place));
    this.trail = [];
    for (const id of ["across", "up"]) $(id).disabled = id === "up" && this.dimensions < 2;
    if (this.wanted) {
      this.handle = this.toPad([...this.wanted, 0]);
      this.at = this.wanted;
      this.wanted = null;
    } else if (!this.at) this.handle = [...this.marks[0]];
    this.draw();
  }

  toPad([x, y]) {
    return [50 + (x - this.middle[0]) / this.unit, 37.5 - (y - this.middle[1]) / this.unit];
  }

  pull(event) {
    const box = $("pad").getBoundingClientRect();
    this.go((100 * (event.clientX - box.left)) / box.width, (75 * (event.clientY - box.top)) / box.height);
  }

  go(x, y) {
    const clamp = (value, most) => Math.min(Math.max(value, 0), most);
    this.handle = [clamp(x, 100), this.dimensions < 2 ? 37.5 : clamp(y, 75)];
    const near = this.marks.findIndex((mark) => Math.hypot(mark[0] - this.handle[0], mark[1] - this.handle[1]) < 1.5);
    if (near >= 0) this.handle = [...this.marks[near]];
    this.at = [this.middle[0] + (this.handle[0] - 50) * this.unit, this.middle[1] - (this.handle[1] - 37.5) * this.unit].slice(0, this.dimensions);
    this.trail.push(this.handle.join(" "));
    this.trail = this.trail.slice(-TRAIL);
    this.draw(near);
    this.onMove({ prompts: this.prompts, at: this.at });
  }

  // Nothing is held any more.
  rest() {
    if (!this.at) return;
    this.at = null;
    this.trail = [];
    if (this.marks.length) this.handle = [...this.marks[0]];
    this.draw();
  }

  draw(near = -1) {
    const svg = $("plane");
    svg.setAttribute("viewBox", "0 0 100 75");
    const parts = [node("polyline", { class: "trail", points: this.trail.join(" ") })];
    const names = labels(this.prompts);
    this.marks.forEach(([x, y], i) => {
      const right = x > 50;
      parts.push(node("circle", { class: "mark", cx: x, cy: y, r: 1.6 }), node("text", { x: right ? x - 4 : x + 4, y: y + 1.4, "text-anchor": right ? "end" : "start" }, names[i]));
    });
    parts.push(node("circle", { class: "handle", cx: this.handle[0], cy: this.handle[1], r: 2.6 }));
    svg.replaceChildren(...parts);
    $("across").value = 2 * (this.handle[0] - 50);
    $("up").value = (100 * (37.5 - this.handle[1])) / 37.5;
    $("leave").disabled = !this.at;
    const here = near >= 0 ? `At "${this.prompts[near]}".` : this.at ? "Between the landmarks." : "At the prompt: the handle is not held.";
    $("place").textContent = here;
  }

  // A gamepad's first stick moves the handle as long as it is out of its middle.
  pads() {
    if (this.polling) return;
    this.polling = true;
    const poll = () => {
      const found = [...navigator.getGamepads()].find(Boolean);
      if (!found) {
        this.polling = false;
        return;
      }
      const [x, y] = found.axes;
      if (this.marks.length && Math.hypot(x, y) > DEAD) this.go(this.handle[0] + x, this.handle[1] + y);
      requestAnimationFrame(poll);
    };
    poll();
  }
}
