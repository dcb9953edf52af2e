// The page: what is typed, dragged and switched becomes messages; answers become pictures.

import { Change } from "./change.js";
import { difference, picture, short } from "./draw.js";
import { House } from "./house.js";
import { Inside } from "./inside.js";
import { ServerLine, takeToken } from "./line.js";
import { Move } from "./move.js";
import { fromFragment, toFragment, toPython } from "./share.js";
import { TabLine } from "./tab/line.js";

const $ = (id) => document.getElementById(id);
const TYPING = 350; // milliseconds without a key before the words are asked for
const RECIPE_FIELDS = { seed: "seed", steps: "steps", guidance: "guidance", width: "width", height: "height" };

// `runs` are the wishes that are not answered yet, by their numbers; `newest` is the number of the last one.
const state = { hello: null, number: 0, runs: new Map(), newest: 0, latest: {}, frames: [], done: null, pinned: null, place: null };
window.page = state; // for those who open the console

// Messages -------------------------------------------------------------------------------------

function send(message) {
  const id = ++state.number;
  state.latest[message.do] = id;
  if (!line.send({ ...message, id })) trouble("There is no connection to the engine. It is tried again; what you change is kept.");
  return id;
}

function trouble(text) {
  $("trouble").hidden = !text;
  $("trouble").textContent = text;
}

function say(text) {
  $("status").textContent = text;
}

const ANSWERS = {
  hello(head) {
    const first = state.hello === null;
    state.hello = head;
    trouble("");
    $("model").textContent = `${head.model}: ${Object.entries(head.parameters).map(([name, n]) => `${name} ${(n / 1e6).toFixed(1)} M`).join(", ")} parameters, ${head.dtype} on ${head.device}`;
    $("lacks").hidden = !head.lacks;
    $("lacks").textContent = head.lacks ?? "";
    $("version").textContent = `sd_scratch ${head.version}.`;
    if (first) begin(head);
  },
  words(head) {
    if (head.id !== state.latest.words) return;
    $("tokens").replaceChildren(...head.tokens.map(([text, id]) => {
      const item = document.createElement("li"), small = document.createElement("small");
      small.textContent = id;
      item.append(text.replace("</w>", ""), small);
      return item;
    }));
    const notes = [...head.notes];
    if (head.cut) notes.push(`Not read, because the model takes no more tokens: "${head.cut}".`);
    $("notes").hidden = !notes.length;
    $("notes").textContent = notes.join(" ");
    change.showWords(head.words);
  },
  waiting() {
    say("waiting: another page is having a picture made");
  },
  running(head) {
    const run = state.runs.get(head.id);
    if (!run) return;
    if (!run.live) say("running");
    $("cancel").disabled = false;
  },
  step(head, body) {
    const run = state.runs.get(head.id);
    if (!run || head.id !== state.newest) return;
    if (!run.live) say(`step ${head.index + 1} of ${head.of}`);
    if (!body || !head.width) return;
    const frame = { width: head.width, height: head.height, pixels: body, t: head.t, sigma: head.sigma };
    run.frames.push(frame);
    picture($("picture"), frame);
    $("picture").setAttribute("aria-label", `The picture forms: step ${head.index + 1} of ${head.of}`);
  },
  done(head, body) {
    const run = state.runs.get(head.id);
    state.runs.delete(head.id);
    // Of a drag every picture is shown; anything else that is not the newest has been overtaken.
    if (!run || (head.id !== state.newest && !(run.live && state.runs.get(state.newest)?.live))) return;
    const seconds = (performance.now() - run.begun) / 1000;
    state.done = { ...head, pixels: body, wish: run.wish, seconds };
    state.frames = run.frames;
    trouble("");
    say(run.live ? `${(1000 * seconds).toFixed(0)} ms to this picture` : `done in ${seconds.toFixed(1)} s`);
    $("cancel").disabled = state.runs.size === 0;
    for (const id of ["save", "copy", "pin"]) $(id).disabled = false;
    show();
    if (head.id === state.newest) inside.refresh();
  },
  stopped(head) {
    over(head.id, "cancelled");
  },
  skipped(head) {
    over(head.id, "");
  },
  cancelled() {},
  tensor(head, body) {
    if (head.id === state.latest.tensor) inside.show(head, body.slice());
  },
  plane(head) {
    if (head.id === state.latest.plane) move.show(head.places);
  },
  saved(head, body) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([body]));
    link.download = head.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`saved ${head.name}`);
  },
  error(head) {
    trouble(head.text[0].toUpperCase() + head.text.slice(1) + (/[.!?]$/.test(head.text) ? "" : "."));
    over(head.id, "");
  },
};

// A run that brings no picture.
function over(id, text) {
  if (!state.runs.delete(id)) return;
  if (id === state.newest) say(text);
  $("cancel").disabled = state.runs.size === 0;
}

// A run ----------------------------------------------------------------------------------------

const number = (id) => ($(id).value === "" ? null : Number($(id).value));

// What the form says, with nothing in it that was left open.
function recipe() {
  const made = { prompt: $("prompt").value };
  if ($("negative").value) made.negative_prompt = $("negative").value;
  for (const [id, key] of Object.entries(RECIPE_FIELDS)) if (number(id) !== null) made[key] = number(id);
  for (const id of ["sampler", "schedule"]) if ($(id).value) made[id] = $(id).value;
  return made;
}

// Of the form, or of a link: what the form has no place for is then answered by the engine.
function run({ live = false, asked = null } = {}) {
  const wish = asked ?? { recipe: recipe(), edits: structuredClone(change.edits), place: state.place };
  if (live) wish.recipe.steps = Math.min(number("move-steps") ?? 8, wish.recipe.steps ?? 8);
  const watch = inside.name && !inside.name.startsWith("vae.") && !live ? [inside.name] : [];
  state.newest = send({ do: "run", ...wish, watch, previews: !live, live });
  state.runs.set(state.newest, { wish, live, frames: [], begun: performance.now() });
  if (!live) say("sent");
}

// The picture, its steps, its facts.
function show() {
  const { done, frames } = state;
  if (!done) return;
  const steps = done.moments.length;
  const scrub = $("scrub");
  scrub.max = steps;
  scrub.value = steps;
  scrub.disabled = false;
  $("film").replaceChildren(...frames.map((frame, i) => {
    const canvas = document.createElement("canvas");
    picture(canvas, frame);
    canvas.addEventListener("click", () => {
      scrub.value = i;
      look();
    });
    return canvas;
  }));
  look();
  const { recipe } = done;
  const between = done.wish.place ? ", between prompts" : "";
  const edits = done.wish.edits.length ? `, ${done.wish.edits.length} edit${done.wish.edits.length > 1 ? "s" : ""}` : "";
  const reading = done.reading ? ` The oracle reads: ${done.reading}.` : "";
  $("caption").textContent = `Seed ${recipe.seed}, ${recipe.steps} steps of ${recipe.sampler}, guidance ${recipe.guidance}${between}${edits}.${reading}`;
  $("snippet").textContent = toPython(recipe.model, recipe, done.wish.edits, done.wish.place);
  compare();
}

// What the scrubber stands at: x0 after a step, or the finished picture.
function look() {
  const { done, frames } = state;
  const i = Number($("scrub").value), last = done.moments.length;
  const final = i >= last;
  const frame = final ? done : frames[i];
  if (frame) picture($("picture"), frame);
  const [t, sigma] = done.moments[Math.min(i, last - 1)];
  $("at").textContent = final ? `${last} of ${last}: the picture` : `${i + 1} of ${last}, t ${short(t)}, sigma ${short(sigma)}`;
  $("scrub").setAttribute("aria-valuetext", $("at").textContent);
  $("picture").setAttribute("aria-label", final ? `Picture of: ${done.recipe.prompt}` : `What the model expects the picture to be at step ${i + 1}`);
  [...$("film").children].forEach((canvas, n) => canvas.classList.toggle("at", n === i));
}

function callAt() {
  const i = Number($("scrub").value), { done } = state;
  return done ? Math.min(i, done.calls - 1) : 0;
}

// Two pictures -----------------------------------------------------------------------------------

function compare() {
  const { pinned, done } = state;
  $("compare").hidden = !pinned;
  $("no-pin").hidden = Boolean(pinned);
  $("unpin").hidden = !pinned;
  if (!pinned) return;
  picture($("a"), pinned);
  picture($("b"), done);
  $("a-text").textContent = `A: seed ${pinned.recipe.seed}`;
  $("b-text").textContent = `B: seed ${done.recipe.seed}`;
  const apart = difference(pinned, done);
  if (apart) picture($("difference"), apart);
  $("difference-text").textContent = apart ? `Difference, four times as strong: ${(100 * apart.share).toFixed(1)} % of the pixels differ, by ${apart.most} of 255 at most` : "The two have other sizes";
  for (const id of ["a", "b", "difference"]) $(id).setAttribute("aria-label", $(`${id}-text`).textContent);
}

// Wiring -----------------------------------------------------------------------------------------

const change = new Change((live) => run({ live }), trouble);
const inside = new Inside({
  ask(name, branch, place) {
    if (state.done) send({ do: "tensor", name, branch, step: callAt(), ...(place === null ? {} : { place }) });
    else $("readout").textContent = "Make a picture first: then the numbers are here.";
  },
  heads: { off: (name) => change.off(name), turn: (name, head, on) => change.head(name, head, on) },
  edit: (name) => change.prefill(name),
});
const move = new Move({
  askPlane: (prompts) => send({ do: "plane", prompts }),
  onMove(place) {
    state.place = place;
    run({ live: true });
  },
  onLeave() {
    state.place = null;
    run();
  },
});

function begin(head) {
  const { defaults, limits } = head;
  for (const [id, key] of [["steps", "steps"], ["guidance", "guidance"], ["width", "width"], ["height", "height"]]) $(id).value = defaults[key];
  $("steps").max = limits.steps;
  for (const id of ["width", "height"]) Object.assign($(id), { min: limits.cell, max: limits.side, step: limits.cell });
  $("prompt").maxLength = $("negative").maxLength = limits.text;
  $("sampler").replaceChildren(...head.samplers.map((name) => new Option(name, name, name === defaults.sampler, name === defaults.sampler)));
  $("schedule").append(...head.schedules.map((name) => new Option(name, name)));
  $("example").append(...head.examples.map((text) => new Option(text, text)));
  new House($("house"), head.tensors, (box) => inside.open(box));
  $("prompt").value = head.examples[0];
  move.use(head.landmarks);
  if (!follow()) {
    askWords();
    run();
  }
}

// Do what the address asks for; false where it asks for nothing.
function follow() {
  let wish = null;
  try {
    wish = fromFragment(location.hash);
  } catch (error) {
    trouble(error.message);
  }
  if (!wish) return false;
  take(wish);
  if (state.place) move.use(state.place.prompts);
  askWords();
  run({ asked: { edits: [], place: null, ...wish } });
  return true;
}

// A link's wish into the form.
function take(wish) {
  const { recipe } = wish;
  $("prompt").value = String(recipe.prompt ?? "");
  $("negative").value = String(recipe.negative_prompt ?? "");
  for (const [id, key] of Object.entries(RECIPE_FIELDS)) if (recipe[key] !== undefined) $(id).value = recipe[key];
  for (const id of ["sampler", "schedule"]) if (recipe[id] !== undefined) $(id).value = recipe[id];
  change.set(Array.isArray(wish.edits) ? wish.edits : []);
  const { place } = wish;
  state.place = Array.isArray(place?.prompts) && Array.isArray(place?.at) ? place : null;
  move.wanted = state.place?.at ?? null;
}

// From a place between prompts back to the prompt, without a picture yet.
function leave() {
  state.place = null;
  move.rest();
}

const askWords = () => send({ do: "words", prompt: $("prompt").value });
let typing = null;
$("prompt").addEventListener("input", () => {
  leave();
  clearTimeout(typing);
  typing = setTimeout(askWords, TYPING);
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("example").addEventListener("change", () => {
  if (!$("example").value) return;
  leave();
  $("prompt").value = $("example").value;
  askWords();
  $("form").requestSubmit();
});
$("dice").addEventListener("click", () => {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  run();
});
$("cancel").addEventListener("click", () => send({ do: "cancel" }));
$("save").addEventListener("click", () => send({ do: "save" }));
$("save-tensors").addEventListener("click", () => send({ do: "save", what: "tensors" }));
$("pin").addEventListener("click", () => {
  state.pinned = state.done;
  compare();
});
$("unpin").addEventListener("click", () => {
  state.pinned = null;
  compare();
});
$("scrub").addEventListener("input", () => {
  look();
  inside.refresh();
});
$("copy").addEventListener("click", async () => {
  const { wish, recipe: whole } = state.done;
  const kept = { ...wish.recipe, ...Object.fromEntries(["seed", "steps", "sampler", "guidance"].map((key) => [key, whole[key]])) };
  const fragment = toFragment({ recipe: kept, ...(wish.edits.length ? { edits: wish.edits } : {}), ...(wish.place ? { place: wish.place } : {}) });
  history.replaceState(null, "", `#${fragment}`);
  try {
    await navigator.clipboard.writeText(location.href);
    say("link copied");
  } catch {
    say("the link is in the address bar");
  }
});
window.addEventListener("hashchange", () => {
  if (!inTab) line.token = takeToken();
  if (state.hello) follow();
});

const TROUBLE = {
  lost: "The connection to the engine is lost. Is sd-scratch page still running? It is tried again; what you change is kept.",
  refused: "The engine does not answer this page. Open the address that sd-scratch page printed at its last start; at most eight pages are served at a time.",
};

function onState(connection, detail = "") {
  if (connection === "open") return;
  state.runs.clear();
  $("cancel").disabled = true;
  say("");
  trouble(TROUBLE[connection] ?? `The engine in this tab stopped: ${detail}. Reload the page.`);
}

const onAnswer = (head, body) => ANSWERS[head.say]?.(head, body);
const inTab = document.querySelector("meta[name=engine]").content === "tab";
const line = inTab ? new TabLine(onAnswer, onState) : new ServerLine(takeToken(), onAnswer, onState);
