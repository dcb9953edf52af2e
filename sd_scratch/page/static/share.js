// A wish as a link's fragment, and as Python.

export function toFragment(wish) {
  const bytes = new TextEncoder().encode(JSON.stringify(wish));
  return `wish=${btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

// The wish in a fragment; null where there is none. What it says is checked by the engine. Throws an
// Error for what is no wish at all.
export function fromFragment(hash) {
  const found = /[#&]wish=([^&]*)/.exec(hash);
  if (!found) return null;
  let wish = null;
  try {
    const text = atob(found[1].replaceAll("-", "+").replaceAll("_", "/"));
    wish = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0))));
  } catch {
    // said below
  }
  if (typeof wish?.recipe !== "object" || wish.recipe === null) throw new Error("This link holds nothing that can be read. Copy it again, whole.");
  return wish;
}

const py = (value) => {
  if (Array.isArray(value)) return `(${value.map(py).join(", ")}${value.length === 1 ? "," : ""})`;
  return typeof value === "string" ? JSON.stringify(value) : String(value);
};

const CALLS = {
  scale: (e) => `sd.edits.scale(${e.factor})`,
  add: (e) => `sd.edits.add(${e.value})`,
  set: (e) => `sd.edits.set_to(${e.value})`,
  ablate: (e) => `sd.edits.ablate(${["heads", "channels", "words"].filter((k) => e[k]).map((k) => `${k}=${py(e[k])}`).join(", ")})`,
  scale_word: (e) => `sd.edits.scale_word(${py([e.word].flat()[0])}, ${e.factor}${Array.isArray(e.word) ? `, nth=${e.word[1]}` : ""})`,
  reweight: (e) => `sd.edits.reweight({${e.words.map((word, i) => `${py(word)}: ${e.factors[i]}`).join(", ")}})`,
  swap: (e) => `sd.edits.swap(${py(e.first)}, ${py(e.second)})`,
};

// A script that makes the same picture. `recipe` is whole, as an engine answers it.
export function toPython(recipe, edits, place) {
  const { model, loras = [], init_image: picture, mask } = recipe;
  const lines = ["import contextlib", "", "import sd_scratch as sd"];
  if (place) lines.push("from sd_scratch.mapping.movement import make_plane");
  if (mask) lines.push("from sd_scratch.pictures.masks import read_mask");
  if (picture) lines.push("from sd_scratch.pictures.read import read_picture");
  if (mask) lines.push("from sd_scratch.pipeline.mask_use import MaskUse");
  lines.splice(1, 0, ...(picture ? ["from pathlib import Path"] : []));
  const parts = [py(model), ...["revision", "vae", "text_encoder"].filter((key) => recipe[key]).map((key) => `${key}=${py(recipe[key])}`)];
  lines.push("", `model = sd.load(${parts.join(", ")})`);
  for (const [name, scale, text] of loras) lines.push(`model = model.with_lora(${py(`${name}.safetensors`)}, ${scale}, ${text})`);
  const set = Object.entries(recipe).filter(([key, value]) => RECIPE.includes(key) && value !== "" && value !== null);
  lines.push("recipe = sd.Recipe(", ...set.map(([key, value]) => `    ${key}=${typeof value === "object" ? JSON.stringify(value).replaceAll("true", "True").replaceAll("false", "False") : py(value)},`));
  if (mask) lines.push(`    mask=MaskUse(${py(mask[0])}, blend=${py(mask[3])}, content=${py(mask[4])}, feather=${mask[5]}),`);
  lines.push(")");
  const more = [];
  if (picture) more.push(`init_image=read_picture(Path(${py(picture)}))`);
  if (mask) more.push(`mask=read_mask(Path(${py(mask[0])}))`);
  if (place) {
    lines.push(`plane = make_plane([model.prompt(text) for text in ${py(place.prompts)}], ${place.at.length})`, `prompt = plane.at(plane.places.new_tensor(${py(place.at)}))`);
    more.push("prompt=prompt");
  }
  lines.push("with contextlib.ExitStack() as stack:");
  for (const edit of edits) {
    const steps = edit.steps ? `, calls=slice(${edit.steps[0]}, ${edit.steps[1] + 1})` : "";
    const branch = edit.branch ? `, branch=${py(edit.branch)}` : "";
    lines.push(`    stack.enter_context(model.edit(${py(edit.tensors)}, ${CALLS[edit.edit](edit)}${steps}${branch}))`);
  }
  lines.push(`    for made in model.run(${["recipe", ...more].join(", ")}):`, "        made.to_pil()[0].save(\"picture.png\")");
  return lines.join("\n");
}

const RECIPE = ["prompt", "negative_prompt", "seed", "steps", "sampler", "sampler_options", "schedule", "guidance", "width", "height", "strength"];
