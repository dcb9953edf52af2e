// A picture from a sentence, in the tab: the exported graphs, run by onnxruntime.

import { edited, factorsAt } from "./edits.js";
import { MersenneTwister } from "./random.js";
import { guide, interpret, ladder, noiseScale, step } from "./sampler.js";
import { Tokenizer } from "./tokenizer.js";

export class Cancelled extends Error {}

export class TabEngine {
  // ort: the onnxruntime module; folder: where `sd-scratch export onnx` wrote.
  static async load(ort, folder, fetcher = fetch, options = {}) {
    const engine = new TabEngine();
    engine.ort = ort;
    const answer = await fetcher(`${folder}/manifest.json`);
    if (!answer.ok) throw new Error(`there is no model at ${folder}`);
    engine.manifest = await answer.json();
    for (const part of ["text_encoder", "unet", "decoder"]) if (!engine.manifest.graphs?.[part]) throw new Error(`the model has no ${part.replace("_", " ")}`);
    engine.tokenizer = await Tokenizer.load(`${folder}/tokenizer`, engine.manifest.tokens, fetcher);
    engine.sessions = {};
    for (const [name, graph] of Object.entries(engine.manifest.graphs)) {
      const file = await fetcher(`${folder}/${graph.file}`);
      const bytes = new Uint8Array(await file.arrayBuffer());
      engine.sessions[name] = await ort.InferenceSession.create(bytes, options);
    }
    engine.contexts = new Map();
    return engine;
  }

  get latentShape() {
    return this.manifest.graphs.decoder.inputs[0].shape;
  }

  async graph(name, inputs, wanted) {
    const rows = Object.fromEntries(this.manifest.graphs[name].inputs.map((row) => [row.name, row]));
    const feeds = {};
    for (const [key, values] of Object.entries(inputs)) {
      const type = rows[key].dtype === "int64" ? "int64" : "float32";
      feeds[key] = new this.ort.Tensor(type, values, rows[key].shape);
    }
    return this.sessions[name].run(feeds, wanted);
  }

  // What the U-Net reads of [negative, prompt]: Float32Array of [2, tokens, channels].
  async context(prompt, negative = "") {
    const key = JSON.stringify([prompt, negative]);
    if (!this.contexts.has(key)) {
      const ids = [negative, prompt].flatMap((text) => this.tokenizer.encode(text).ids);
      const made = await this.graph("text_encoder", { token_ids: BigInt64Array.from(ids, BigInt) });
      if (this.contexts.size > 50) this.contexts.clear();
      this.contexts.set(key, made.context.data);
    }
    return this.contexts.get(key);
  }

  noise(seed) {
    return new MersenneTwister(seed).normal(this.latentShape.reduce((a, b) => a * b, 1));
  }

  // All steps of a picture. `settings`: prompt or context, negative, seed, steps, sampler, guidance, edits as
  // `readEdits` makes them, and the names of `tensors` to keep. `onStep` is told {index, total, t, x0, latent, tensors}; `signal` ends it.
  async run(settings, onStep = () => {}, signal = null) {
    const { manifest } = this;
    const { seed = 0, guidance = manifest.guidance, steps = manifest.steps, sampler = "ddim", tensors = [] } = settings;
    const { attention, context: changes } = settings.edits ?? { attention: [], context: [] };
    const plain = settings.context ?? (await this.context(settings.prompt ?? "", settings.negative));
    const context = edited(plain, changes.length ? await this.context("", "") : plain, changes, manifest.tokens);
    const { shape } = manifest.graphs.unet.inputs.find((input) => input.name === "factors");
    const rungs = ladder(manifest, steps, sampler), scale = noiseScale(manifest, rungs, sampler);
    let latent = this.noise(seed).map((x) => scale * x), before = null;
    for (const [index, rung] of rungs.entries()) {
      if (signal?.aborted) throw new Cancelled();
      const both = new Float32Array(2 * latent.length);
      both.set(latent);
      both.set(latent, latent.length);
      const t = Float32Array.of(rung.t, rung.t), factors = factorsAt(attention, index, shape);
      const made = await this.graph("unet", { x_t: both, t, context, factors }, ["pred", ...tensors]);
      const answer = guide(made.pred.data, guidance);
      const read = interpret(manifest.prediction_type, answer, latent, rung.alphaBar);
      latent = step(read, rungs, index, sampler, before);
      before = read.x0;
      const kept = Object.fromEntries(tensors.map((name) => [name, { data: made[name].data, shape: made[name].dims }]));
      await onStep({ index, total: steps, t: rung.t, x0: read.x0, latent, tensors: kept });
    }
    return latent;
  }

  // A latent as the pixels of a canvas: Uint8ClampedArray of [height, width, 4].
  async decode(latent) {
    const { image } = await this.graph("decoder", { latent });
    const size = image.data.length / 3;
    const pixels = new Uint8ClampedArray(4 * size);
    for (let i = 0; i < size; i++) {
      for (let channel = 0; channel < 3; channel++) {
        // Half to even, as everywhere in the package.
        pixels[4 * i + channel] = image.data[channel * size + i] * 255;
      }
      pixels[4 * i + 3] = 255;
    }
    return pixels;
  }
}
