// The page: what is typed, dragged and switched becomes messages; answers become pictures.

import { Begin } from "./begin.js";
import { Change } from "./change.js";
import { difference, picture, short } from "./draw.js";
import { House } from "./house.js";
import { Inside } from "./inside.js";
import { ServerLine, takeToken } from "./line.js";
import { Loras } from "./loras.js";
import { Move } from "./move.js";
import { fromFragment, toFragment, toPython } from "./share.js";
import { TabLine } from "./tab/line.js";

const $ = (id) => document.getElementById(id);
const TYPING = 350; // milliseconds without a key before the words are asked for
const RECIPE_FIELDS = { seed: "seed", steps: "steps", guidance: "guidance", width: "width", height: "height" };

// `runs` are the wishes that are not answered yet, by their numbers; `newest` is the number of the last one.
const state = { hello: null, number: 0, runs: new Map(), newest: 0, latest: {}, frames: [], done: null, pinned: null, place: null };
window.page = state; // for those who open the console
const NO_LINE = "There is no connection to the engine. It is tried again; what you change is kept.";

// Messages -------------------------------------------------------------------------------------

function send(message) {
  const id = ++state.number;
  state.latest[message.do] = id;
  if (!line.send({ ...message, id })) trouble(NO_LINE);
  return id;
}

// A file, with a head that says what it is for.
function sendFile(use, name, bytes) {
  const id = ++state.number;
  if (!line.send({ do: "picture", id, use, name }, bytes)) trouble(NO_LINE);
  return id;
}

function trouble(text) {
  const sentence = text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  $("trouble").hidden = !text;
  $("trouble").textContent = sentence;
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
    if (first) start(head);
    else begin.again();
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
    $("cancel").hidden = false;
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
    idle();
    for (const id of ["save", "copy", "pin", "init-current"]) $(id).disabled = false;
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
  score(head) {
    if (head.id !== state.latest.score) return;
    say("");
    score(head.asked, head.count);
    $("often").textContent = `All of it in ${head.whole} of ${head.count} pictures, with the seeds from ${state.done.recipe.seed} on.`;
  },
  picture(head) {
    trouble("");
    begin.answered(head.id, head.use, head.hash);
  },
  tensor(head, body) {
    if (head.id === state.latest.tensor) inside.show(head, body.slice());
  },
  plane(head) {
    if (head.id === state.latest.plane) move.show(head.places);
  },
  saved(head, body) {
    if (head.id === state.wanted?.id) {
      state.wanted.resolve([head.name, body.slice()]);
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([body]));
    link.download = head.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`saved ${head.name}`);
  },
  error(head) {
    trouble(head.text);
    if (head.id === state.latest.score) say("");
    if (!begin.failed(head.id)) over(head.id, "");
  },
};

// A run that brings no picture.
function over(id, text) {
  if (!state.runs.delete(id)) return;
  if (id === state.newest) say(text);
  if (id === state.newest && state.done) look(); // and no longer the half of another picture
  idle();
}

function idle() {
  if (state.runs.size) return;
  if (document.activeElement === $("cancel")) $("make").focus();
  $("cancel").hidden = true;
}

// A run ----------------------------------------------------------------------------------------

const number = (id) => ($(id).value === "" ? null : Number($(id).value));

// What the form says, with nothing in it that was left open.
function recipe() {
  const made = { prompt: $("prompt").value };
  if ($("negative").value) made.negative_prompt = $("negative").value;
  for (const [id, key] of Object.entries(RECIPE_FIELDS)) if (number(id) !== null) made[key] = number(id);
  for (const id of ["sampler", "schedule"]) if ($(id).value) made[id] = $(id).value;
  return { ...made, ...loras.recipe, ...begin.recipe };
}

// Of the form, or of a link: what the form has no place for is then answered by the engine.
function run(options = {}) {
  if (!options.live) say("sent");
  begin.ready(() => runNow(options));
}

function runNow({ live = false, asked = null }) {
  const wish = asked ?? { recipe: recipe(), edits: structuredClone(change.acting(state.place)), place: state.place };
  if (live) wish.recipe.steps = Math.min(number("move-steps") ?? 8, wish.recipe.steps ?? 8);
  const watch = inside.name && !inside.name.startsWith("vae.") && !live ? [inside.name] : [];
  state.newest = send({ do: "run", ...wish, watch, previews: !live, live });
  state.runs.set(state.newest, { wish, live, frames: [], begun: performance.now() });
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
  const { recipe, wish } = done;
  const more = [
    recipe.init_image && `from ${recipe.init_image} at strength ${recipe.strength}${recipe.mask ? " under a mask" : ""}`,
    recipe.loras && `with ${recipe.loras.map(([name, scale]) => `${name} × ${scale}`).join(", ")}`,
    wish.place && "between prompts",
    wish.edits.length && `${wish.edits.length} edit${wish.edits.length > 1 ? "s" : ""}`,
  ];
  const reading = done.reading ? ` The oracle reads: ${done.reading}.` : "";
  $("caption").textContent = `${[`Seed ${recipe.seed}`, `${recipe.steps} steps of ${recipe.sampler}`, `guidance ${recipe.guidance}`, ...more.filter(Boolean)].join(", ")}.${reading}`;
  score(done.asked ?? []);
  const notes = done.notes.filter((note) => !/^prompt: /.test(note)); // which stands under the prompt
  $("said").hidden = !notes.length;
  $("said").textContent = notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`).join(" ");
  $("snippet").textContent = toPython(recipe, wish.edits, wish.place);
  compare();
}

// What the sentence asks for, each with whether it is there; or with how often, in several seeds.
function score(rows, count = null) {
  $("score").hidden = !rows.length;
  $("asked").replaceChildren(...rows.map(([text, right]) => {
    const item = document.createElement("li"), whole = count === null ? right : right === count;
    item.className = whole ? "yes" : "no";
    item.append(count === null ? `${right ? "✓" : "✗"} ${text}` : `${text}: ${right} of ${count}`);
    if (count === null) item.append(Object.assign(document.createElement("span"), { className: "unseen", textContent: right ? " is there" : " is not there" }));
    return item;
  }));
  if (count === null) $("often").textContent = "";
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
  askPlane: (prompts) => send({ do: "plane", prompts, ...loras.recipe }),
  onMove(place) {
    at(place);
    run({ live: true });
  },
  onLeave() {
    at(null);
    run();
  },
});
const loras = new Loras({
  onChange(live) {
    if (!live) move.askPlane(move.prompts); // whose plane is another one now
    run({ live });
  },
  onFew(name, few) {
    for (const id of ["steps", "guidance", "sampler", "schedule"]) $(id).value = few[id];
    say(`${name} is ${few.kind}: ${few.steps} steps of ${few.sampler}, guidance ${few.guidance} are set`);
  },
});
const begin = new Begin({
  send: sendFile,
  complain: trouble,
  resize(width, height) {
    $("width").value = width;
    $("height").value = height;
  },
  current: () => new Promise((resolve) => {
    state.wanted = { id: send({ do: "save" }), resolve };
  }),
});

// Where between prompts the next picture is made; null at the prompt itself.
function at(place) {
  state.place = place;
  change.rest(place);
}

function start(head) {
  const { defaults, limits } = head;
  for (const [id, key] of [["steps", "steps"], ["guidance", "guidance"], ["width", "width"], ["height", "height"]]) $(id).value = defaults[key];
  $("steps").max = limits.steps;
  for (const id of ["width", "height"]) Object.assign($(id), { min: limits.cell, max: limits.side, step: limits.cell });
  $("prompt").maxLength = $("negative").maxLength = limits.text;
  $("sampler").replaceChildren(...head.samplers.map((name) => new Option(name, name, name === defaults.sampler, name === defaults.sampler)));
  $("schedule").append(...head.schedules.map((name) => new Option(name, name)));
  $("example").append(...head.examples.map((text) => new Option(text, text)));
  if (inTab) $("edit-tensors").value = "unet.*.attn2.probs";
  for (const option of [...$("edit-kind").options]) if (!(option.value in head.edits)) option.remove();
  loras.offer(head.loras);
  begin.offer(limits, defaults.width, head.needs);
  begin.resized(defaults.width, defaults.height);
  new House($("house"), head.tensors, (box) => inside.open(box));
  $("prompt").value = head.examples[0];
  move.use(head.landmarks);
  if (!follow()) {
    askWords();
    if (!head.needs) run();
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
  loras.set(recipe.loras);
  begin.expect(recipe);
  const { place } = wish;
  at(Array.isArray(place?.prompts) && Array.isArray(place?.at) ? place : null);
  move.wanted = state.place?.at ?? null;
  for (const [id, told] of [["change", change.edits.length], ["move", state.place]]) if (told) fold(id).open = true;
}

// From a place between prompts back to the prompt, without a picture yet.
function leave() {
  at(null);
  move.rest();
}

// A section's part that folds. On a wide screen all stand open at first, on a narrow one the picture is near.
const fold = (id) => $(id).querySelector("details");
if (matchMedia("(min-width: 44rem)").matches) for (const each of document.querySelectorAll("details.wide-open")) each.open = true;

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
$("words-back").addEventListener("click", () => $("leave").click());
$("cancel").addEventListener("click", () => send({ do: "cancel" }));
for (const id of ["width", "height"]) $(id).addEventListener("change", () => begin.resized(number("width"), number("height")));
$("save").addEventListener("click", () => send({ do: "save" }));
$("count").addEventListener("click", () => {
  send({ do: "score" });
  say("counting");
});
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
  const kept = { ...wish.recipe, ...Object.fromEntries(["prompt", "seed", "steps", "sampler", "guidance"].map((key) => [key, whole[key]])) };
  if (whole.loras) kept.loras = whole.loras;
  const fragment = toFragment({ recipe: kept, ...(wish.edits.length ? { edits: wish.edits } : {}), ...(wish.place ? { place: wish.place } : {}) });
  history.replaceState(null, "", `#${fragment}`);
  const without = whole.init_image ? `; no link holds a picture: whoever opens it needs ${whole.init_image}${whole.mask ? " and the mask" : ""}` : "";
  try {
    await navigator.clipboard.writeText(location.href);
    say(`link copied${without}`);
  } catch {
    say(`the link is in the address bar${without}`);
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
  idle();
  say("");
  trouble(TROUBLE[connection] ?? `The engine in this tab stopped: ${detail}. Reload the page.`);
}

const onAnswer = (head, body) => ANSWERS[head.say]?.(head, body);
const inTab = document.querySelector("meta[name=engine]").content === "tab";
const line = inTab ? new TabLine(onAnswer, onState) : new ServerLine(takeToken(), onAnswer, onState);
