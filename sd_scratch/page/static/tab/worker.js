// The engine in the tab, behind the messages of docs/page.md: the newest wish of each kind wins.

import { Cancelled, TabEngine } from "./engine.js";
import { EDITS, readEdits } from "./edits.js";
import { Plane } from "./plane.js";
import { withTexts } from "./png.js";
import { SAMPLERS } from "./sampler.js";
import { statistics, view } from "./views.js";

const LIMITS = { text: 2000, steps: 150, edits: 32, places: 16, guidance: 1000, seed: 2 ** 32 - 1 };
const RECIPE = ["prompt", "negative_prompt", "seed", "steps", "guidance", "sampler", "width", "height"];
const EXAMPLES = ["a medium yellow triangle to the left of a small blue ring on a white background", "a large red star on a blue background", "a small green circle above a large purple square on a white background"];
const LANDMARKS = ["a large red circle on a white background", "a large blue circle on a white background", "a large red star on a white background", "a large blue star on a white background"];

const LACKS = `This page runs in the tab. It has the samplers ${SAMPLERS.join(", ")}, one size, and edits of words, of the text's vectors and of cross-attention; sd-scratch page has also the other samplers and spacings, weights in brackets, edits of every tensor, a picture to begin with, masks and LoRAs, the oracle's reading and masks, the line of source, and tensors to save.`;

let engine = null, last = null, running = null, busy = false;
const waiting = new Map(), planes = new Map();

class Refusal extends Error {}

function refuse(text) {
  throw new Refusal(text);
}

const answer = (head, body = null) => self.postMessage({ head, body });
// A worker hears nothing while wasm computes: let messages in.
const breath = () => new Promise((resolve) => setTimeout(resolve));

self.onmessage = ({ data }) => {
  if (data.do === "cancel") {
    for (const { id } of waiting.values()) answer({ say: "skipped", id });
    waiting.clear();
    running?.stop.abort();
    answer({ say: "cancelled", id: data.id });
    return;
  }
  const old = waiting.get(data.do);
  if (old) answer({ say: "skipped", id: old.id });
  waiting.delete(data.do);
  waiting.set(data.do, data);
  if (data.do === "run" && running && !(data.live && running.live)) running.stop.abort();
  work();
};

async function work() {
  if (busy || !engine) return;
  busy = true;
  while (waiting.size) {
    const [kind, message] = waiting.entries().next().value;
    waiting.delete(kind);
    try {
      if (!(kind in SERVED)) refuse(`the engine in the tab does not know '${kind}'`);
      await SERVED[kind](message);
    } catch (error) {
      const { id } = message;
      if (error instanceof Cancelled) answer({ say: "stopped", id });
      else answer({ say: "error", id, text: error instanceof Refusal || error instanceof RangeError ? error.message : `the run failed (${error.message}) - reload the page` });
    }
    running = null;
  }
  busy = false;
}

// What a message asks for ----------------------------------------------------------------------

function textOf(value, name) {
  if (typeof value !== "string") refuse(`${name} must be a text`);
  if (value.length > LIMITS.text) refuse(`the prompt has ${value.length} characters, and the page takes ${LIMITS.text} - shorten it`);
  if (/[()[\]]|\bBREAK\b/.test(value)) refuse("the engine in the tab reads plain words: weights in brackets and BREAK need sd-scratch page");
  return value;
}

function whole(value, name, low, high) {
  if (!Number.isInteger(value) || value < low || value > high) refuse(`${name} must be a whole number from ${low} to ${high}`);
  return value;
}

function settingsOf({ recipe, edits = [], place = null }) {
  const { manifest } = engine;
  for (const key of Object.keys(recipe)) if (!RECIPE.includes(key)) refuse(`the engine in the tab has no '${key}' - sd-scratch page has it`);
  if (!SAMPLERS.includes(recipe.sampler ?? "ddim")) refuse(`the engine in the tab has the samplers ${SAMPLERS.join(", ")} - sd-scratch page has '${recipe.sampler}'`);
  for (const side of ["width", "height"]) if ((recipe[side] ?? manifest[side]) !== manifest[side]) refuse(`${side} must be ${manifest[side]} in the tab`);
  const guidance = recipe.guidance ?? manifest.guidance;
  if (!(Math.abs(guidance) <= LIMITS.guidance)) refuse(`guidance must be a number up to ${LIMITS.guidance}`);
  const settings = {
    prompt: textOf(recipe.prompt ?? "", "prompt"),
    negative: textOf(recipe.negative_prompt ?? "", "negative prompt"),
    seed: whole(recipe.seed ?? 0, "seed", 0, LIMITS.seed),
    steps: whole(recipe.steps ?? manifest.steps, "steps", 1, LIMITS.steps),
    sampler: recipe.sampler ?? "ddim",
    guidance,
  };
  const encoding = engine.tokenizer.encode(place ? place.prompts[0] : settings.prompt);
  const encodings = { cond: encoding, uncond: engine.tokenizer.encode(settings.negative) };
  return { ...settings, place, encoding, edits: readEdits(edits, encodings, manifest.factors.layers) };
}

async function planeOf(prompts) {
  if (!Array.isArray(prompts) || prompts.length < 2 || prompts.length > LIMITS.places || new Set(prompts).size < prompts.length) refuse("a plane needs two prompts at least, and no two that are equal");
  const key = JSON.stringify(prompts);
  if (!planes.has(key)) {
    const rows = [];
    for (const prompt of prompts) {
      const both = await engine.context(textOf(prompt, "prompt"));
      rows.push(both.slice(both.length / 2));
    }
    planes.clear();
    planes.set(key, new Plane(rows));
  }
  return planes.get(key);
}

async function make(settings, tensors, onStep, stop) {
  const wanted = { ...settings, tensors };
  if (settings.place) {
    const context = Float32Array.from(await engine.context(settings.place.prompts[0], settings.negative));
    context.set((await planeOf(settings.place.prompts)).at(settings.place.at), context.length / 2);
    wanted.context = context;
  }
  return engine.run(wanted, async (step) => {
    await onStep(step);
    await breath();
  }, stop.signal);
}

function rgb(pixels) {
  const made = new Uint8Array((3 * pixels.length) / 4);
  for (let i = 0; i < pixels.length / 4; i++) made.set(pixels.subarray(4 * i, 4 * i + 3), 3 * i);
  return made;
}

const SERVED = {
  async words({ id, prompt }) {
    const { tokens, words, cut } = engine.tokenizer.encode(textOf(prompt, "prompt"));
    const notes = cut ? [`${cut} tokens are not read: the model takes ${engine.manifest.tokens - 2}.`] : [];
    answer({ say: "words", id, prompt, tokens: tokens.map((t) => [t.text, t.id, t.start, t.end, t.position]), words: words.map((w) => [w.text, w.start, w.end, w.positions]), cut: "", notes });
  },
  async plane({ id, prompts }) {
    const { places, explained } = await planeOf(prompts);
    answer({ say: "plane", id, places, explained });
  },
  async run(message) {
    const { id, live = false, previews = true, watch = [] } = message;
    const settings = settingsOf(message), { width, height } = engine.manifest;
    const stop = new AbortController();
    running = { live, stop };
    answer({ say: "running", id });
    const moments = [], kept = new Map(watch.filter((name) => rowOf(name)).map((name) => [name, []]));
    const latent = await make(settings, [...kept.keys()], async ({ index, total, t, x0, tensors }) => {
      const alphaBar = engine.manifest.alpha_bars[t], sigma = Math.sqrt((1 - alphaBar) / alphaBar);
      moments.push([t, sigma]);
      for (const [name, steps] of kept) steps.push(tensors[name].data);
      const head = { say: "step", id, index, of: total, t, sigma };
      if (previews) answer({ ...head, width, height, coarse: false }, rgb(await engine.decode(x0)));
    }, stop);
    const pixels = await engine.decode(latent), body = rgb(pixels);
    const recipe = { prompt: settings.prompt, negative_prompt: settings.negative, seed: settings.seed, steps: settings.steps, sampler: settings.sampler, guidance: settings.guidance, width, height, model: engine.manifest.model };
    last = { settings, recipe, message, pixels, kept };
    const digest = self.crypto?.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", body)) : [];
    answer({ say: "done", id, recipe, width, height, moments, calls: moments.length, sha256: [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join(""), notes: [], reading: null }, body);
  },
  async tensor({ id, name, step, branch }) {
    if (!last) refuse("there is no picture yet - make one first");
    const row = rowOf(name) ?? refuse(`${name} is not among the tensors of this export`);
    const stop = new AbortController();
    if (!last.kept.has(name)) {
      const steps = [];
      running = { live: false, stop };
      await make(last.settings, [name], ({ tensors }) => steps.push(tensors[name].data), stop);
      if (last.kept.size >= 8) last.kept.clear();
      last.kept.set(name, steps);
    }
    const both = last.kept.get(name)[step] ?? refuse(`there is no step ${step}`);
    const half = both.length / 2, cond = branch !== "uncond";
    const data = cond ? both.subarray(half) : both.subarray(0, half);
    const { values, ...head } = view(row, data, cond ? last.settings.encoding : engine.tokenizer.encode(last.settings.negative));
    answer({ say: "tensor", id, name, step, branch: cond ? "cond" : "uncond", branches: ["uncond", "cond"], size: row.shape.slice(1), statistics: statistics(data), left_out: 0, place: null, ...head }, new Uint8Array(values.buffer));
  },
  async save({ id, what = "picture" }) {
    if (what !== "picture") refuse("the engine in the tab saves pictures - tensors need sd-scratch page");
    if (!last) refuse("there is no picture yet - make one first");
    const { width, height } = engine.manifest, canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(new ImageData(last.pixels, width, height), 0, 0);
    const png = new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
    const texts = { sd_scratch: JSON.stringify({ ...last.recipe, syntax: "plain" }) };
    const { recipe, edits = [], place = null } = last.message;
    if (edits.length || place) texts["sd_scratch page"] = JSON.stringify({ recipe, edits, place });
    answer({ say: "saved", id, name: `${last.recipe.seed}.png` }, withTexts(png, texts));
  },
};

const rowOf = (name) => engine.manifest.tensors.find((row) => row.name === name);

async function start() {
  const ort = await import("../runtime/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("../runtime/", import.meta.url).href;
  engine = await TabEngine.load(ort, new URL("../model", import.meta.url).href);
  const { manifest } = engine;
  answer({
    say: "hello",
    format: 1,
    version: manifest.version,
    model: manifest.model,
    name: manifest.model,
    device: "wasm in this tab",
    dtype: "float32",
    parameters: manifest.parameters ?? {},
    defaults: { steps: manifest.steps, sampler: "ddim", guidance: manifest.guidance, width: manifest.width, height: manifest.height },
    samplers: SAMPLERS,
    lacks: LACKS,
    schedules: [],
    edits: EDITS,
    limits: { ...LIMITS, side: manifest.width, cell: manifest.width },
    examples: EXAMPLES,
    landmarks: LANDMARKS,
    tensors: manifest.tensors.map((row) => ({ ...row, editable: /attn2\.(probs|z)$/.test(row.name), stepwise: true, branched: true })),
  });
  work();
}

start().catch((error) => answer({ say: "error", id: null, text: `the engine could not start: ${error.message}` }));
