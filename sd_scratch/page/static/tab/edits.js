// Edits of the tab's engine: factors of cross-attention, which the graphs take as an input, and changes of the text's
// vectors, which are made here. sd_scratch/tensors/edits.py says what each does.

const CONTEXT = "text.context";
const KINDS = { scale: ["factor"], add: ["value"], set: ["value"], ablate: ["words", "heads"], scale_word: ["word", "factor", "origin"], reweight: ["words", "factors"] };

export const EDITS = KINDS;

// A shell's pattern, as Python's fnmatch reads it.
function glob(pattern) {
  const text = pattern.replace(/[.+^${}()|\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".").replace(/\[!/g, "[^");
  return new RegExp(`^${text}$`);
}

// A word's places in a prompt: "cat", or ["cat", 2] for the second one.
function find({ words }, key) {
  const [text, nth] = Array.isArray(key) ? key : [key, 0];
  const found = words.filter((word) => word.text.toLowerCase() === String(text).toLowerCase());
  if (!found.length) throw new RangeError(`no word '${text}' in the prompt`);
  if (!nth && found.length > 1) throw new RangeError(`the word '${text}' stands ${found.length} times in the prompt - say which one is meant`);
  if (nth > found.length) throw new RangeError(`the word '${text}' stands ${found.length} times in the prompt, there is no number ${nth}`);
  return found[Math.max(nth - 1, 0)].positions;
}

// Edits as a page writes them, read for an engine: `attention` are factors, `context` changes of vectors. `encodings` are
// those of the prompt (cond) and the negative prompt (uncond). Throws a RangeError for what is not to be had in a tab.
export function readEdits(edits, encodings, layers) {
  const attention = [], context = [];
  for (const edit of edits) {
    if (!(edit.edit in KINDS)) throw new RangeError(`the engine in the tab has no edit '${edit.edit}'`);
    for (const key of Object.keys(edit)) if (!["tensors", "edit", "steps", "branch", ...KINDS[edit.edit]].includes(key)) throw new RangeError(`'${key}' of the edit ${edit.edit} needs sd-scratch page`);
    const worded = Boolean(edit.words ?? edit.word);
    const branch = edit.branch ?? (worded ? "cond" : null);
    const encoding = encodings[branch ?? "cond"];
    if (edit.tensors === CONTEXT) {
      if (edit.steps) throw new RangeError("the text's vectors are made once in a run - leave out the steps");
      context.push({ branch, change: changeOf(edit, encoding) });
      continue;
    }
    const leaf = /(?:^|[.*])attn2\.(probs|z)$/.exec(edit.tensors ?? "")?.[1];
    const pattern = glob(edit.tensors ?? "");
    const chosen = layers.flatMap((layer, i) => (pattern.test(`${layer}.${leaf}`) ? [i] : []));
    if (!leaf || !chosen.length) throw new RangeError("the engine in the tab edits text.context, and attn2.probs and attn2.z of its layers - other tensors need sd-scratch page");
    for (const [positions, factor] of factorsOf(edit, leaf, encoding)) attention.push({ layers: chosen, heads: edit.heads ?? null, positions, factor, branch, steps: edit.steps ?? null });
  }
  return { attention, context };
}

// What attention is multiplied by, and where among the tokens; null for all.
function factorsOf(edit, leaf, encoding) {
  const ofProbs = (pairs) => {
    if (leaf !== "probs") throw new RangeError("words are edited in attn2.probs or text.context");
    return pairs;
  };
  if (edit.edit === "reweight") return ofProbs(edit.words.map((word, i) => [find(encoding, word), edit.factors[i]]));
  if (edit.edit === "ablate" && edit.words) return ofProbs(edit.words.map((word) => [find(encoding, word), 0]));
  if (edit.edit === "ablate") return [[null, 0]];
  if (edit.edit === "scale") return [[null, edit.factor]];
  if (edit.edit === "set" && edit.value === 0) return [[null, 0]];
  throw new RangeError(`the engine in the tab multiplies attention, and cannot do '${edit.edit}' there - that needs sd-scratch page`);
}

// A function that changes rows of vectors [tokens][channels], given those of the empty prompt.
function changeOf(edit, encoding) {
  const each = (positions, change) => (rows, empty) => positions(rows).forEach((p) => rows[p].forEach((x, c) => (rows[p][c] = change(x, empty[p][c]))));
  const all = (rows) => rows.map((_, i) => i);
  if (edit.edit === "scale") return each(all, (x) => x * edit.factor);
  if (edit.edit === "add") return each(all, (x) => x + edit.value);
  if (edit.edit === "set") return each(all, () => edit.value);
  if (edit.edit === "ablate" && !edit.heads) {
    const places = edit.words?.flatMap((word) => find(encoding, word));
    return each(places ? () => places : all, () => 0);
  }
  if (edit.edit === "scale_word") {
    const places = find(encoding, edit.word);
    return each(() => places, (x, empty) => (edit.origin === "empty" ? empty + (x - empty) * edit.factor : x * edit.factor));
  }
  throw new RangeError(`the engine in the tab cannot do '${edit.edit}' to the text's vectors`);
}

// The input `factors` [2, layers, heads, tokens] of one call of the U-Net: first the branch without the prompt.
export function factorsAt(attention, call, [, layers, heads, tokens]) {
  const values = new Float32Array(2 * layers * heads * tokens).fill(1);
  for (const edit of attention) {
    if (edit.steps && (call < edit.steps[0] || call > edit.steps[1])) continue;
    for (const [b, branch] of ["uncond", "cond"].entries()) {
      if (edit.branch && edit.branch !== branch) continue;
      for (const layer of edit.layers) {
        for (let head = 0; head < heads; head++) {
          if (edit.heads && !edit.heads.includes(head)) continue;
          const start = ((b * layers + layer) * heads + head) * tokens;
          if (edit.positions) for (const place of edit.positions) values[start + place] *= edit.factor;
          else for (let place = 0; place < tokens; place++) values[start + place] *= edit.factor;
        }
      }
    }
  }
  return values;
}

// The vectors [2, tokens, channels] with their edits; `empty` [2, tokens, channels] has the empty prompt's in both.
export function edited(context, empty, edits, tokens) {
  if (!edits.length) return context;
  const copy = Float32Array.from(context), channels = copy.length / (2 * tokens);
  const rowsOf = (values, b) => Array.from({ length: tokens }, (_, i) => values.subarray((b * tokens + i) * channels, (b * tokens + i + 1) * channels));
  for (const { branch, change } of edits) {
    for (const [b, name] of ["uncond", "cond"].entries()) if (!branch || branch === name) change(rowsOf(copy, b), rowsOf(empty, b));
  }
  return copy;
}
