// Edits: a list of plain data, and the sliders and switches that write into it.

const $ = (id) => document.getElementById(id);
const PROBS = "unet.*.attn2.probs", CONTEXT = "text.context";

// The words of a prompt as an edit names them: ["cat", 2] for the second one of two.
export function wordKeys(words) {
  const count = new Map(), seen = new Map();
  for (const [text] of words) count.set(text.toLowerCase(), (count.get(text.toLowerCase()) ?? 0) + 1);
  return words.map(([text]) => {
    const low = text.toLowerCase();
    seen.set(low, (seen.get(low) ?? 0) + 1);
    return count.get(low) > 1 ? [text, seen.get(low)] : text;
  });
}

// A place between prompts has vectors, and no words or tokens that they came from.
const rests = (edit) => Boolean(edit.word ?? edit.words ?? edit.first) || (edit.tensors.startsWith("text.") && edit.tensors !== CONTEXT);

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const say = (word) => (Array.isArray(word) ? `"${word[0]}" (${word[1]})` : `"${word}"`);

// An edit as a sentence.
export function sentence(edit) {
  const where = edit.tensors === CONTEXT ? "" : ` in ${edit.tensors}`;
  const steps = edit.steps ? `, calls ${edit.steps[0]} to ${edit.steps[1]}` : "";
  const branch = edit.branch ? `, ${edit.branch}` : "";
  const what = {
    scale: () => `times ${edit.factor}`,
    add: () => `plus ${edit.value}`,
    set: () => `set to ${edit.value}`,
    ablate: () => `without ${edit.heads ? `heads ${edit.heads.join(", ")}` : edit.channels ? `channels ${edit.channels.join(", ")}` : edit.words ? edit.words.map(say).join(", ") : "all of it"}`,
    scale_word: () => `vectors of ${say(edit.word)} times ${edit.factor}`,
    reweight: () => `attention to ${edit.words.map((word, i) => `${say(word)} times ${edit.factors[i]}`).join(", ")}`,
    swap: () => `${say(edit.first)} and ${say(edit.second)} exchanged`,
  }[edit.edit]?.() ?? edit.edit;
  return `${what}${where}${steps}${branch}`;
}

export class Change {
  constructor(onChange, complain) {
    this.edits = [];
    this.words = [];
    this.place = null;
    Object.assign(this, { onChange, complain });
    $("what-of").addEventListener("change", () => this.showWords(this.words));
    $("edit-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.add();
    });
    $("edit-kind").addEventListener("change", () => this.hint());
    this.hint();
  }

  set(edits) {
    this.edits = edits;
    this.show();
    this.showWords(this.words);
  }

  // The edits that act: between prompts those of words rest, and those of the text encoder.
  acting(place) {
    return place ? this.edits.filter((edit) => !rests(edit)) : this.edits;
  }

  // A place between prompts is taken or left (null).
  rest(place) {
    if (Boolean(place) === Boolean(this.place)) return;
    this.place = place;
    $("words-rest").hidden = !place;
    this.show();
    this.showWords(this.words);
  }

  // `live` while something is being dragged.
  changed(live = false) {
    this.show();
    this.onChange(live);
  }

  show() {
    $("no-edits").hidden = this.edits.length > 0;
    $("edits").replaceChildren(...this.edits.map((edit, i) => {
      const item = document.createElement("li"), button = document.createElement("button");
      item.append(sentence(edit));
      if (this.place && rests(edit)) item.append(" (rests between prompts)");
      button.type = "button";
      button.textContent = "Undo";
      button.setAttribute("aria-label", `Undo: ${sentence(edit)}`);
      button.addEventListener("click", () => {
        this.edits.splice(i, 1);
        this.showWords(this.words);
        this.changed();
      });
      item.append(button);
      return item;
    }));
  }

  // The sliders -------------------------------------------------------------------------------

  find(key) {
    return this.edits.find((edit) => ($("what-of").value === "vector" ? edit.edit === "scale_word" && edit.tensors === CONTEXT && same(edit.word, key) : edit.edit === "reweight" && edit.tensors === PROBS && edit.words.length === 1 && same(edit.words[0], key)));
  }

  showWords(words) {
    this.words = words;
    const keys = wordKeys(words);
    if (!keys.length) return;
    $("words").replaceChildren(...keys.map((key, i) => {
      const row = document.createElement("div"), label = document.createElement("label"), slider = document.createElement("input"), output = document.createElement("output");
      row.className = "word";
      slider.type = "range";
      Object.assign(slider, { min: -1, max: 3, step: 0.1, id: `word-${i}` });
      label.htmlFor = slider.id;
      label.textContent = Array.isArray(key) ? `${key[0]} (${key[1]})` : key;
      const found = this.find(key);
      slider.value = found ? (found.factor ?? found.factors[0]) : 1;
      output.textContent = `× ${slider.value}`;
      slider.disabled = Boolean(this.place);
      slider.addEventListener("input", () => {
        output.textContent = `× ${slider.value}`;
        this.turn(key, Number(slider.value));
      });
      slider.addEventListener("change", () => this.onChange(false));
      row.append(label, slider, output);
      return row;
    }));
  }

  turn(key, factor) {
    const found = this.find(key);
    const edit = $("what-of").value === "vector" ? { tensors: CONTEXT, edit: "scale_word", word: key, factor } : { tensors: PROBS, edit: "reweight", words: [key], factors: [factor] };
    if (found) this.edits.splice(this.edits.indexOf(found), 1, ...(factor === 1 ? [] : [edit]));
    else if (factor !== 1) this.edits.push(edit);
    this.changed(true);
  }

  // The switches of heads -----------------------------------------------------------------------

  off(name) {
    return this.edits.find((edit) => edit.edit === "ablate" && edit.tensors === name && edit.heads)?.heads ?? [];
  }

  head(name, head, on) {
    const off = this.off(name).filter((each) => each !== head);
    if (!on) off.push(head);
    this.edits = this.edits.filter((edit) => !(edit.edit === "ablate" && edit.tensors === name && edit.heads));
    if (off.length) this.edits.push({ tensors: name, edit: "ablate", heads: off.sort((a, b) => a - b) });
    this.changed();
  }

  // The form --------------------------------------------------------------------------------------

  hint() {
    const kind = $("edit-kind").value;
    const [label, value, tensors] = {
      scale: ["Factor", "1.2"],
      add: ["Number", "0.1"],
      set: ["Number", "0"],
      ablate: ["Heads or channels, such as head 0 2", ""],
      swap: ["Two words", this.words.slice(0, 2).map(([text]) => text).join(" "), PROBS],
      reweight: ["Word and factor", "red 0", PROBS],
    }[kind];
    $("edit-number-label").textContent = label;
    $("edit-number").value = value;
    if (tensors) $("edit-tensors").value = tensors;
  }

  add() {
    try {
      this.edits.push(this.read());
    } catch (error) {
      this.complain(error.message);
      return;
    }
    this.showWords(this.words);
    this.changed();
  }

  read() {
    const edit = { tensors: $("edit-tensors").value.trim(), edit: $("edit-kind").value };
    const text = $("edit-number").value.trim(), parts = text.split(/\s+/).filter(Boolean);
    const number = (part) => {
      if (part === undefined || part === "" || !Number.isFinite(Number(part))) throw new Error(`"${part ?? ""}" is no number - write one such as 1.2`);
      return Number(part);
    };
    if (edit.edit === "scale") edit.factor = number(text);
    else if (edit.edit === "add" || edit.edit === "set") edit.value = number(text);
    else if (edit.edit === "swap") {
      if (parts.length !== 2) throw new Error("write two words of the prompt, with a space between");
      [edit.first, edit.second] = parts;
    } else if (edit.edit === "reweight") {
      if (parts.length !== 2) throw new Error("write a word of the prompt and a factor, such as red 0");
      Object.assign(edit, { words: [parts[0]], factors: [number(parts[1])] });
    } else if (parts.length) {
      const axis = { head: "heads", heads: "heads", channel: "channels", channels: "channels" }[parts[0]];
      if (!axis || parts.length < 2) throw new Error("write head or channel and their numbers, such as head 0 2, or nothing for all");
      edit[axis] = parts.slice(1).map(number);
    }
    const [first, last] = [$("edit-first").value, $("edit-last").value];
    if (first !== "" || last !== "") edit.steps = [Number(first || 0), Number(last || 149)];
    if ($("edit-branch").value) edit.branch = $("edit-branch").value;
    return edit;
  }

  // From an open tensor to the form.
  prefill(name) {
    $("edit-tensors").value = name;
    const details = document.querySelector("#edit-form details");
    details.open = true;
    details.querySelector("select").focus();
  }
}
