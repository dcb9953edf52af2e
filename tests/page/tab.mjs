// Runs parts of the tab's engine under Node: node tab.mjs STATIC MODEL RUNTIME < wishes.json. RUNTIME is the folder of
// onnxruntime-web, or "-" where no graph is run.

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [, , code, model, runtime] = process.argv;
const part = (name) => import(pathToFileURL(`${code}/${name}.js`).href);
const { MersenneTwister } = await part("random");
const { Tokenizer } = await part("tokenizer");
const { ladder } = await part("sampler");
const { readEdits } = await part("edits");
const { TabEngine } = await part("engine");

async function fetcher(path) {
  const bytes = await readFile(path);
  return {
    ok: true,
    json: async () => JSON.parse(bytes.toString("utf8")),
    text: async () => bytes.toString("utf8"),
    arrayBuffer: async () => bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  };
}

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const wishes = JSON.parse(Buffer.concat(chunks).toString("utf8"));
const manifest = await (await fetcher(`${model}/manifest.json`)).json();
const tokenizer = await Tokenizer.load(`${model}/tokenizer`, manifest.tokens, fetcher);
const answers = {};
if (wishes.texts) answers.texts = wishes.texts.map((text) => tokenizer.encode(text));
if (wishes.seeds) {
  answers.noise = wishes.seeds.map(([seed, count]) => Array.from(new MersenneTwister(BigInt(seed)).normal(count)));
}
if (wishes.steps) answers.ladders = wishes.steps.map((steps) => ladder(manifest, steps));
if (wishes.edits) {
  const encodings = { cond: tokenizer.encode("a large red star"), uncond: tokenizer.encode("") };
  answers.edits = wishes.edits.map((edit) => {
    try {
      readEdits([edit], encodings, manifest.factors.layers);
      return "";
    } catch (error) {
      return error.message;
    }
  });
}
if (wishes.runs) {
  const ort = await import(pathToFileURL(`${runtime}/ort.wasm.min.mjs`).href);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = pathToFileURL(`${runtime}/`).href;
  ort.env.logLevel = "error";
  const engine = await TabEngine.load(ort, model, fetcher);
  answers.runs = [];
  for (const settings of wishes.runs) {
    const seen = [];
    const began = performance.now();
    const encodings = { cond: tokenizer.encode(settings.prompt), uncond: tokenizer.encode(settings.negative ?? "") };
    settings.edits = readEdits(settings.edits ?? [], encodings, manifest.factors.layers);
    const latent = await engine.run(settings, (told) => {
      const tensors = Object.entries(told.tensors).map(([name, { data, shape }]) => [name, { data: Array.from(data), shape }]);
      seen.push({ t: told.t, tensors: Object.fromEntries(tensors) });
    });
    const pixels = await engine.decode(latent);
    const seconds = (performance.now() - began) / 1000;
    answers.runs.push({ latent: Array.from(latent), pixels: Array.from(pixels), seen, seconds });
  }
}
process.stdout.write(JSON.stringify(answers));
