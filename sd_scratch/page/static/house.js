// The architecture, drawn from the list of tensors: a box for each part, where it stands in the U.

const SVG = "http://www.w3.org/2000/svg";
const WIDE = 48, WIDER = 56, HIGH = 26, GAP = 6, LEFT = 2, TOP = 22;
const TITLE = 600; // what a title needs
const MANY = 22; // columns that find room on a screen

function part(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// Which box a tensor belongs to.
export function boxOf(name) {
  const block = /^(unet|control\w*)\.(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|attentions|concat|downsamplers|upsamplers)\.(\d+)/.exec(name);
  if (block) {
    const kind = block[3] === "concat" ? "resnets" : block[3];
    return `${block[1]}.${block[2]}.${kind}.${block[4]}`;
  }
  if (/^unet\.(x|t|context|time_proj|time_embedding)/.test(name)) return "unet inputs";
  if (name === "unet.h") return "unet.h";
  if (/^unet\.(norm_out|conv_norm_out|conv_out|pred|eps)/.test(name)) return "unet output";
  const layer = /^text\.(embeddings|encoder\.layers\.\d+)/.exec(name);
  if (layer) return layer[0];
  const vae = /^vae\.(encoder|decoder)\.(down_blocks\.\d+|mid_block|up_blocks\.\d+)/.exec(name);
  if (vae) return vae[0];
  if (/^vae\.(encoder|moments|mean|logvar|quant_conv)/.test(name)) return "vae.encoder";
  if (name.startsWith("vae.")) return "vae.decoder";
  if (name === "text.token_ids") return "text.ids";
  if (name.startsWith("text.")) return "text output";
  return /^unet\.\w+/.exec(name)?.[0] ?? name.split(".")[0];
}

function titleOf(box) {
  const last = box.split(".");
  if (box.includes(".resnets.")) return `res ${last.at(-1)}`;
  if (box.includes(".attentions.")) return `attn ${last.at(-1)}`;
  if (box.includes(".downsamplers.")) return "down";
  if (box.includes(".upsamplers.")) return "up";
  if (box.startsWith("text.encoder")) return `layer ${last.at(-1)}`;
  if (/^vae\..*_blocks?/.test(box)) return box.includes("mid") ? "mid" : `${last.at(-2).split("_")[0]} ${last.at(-1)}`;
  return { "text.ids": "ids", "text.embeddings": "embed", "text output": "context", "unet inputs": "inputs", "unet output": "output", "unet.conv_in": "conv in", "unet.h": "h", "vae.encoder": "latent", "vae.decoder": "picture" }[box] ?? last.at(-1);
}

// The whole name of a box, for a title and for those who hear the page.
export function fullTitle(box) {
  const words = box.replace("_blocks.", " block ").replace("mid_block", "middle block").replace(/resnets\.(\d+)/, "residual block $1").replace(/attentions\.(\d+)/, "transformer $1").replace("downsamplers.0", "downsampler").replace("upsamplers.0", "upsampler").replaceAll(".", ", ");
  return words.replace("unet", "U-Net").replace("vae", "autoencoder").replace(/^text/, "text encoder");
}

function kindOf(box) {
  if (box.includes("resnets")) return "res";
  if (box.includes("attentions") || box.startsWith("text.encoder")) return "attn";
  return "other";
}

const ENDS = ["text output", "unet output", "vae.encoder", "vae.decoder"]; // stand where their last tensor is made

// Boxes in the order in which their tensors are made: {name, tensors, hw}.
export function boxesOf(tensors) {
  const boxes = new Map();
  for (const [place, tensor] of tensors.entries()) {
    const name = boxOf(tensor.name);
    if (!boxes.has(name)) boxes.set(name, { name, tensors: [], hw: null, place });
    const box = boxes.get(name);
    box.tensors.push(tensor);
    box.hw ??= tensor.hw;
    if (ENDS.includes(name)) box.place = place;
  }
  return [...boxes.values()].sort((a, b) => a.place - b.place);
}

const blockOf = (box) => /\.((?:down_blocks|up_blocks)\.\d+|mid_block)\.(?:resnets|attentions)\./.exec(box.name)?.[1];

// The columns of the U-Net, from left to right: {level, boxes}. A transformer stands under its residual block; with more
// than two boxes in a column, so does the next pair of the same block.
function columnsOf(unet, sides, most) {
  const columns = [];
  for (const box of unet) {
    const level = box.hw ? sides.indexOf(box.hw[0]) : 0, last = columns.at(-1), block = blockOf(box);
    const fits = block && last?.block === block && last.boxes.length < most;
    if (fits && (most > 2 || box.name.includes(".attentions."))) last.boxes.push(box);
    else columns.push({ level, block, boxes: [box] });
  }
  return columns;
}

// Place every box: a row for text, the U of the U-Net by the size of its feature maps, and the rest in a row.
function arrange(boxes) {
  const placed = [], skips = [], titles = [];
  const unet = boxes.filter((box) => box.name.startsWith("unet"));
  const sides = [...new Set(unet.filter((box) => box.hw).map((box) => box.hw[0]))].sort((a, b) => b - a);
  const row = (title, chosen, y) => {
    if (!chosen.length) return;
    titles.push({ title, x: LEFT, y: y - 6 });
    chosen.forEach((box, i) => placed.push({ box, x: LEFT + i * (WIDER + GAP), y, wide: WIDER }));
  };
  row("Text encoder", boxes.filter((box) => box.name.startsWith("text")), TOP);
  titles.push({ title: "U-Net, the way down on the left and up on the right; the lower a box, the smaller its feature maps", x: LEFT, y: TOP + HIGH + 28 });
  let columns = columnsOf(unet, sides, 2);
  if (columns.length > MANY) columns = columnsOf(unet, sides, 4);
  const tops = [];
  let y = TOP + HIGH + 58;
  for (let level = 0; level < Math.max(sides.length, 1); level++) {
    tops.push(y);
    y += Math.max(2, ...columns.filter((column) => column.level === level).map((column) => column.boxes.length)) * (HIGH + GAP / 2) + 2 * GAP;
  }
  const waiting = [];
  columns.forEach((column, i) => column.boxes.forEach((box, n) => {
    const place = { box, x: LEFT + i * (WIDE + GAP), y: tops[column.level] + n * (HIGH + GAP / 2), top: tops[column.level], n };
    placed.push(place);
    const up = box.name.includes("up_blocks") && box.name.includes("resnets");
    if (up && waiting.length) skips.push([waiting.pop(), place]);
    if (/conv_in|down_blocks\.\d+\.(resnets|downsamplers)/.test(box.name)) waiting.push(place);
  }));
  const rest = boxes.filter((box) => !/^(text|unet|vae)/.test(box.name));
  row("Guidance and sampler", rest, y + 22);
  y += 22 + HIGH + 34;
  row("Autoencoder", boxes.filter((box) => box.name.startsWith("vae")), y);
  const width = Math.max(TITLE, ...placed.map(({ x, wide = WIDE }) => x + wide)) + LEFT;
  return { placed, skips, titles, width, height: y + HIGH + 10 };
}

export class House {
  constructor(element, tensors, onOpen) {
    this.boxes = boxesOf(tensors);
    const { placed, skips, titles, width, height } = arrange(this.boxes);
    const svg = part("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "presentation" });
    for (const [from, to] of skips) { // behind the boxes, each on a track of its own
      const y = from.top - 4 - 2 * (skips.filter(([f]) => f.top === from.top).findIndex(([f]) => f === from) % 4);
      const [left, right] = [from, to].map(({ x, n }) => x + WIDE / 2 + 4 * n);
      svg.append(part("path", { class: "skip", d: `M${left} ${from.y}V${y}H${right}V${to.y}` }));
    }
    for (const { title, x, y } of titles) svg.append(part("text", { class: "title", x, y }, title));
    this.nodes = placed.map(({ box, x, y, wide = WIDE }, i) => {
      const size = box.hw ? `, ${box.hw.join(" by ")}` : "";
      const node = part("g", { class: `box ${kindOf(box.name)}`, role: "button", tabindex: i ? -1 : 0, "aria-pressed": "false", "aria-label": `${titleOf(box.name)}: ${fullTitle(box.name)}${size}, ${box.tensors.length} tensors`, transform: `translate(${x} ${y})` });
      node.append(part("title", {}, `${box.name}${size}`), part("rect", { width: wide, height: HIGH, rx: 4 }), part("text", { x: wide / 2, y: HIGH / 2 + 4, "text-anchor": "middle" }, titleOf(box.name)));
      node.addEventListener("click", () => this.open(i));
      node.addEventListener("keydown", (event) => this.key(event, i));
      svg.append(node);
      return { node, box };
    });
    this.onOpen = onOpen;
    element.replaceChildren(svg);
  }

  key(event, i) {
    const last = this.nodes.length - 1;
    const to = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: last }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const next = Math.min(Math.max(to, 0), last);
      this.nodes.forEach(({ node }, n) => node.setAttribute("tabindex", n === next ? 0 : -1));
      this.nodes[next].node.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.open(i);
    }
  }

  open(i) {
    this.nodes.forEach(({ node }, n) => {
      node.setAttribute("aria-pressed", String(n === i));
      node.setAttribute("tabindex", n === i ? 0 : -1);
    });
    this.onOpen(this.nodes[i].box);
  }
}
