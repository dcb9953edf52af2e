// The open box: its tensors by name, and the numbers of one of them, drawn.

import { grid, legend, matrix, scaleOf, short } from "./draw.js";
import { fullTitle } from "./house.js";

const $ = (id) => document.getElementById(id);
const FIGURES = 48; // more maps than that share one canvas
const BRANCHES = { cond: "with the prompt", uncond: "without, or negative", pictured: "with the picture alone" };
const LARGE = { maps: 96, table: 4 };

export class Inside {
  // `ask(name, step, branch, place)` asks the engine for a tensor; `heads` tells and changes which heads are off.
  constructor({ ask, heads, edit }) {
    Object.assign(this, { ask, heads, edit, box: null, tensor: null, view: null, place: null });
    $("branch").addEventListener("change", () => this.refresh());
    for (const id of ["head", "scale"]) $(id).addEventListener("change", () => this.draw());
    $("edit-this").addEventListener("click", () => this.edit(this.tensor.name));
  }

  open(box) {
    this.box = box;
    $("panel").hidden = false;
    $("box-title").textContent = fullTitle(box.name);
    const likely = box.tensors.find((t) => t.name.endsWith("attn2.probs")) ?? box.tensors.find((t) => t.leaf === "out") ?? box.tensors.at(-1);
    $("leaves").replaceChildren(...box.tensors.map((tensor) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = shortName(tensor.name, box.name);
      button.title = `${tensor.name}: ${tensor.meaning}`;
      button.dataset.name = tensor.name;
      button.addEventListener("click", () => this.choose(tensor));
      return button;
    }));
    this.choose(likely);
  }

  choose(tensor) {
    this.tensor = tensor;
    this.place = null;
    this.view = null;
    for (const button of $("leaves").children) button.setAttribute("aria-pressed", String(button.dataset.name === tensor.name));
    $("tensor-name").textContent = tensor.name;
    $("tensor-facts").textContent = factsOf(tensor);
    $("view").replaceChildren();
    $("source").hidden = true;
    $("readout").textContent = "";
    $("edit-this").hidden = !tensor.editable;
    $("branch-choice").hidden = !tensor.branched;
    for (const id of ["head-choice", "scale-choice"]) $(id).hidden = true;
    this.switches();
    this.refresh();
  }

  // What is open, as the engine knows it; null where nothing is.
  get name() {
    return this.tensor?.name ?? null;
  }

  refresh() {
    if (this.tensor) this.ask(this.tensor.name, $("branch").value, this.place);
  }

  // A tensor has come.
  show(head, body) {
    if (head.name !== this.name) return;
    const values = new Float32Array(body.buffer.slice(body.byteOffset, body.byteOffset + body.byteLength));
    this.view = { ...head, values };
    const s = head.statistics;
    const step = head.step === null ? "once in a run" : `call ${head.step + 1}`;
    const strange = s.not_finite ? `, ${s.not_finite} not finite` : "";
    const left = head.left_out ? `; ${head.left_out} more found no room` : "";
    $("tensor-facts").textContent = `${factsOf(this.tensor)} Now: ${step}${head.branch ? `, ${head.branch}` : ""}; ${head.size.join(" x ") || "one number"}; min ${short(s.min)}, max ${short(s.max)}, mean ${short(s.mean)}, deviation ${short(s.std)}${strange}${left}.`;
    this.offer(head.branches);
    $("source").hidden = !head.source;
    $("source").textContent = head.source ? `${head.source[0]}  ${head.source[1]}` : "";
    const heads = head.axes.indexOf("head");
    const choice = $("head-choice");
    choice.hidden = heads !== 0 || head.kind === "number";
    if (!choice.hidden && $("head").children.length !== head.shape[0] + 1) {
      $("head").replaceChildren(new Option("mean of all", "mean"), ...Array.from({ length: head.shape[0] }, (_, i) => new Option(`head ${i}`, i)));
    }
    this.draw();
  }

  // The branches that this tensor was made in.
  offer(branches) {
    const select = $("branch"), known = [...select.options].map(({ value }) => value);
    if (branches.some((branch) => branch === null) || branches.every((branch) => known.includes(branch))) return;
    const chosen = select.value;
    select.replaceChildren(...["cond", "uncond", "pictured"].filter((branch) => branches.includes(branch)).map((branch) => new Option(BRANCHES[branch], branch)));
    if (branches.includes(chosen)) select.value = chosen;
  }

  // The view without its axis of heads: one head's, or their mean.
  ofHead() {
    const { axes, shape, values } = this.view;
    if (axes[0] !== "head") return { axes, shape, values };
    const rest = shape.slice(1), size = rest.reduce((a, b) => a * b, 1), chosen = $("head").value;
    const one = new Float32Array(size);
    if (chosen === "mean") {
      for (let h = 0; h < shape[0]; h++) for (let i = 0; i < size; i++) one[i] += values[h * size + i] / shape[0];
    } else one.set(values.subarray(Number(chosen) * size, (Number(chosen) + 1) * size));
    return { axes: axes.slice(1), shape: rest, values: one };
  }

  draw() {
    if (!this.view) return;
    const { kind, labels } = this.view;
    const { axes, shape, values } = this.ofHead();
    const target = $("view");
    if (kind === "number") {
      const text = document.createElement("p");
      text.textContent = short(values[0]);
      target.replaceChildren(text);
      return;
    }
    const scale = scaleOf(values);
    const [rows, columns] = kind === "bars" ? [1, shape[0]] : shape.slice(-2);
    const count = values.length / (rows * columns);
    const names = axes.length > 2 ? labels[axes[0]] : null;
    const figures = kind === "maps" && count <= FIGURES, each = figures && count > 1;
    $("scale-choice").hidden = !each;
    const own = each && $("scale").value === "each";
    const parts = own ? [] : [legend(scale)];
    if (figures) parts.push(this.figures(values, own ? null : scale, count, rows, columns, names, axes[0]));
    else parts.push(this.canvas(values, scale, count, rows, columns, kind, axes, labels));
    if (names && axes[0] === "word") parts.push(this.looks(values, count, rows, columns, names));
    if (kind === "maps" && this.view.masks?.length) parts.splice(own ? 1 : 2, 0, this.truth(rows, columns));
    target.replaceChildren(...parts);
  }

  // Where the objects are: beside it a map can be seen to lie.
  truth(rows, columns) {
    const part = document.createElement("div"), title = document.createElement("h4"), tiles = document.createElement("div");
    title.className = "plain";
    title.textContent = "True masks: where the oracle finds each object in the finished picture";
    tiles.className = "tiles masks";
    for (const [name, percent] of this.view.masks) {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
      matrix(canvas, percent, 0, rows, columns, { low: 0, high: 100, palette: scaleOf([1]).palette });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Mask of the ${name}: ${extremes(percent, 0, rows, columns)}`);
      caption.textContent = name;
      figure.append(canvas, caption);
      tiles.append(figure);
    }
    part.append(title, tiles);
    return part;
  }

  // Without a scale each map has its own, and its caption says how far it goes.
  figures(values, scale, count, rows, columns, names, axis) {
    const tiles = document.createElement("div");
    tiles.className = "tiles";
    for (let n = 0; n < count; n++) {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
      const own = scale ?? scaleOf(values.subarray(n * rows * columns, (n + 1) * rows * columns));
      matrix(canvas, values, n * rows * columns, rows, columns, own);
      const title = names?.[n] ?? (count > 1 ? `${axis} ${n}` : "");
      caption.textContent = title;
      if (!scale) caption.append(Object.assign(document.createElement("small"), { textContent: `${own.low < 0 ? "±" : "to"} ${Number(own.high.toPrecision(2))}` }));
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${title}: ${extremes(values, n, rows, columns)}`);
      this.follow(canvas, (x, y) => {
        const row = Math.min(Math.floor(y * rows), rows - 1), column = Math.min(Math.floor(x * columns), columns - 1);
        this.point(`${title || "value"} at row ${row + 1}, column ${column + 1}: ${short(values[n * rows * columns + row * columns + column])}`, row, column);
      });
      figure.append(canvas, caption);
      tiles.append(figure);
    }
    return tiles;
  }

  canvas(values, scale, count, rows, columns, kind, axes, labels) {
    const canvas = document.createElement("canvas");
    canvas.className = "grid";
    const each = Math.max(Math.min(Math.round(LARGE.maps / Math.max(rows, columns)), 8), kind === "maps" ? 2 : LARGE.table);
    const room = Math.max(document.getElementById("view").clientWidth, 240);
    const across = kind === "maps" ? Math.max(Math.floor(room / (each * (columns + 1))), 1) : 1;
    if (kind === "bars") {
      const wrapped = Math.max(Math.floor(room / 6), 8);
      return this.bars(values, scale, wrapped);
    }
    grid(canvas, values, count, rows, columns, across, scale);
    canvas.style.width = `${canvas.width * each}px`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${count} of ${rows} by ${columns}: ${axes.join(", ")}`);
    this.follow(canvas, (x, y) => {
      const px = Math.floor(x * canvas.width), py = Math.floor(y * canvas.height);
      const n = Math.floor(py / (rows + 1)) * across + Math.floor(px / (columns + 1)), row = py % (rows + 1), column = px % (columns + 1);
      if (n >= count || row >= rows || column >= columns) return;
      const place = kind === "table" ? `${at(labels, axes.at(-2), row)}, ${at(labels, axes.at(-1), column)}` : `row ${row + 1}, column ${column + 1}`;
      const which = count > 1 ? `${axes.length > 2 ? axes[0] : "map"} ${n}, ` : "";
      this.point(`${which}${place}: ${short(values[n * rows * columns + row * columns + column])}`, row, column);
    });
    return canvas;
  }

  bars(values, scale, across) {
    const canvas = document.createElement("canvas");
    canvas.className = "grid";
    const rows = Math.ceil(values.length / across);
    const padded = new Float32Array(rows * across).fill(0);
    padded.set(values);
    matrix(canvas, padded, 0, rows, across, scale);
    canvas.style.width = `${across * 6}px`;
    canvas.style.height = `${rows * 14}px`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${values.length} numbers in ${rows} rows`);
    this.follow(canvas, (x, y) => {
      const i = Math.floor(y * rows) * across + Math.floor(x * across);
      if (i < values.length) this.point(`channel ${i}: ${short(values[i])}`);
    });
    return canvas;
  }

  // What a place of the picture looks at, word by word; it follows the pointer.
  looks(values, count, rows, columns, names) {
    const list = document.createElement("div");
    list.className = "looks";
    const meters = names.map((name) => {
      const row = document.createElement("div"), meter = document.createElement("meter"), label = document.createElement("span"), number = document.createElement("span");
      label.textContent = name;
      meter.max = 1;
      meter.setAttribute("aria-label", name);
      row.append(label, meter, number);
      list.append(row);
      return [meter, number];
    });
    const part = document.createElement("details"), title = document.createElement("summary");
    part.open = matchMedia("(min-width: 44rem)").matches;
    part.className = "place";
    part.append(title, list);
    this.lookAt = (row, column) => {
      title.textContent = `What the place at row ${row + 1}, column ${column + 1} looks at`;
      meters.forEach(([meter, number], n) => {
        const value = values[n * rows * columns + row * columns + column];
        meter.value = value;
        number.textContent = short(value);
      });
    };
    this.lookAt(Math.floor(rows / 2), Math.floor(columns / 2));
    return part;
  }

  point(text, row, column) {
    $("readout").textContent = text;
    if (this.view.axes.includes("word")) this.lookAt?.(row, column);
  }

  // The pointer, and the arrow keys once the canvas has the focus; a click chooses the query of a self-attention.
  follow(canvas, tell) {
    canvas.tabIndex = 0;
    let x = 0.5, y = 0.5;
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      if (x >= 0 && x < 1 && y >= 0 && y < 1) tell(x, y);
    });
    const choose = () => {
      const { place, shape } = this.view;
      if (place === null) return;
      const [rows, columns] = shape.slice(-2);
      this.place = Math.floor(y * rows) * columns + Math.floor(x * columns);
      this.refresh();
    };
    canvas.addEventListener("click", choose);
    canvas.addEventListener("keydown", (event) => {
      const go = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Enter") choose();
      if (!go) return;
      event.preventDefault();
      x = Math.min(Math.max(x + go[0] / canvas.width, 0), 0.999);
      y = Math.min(Math.max(y + go[1] / canvas.height, 0), 0.999);
      tell(x, y);
    });
  }

  // A switch for each head of the attention whose tensor is open.
  switches() {
    const target = $("head-switches"), axis = this.tensor.axes.indexOf("head");
    target.hidden = axis < 0 || !/\.(q|k|v|scores|probs|z|result)$/.test(this.tensor.name);
    if (target.hidden) return;
    const name = this.tensor.name.replace(/\.\w+$/, ".z"), off = this.heads.off(name);
    target.replaceChildren(...Array.from({ length: this.tensor.shape[axis] }, (_, head) => {
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !off.includes(head);
      box.addEventListener("change", () => this.heads.turn(name, head, box.checked));
      label.append(box, `head ${head} on`);
      return label;
    }));
  }
}

function extremes(values, n, rows, columns) {
  const part = values.slice(n * rows * columns, (n + 1) * rows * columns);
  let best = 0;
  part.forEach((value, i) => {
    if (value > part[best]) best = i;
  });
  return `largest ${short(part[best])}, at row ${Math.floor(best / columns) + 1}, column ${(best % columns) + 1} of ${rows} by ${columns}`;
}

const at = (labels, axis, i) => `${axis} ${i}${labels[axis]?.[i] ? ` ${labels[axis][i]}` : ""}`;

function shortName(name, box) {
  const start = box.split(/[ .]/).at(-2) ? box.replace(/ .*/, "") : box;
  const rest = name.startsWith(`${start}.`) ? name.slice(start.length + 1) : name;
  return rest.replace("transformer_blocks.0.", "");
}

const factsOf = (tensor) => `${tensor.meaning[0].toUpperCase()}${tensor.meaning.slice(1)}. Axes: ${tensor.axes.slice(1).join(", ") || "none"}.`;
