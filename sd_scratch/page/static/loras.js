// LoRAs of the folder that the page was started with: chosen by name, each with how much of it.

const $ = (id) => document.getElementById(id);
const MOST = 2;

export class Loras {
  // `onChange(live)` is told of every change; `onFew(settings)` where one was distilled for few steps.
  constructor({ onChange, onFew }) {
    Object.assign(this, { onChange, onFew, rows: [], offered: [] });
    $("lora").addEventListener("change", () => {
      const name = $("lora").value;
      $("lora").value = "";
      if (name) this.add(name);
    });
  }

  // What the engine offers; undefined where it takes none.
  offer(loras) {
    this.offered = loras ?? [];
    $("loras").hidden = loras === undefined;
    $("lora").replaceChildren(new Option("choose one", ""), ...this.offered.map(({ name }) => new Option(name, name)));
    $("lora-choice").hidden = !this.offered.length;
    this.show();
  }

  add(name) {
    if (!this.rows.some((row) => row[0] === name)) this.rows.push([name, 1, 1, ""]);
    this.show();
    const few = this.offered.find((each) => each.name === name)?.few;
    if (few) this.onFew(name, few);
    this.onChange(false);
  }

  // Those of a link: name, scale, scale of the text encoder, hash.
  set(rows) {
    this.rows = Array.isArray(rows) ? rows.filter(Array.isArray).map((row) => [...row]) : [];
    if (this.rows.length) $("loras").querySelector("details").open = true;
    this.show();
  }

  show() {
    $("no-loras").hidden = this.rows.length > 0;
    $("no-loras").textContent = this.offered.length ? "None: the model is as it was loaded." : "None to choose from: sd-scratch page --lora-dir FOLDER offers those of a folder.";
    $("lora-rows").replaceChildren(...this.rows.map((row, i) => {
      const part = document.createElement("div"), label = document.createElement("label"), slider = document.createElement("input"), output = document.createElement("output"), button = document.createElement("button");
      part.className = "word";
      Object.assign(slider, { type: "range", min: Math.min(-1, row[1]), max: Math.max(MOST, row[1]), step: 0.05, id: `lora-${i}`, value: row[1] });
      label.htmlFor = slider.id;
      label.textContent = row[0];
      const told = () => {
        output.textContent = row[1] === row[2] ? `× ${row[1]}` : `× ${row[1]}, text × ${row[2]}`;
      };
      told();
      slider.addEventListener("input", () => {
        row[1] = row[2] = Number(slider.value);
        told();
        this.onChange(true);
      });
      slider.addEventListener("change", () => this.onChange(false));
      button.type = "button";
      button.textContent = "Remove";
      button.setAttribute("aria-label", `Remove ${row[0]}`);
      button.addEventListener("click", () => {
        this.rows.splice(i, 1);
        this.show();
        $("lora").focus();
        this.onChange(false);
      });
      part.append(label, slider, output, button);
      const words = this.offered.find((each) => each.name === row[0])?.words ?? [];
      if (words.length) {
        const note = document.createElement("p");
        note.className = "note";
        note.id = `lora-words-${i}`;
        note.textContent = `Trained with the words: ${words.join(", ")}`;
        slider.setAttribute("aria-describedby", note.id);
        part.append(note);
      }
      return part;
    }));
  }

  // For a recipe; a hash stands only in links.
  get recipe() {
    return this.rows.length ? { loras: this.rows.map((row) => [...row]) } : {};
  }
}
