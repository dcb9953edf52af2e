// A picture to begin with, and a mask that is painted on it. Files go to the engine as they are, and a recipe has
// their hashes; the mask is a PNG file of its own, white where the picture is made anew.

const $ = (id) => document.getElementById(id);
const TYPES = ["image/png", "image/jpeg", "image/webp"];
const STRENGTH = "0.75", WHOLE = "1"; // without a mask, and with one
const KEY_STEP = 0.04; // of the width, that an arrow key moves the brush

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

export class Begin {
  // `send(use, name, bytes)` sends a file; `complain(text)` says what is wrong; `resize(width, height)` sets the run's
  // size; `current()` promises the finished picture as [name, bytes].
  constructor({ send, complain, resize, current }) {
    Object.assign(this, { send, complain, resize, current, limits: null, file: null, hash: "", mask: null, expected: null, pending: new Map(), waiting: null, dirty: false });
    this.size = [64, 64];
    this.brush = [0.5, 0.5];
    $("init").addEventListener("change", () => this.choose($("init").files[0]));
    $("init-current").addEventListener("click", async () => {
      const [name, bytes] = await this.current();
      this.take(new File([bytes], name, { type: "image/png" }));
    });
    $("init-remove").addEventListener("click", () => this.clear());
    $("mask-file").addEventListener("change", () => this.maskFrom($("mask-file").files[0]));
    $("mask-clear").addEventListener("click", () => this.wipe());
    $("mask-invert").addEventListener("click", () => this.invert());
    $("mask-save").addEventListener("click", async () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([await this.maskFile()]));
      link.download = "mask.png";
      link.click();
    });
    $("strength").addEventListener("input", () => {
      this.chosen = true;
      this.told();
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => { // anywhere: a browser would leave the page for the file
      event.preventDefault();
      if (event.dataTransfer.files.length) this.choose(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => TYPES.includes(type));
      if (file) this.choose(file);
    });
    this.painting();
    this.show();
  }

  // What the engine takes; undefined where it takes no pictures.
  offer({ picture, cell, side }, size, needs) {
    this.limits = { picture, cell, side, size };
    $("begin").hidden = picture === undefined;
    if (needs) {
      $("begin").querySelector("details").open = true;
      $("init-note").textContent = `This model is ${needs}: it makes no picture from text alone. Choose a picture${needs.includes("inpaint") ? ", and paint where it is made anew" : ""}.`;
    }
  }

  choose(file) {
    $("init").value = "";
    if (!file) return;
    if (!this.limits?.picture) this.complain("a picture to begin with needs sd-scratch page");
    else if (!TYPES.includes(file.type)) this.complain(`${file.name} is no PNG, JPEG or WebP picture`);
    else if (file.size > this.limits.picture) this.complain(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB, and the page takes ${this.limits.picture / 1e6} - shrink it`);
    else this.take(file);
  }

  async take(file) {
    let bitmap = null;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      this.complain(`${file.name} cannot be read as a picture`);
      return;
    }
    const name = file.name.replace(/[\\/]/g, "_").slice(0, 200) || "picture.png";
    this.file = { name, bitmap, bytes: new Uint8Array(await file.arrayBuffer()) };
    this.hash = "";
    if (!this.expected) this.fit(bitmap);
    this.post("picture", name, this.file.bytes);
    this.resized(...this.size);
    this.show();
  }

  // The run's size: the picture's shape, with about as many pixels as the model was trained at.
  fit({ width, height }) {
    const { cell, side, size } = this.limits;
    const scale = Math.sqrt((size * size) / (width * height));
    const whole = (pixels) => Math.min(Math.max(Math.round((pixels * scale) / cell), 1) * cell, side);
    this.size = [whole(width), whole(height)];
    this.resize(...this.size);
  }

  // The form's size has changed, and what is painted with it.
  resized(width, height) {
    if (!(width > 0 && height > 0 && width <= 4096 && height <= 4096)) return;
    this.size = [width, height];
    const old = $("mask"), kept = canvasOf(old.width, old.height);
    kept.getContext("2d").drawImage(old, 0, 0);
    for (const id of ["ground", "mask"]) Object.assign($(id), { width, height });
    $("easel").style.aspectRatio = `${width} / ${height}`;
    if (this.file) $("ground").getContext("2d").drawImage(this.file.bitmap, 0, 0, width, height);
    if (!this.mask) return;
    const context = $("mask").getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(kept, 0, 0, width, height);
    this.dirty = true;
  }

  clear() {
    Object.assign(this, { file: null, hash: "", expected: null, chosen: false });
    this.wipe();
    $("init-note").textContent = "";
    $("init").focus();
  }

  // What a link says of a picture that it does not hold.
  expect(recipe) {
    this.expected = recipe.init_image_hash ? { name: String(recipe.init_image ?? ""), hash: recipe.init_image_hash, mask: Array.isArray(recipe.mask) ? recipe.mask : null } : null;
    this.chosen = false;
    if (!this.expected) return;
    $("begin").querySelector("details").open = true;
    if (recipe.strength !== undefined) {
      $("strength").value = recipe.strength;
      this.chosen = true;
    }
    if (this.expected.mask) {
      [, , , $("blend").value, $("content").value, $("feather").value] = this.expected.mask;
    }
    this.size = [Number($("width").value), Number($("height").value)];
    this.show();
  }

  show() {
    const { file, expected } = this;
    for (const id of ["easel-part", "init-remove"]) $(id).hidden = !file && !(expected && id === "init-remove");
    if (file) {
      const same = file.bitmap.width === this.size[0] && file.bitmap.height === this.size[1];
      const other = expected && this.hash && this.hash !== expected.hash ? ` It is another file than the link's ${expected.name}: the picture will differ.` : "";
      const mask = expected?.mask && !this.mask ? " The link has a mask too: choose its file, or paint one." : "";
      $("init-note").textContent = `${file.name}, ${file.bitmap.width} × ${file.bitmap.height} pixels${same ? "" : `, resized to ${this.size.join(" × ")}`}.${other}${mask}`;
    } else if (expected) $("init-note").textContent = `This link begins with the picture ${expected.name}. A picture travels in no link: choose the file.`;
    for (const id of ["mask-clear", "mask-invert", "mask-save"]) $(id).disabled = !this.mask;
    $("no-mask").hidden = Boolean(this.mask);
    this.told();
  }

  told() {
    $("strength-at").textContent = Number($("strength").value) === 1 ? "1: made anew from noise, in all steps" : `${$("strength").value}: made anew in the last ${Math.round(100 * $("strength").value)} % of the steps`;
  }

  // The mask ------------------------------------------------------------------------------------

  painting() {
    const mask = $("mask");
    let last = null;
    const at = (event) => {
      const box = mask.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    mask.addEventListener("pointerdown", (event) => {
      mask.setPointerCapture(event.pointerId);
      last = at(event);
      this.stroke(last, last);
    });
    mask.addEventListener("pointermove", (event) => {
      this.point(at(event));
      if (!mask.hasPointerCapture(event.pointerId)) return;
      const now = at(event);
      this.stroke(last, now);
      last = now;
    });
    mask.addEventListener("keydown", (event) => {
      const go = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!go && event.key !== " ") return;
      event.preventDefault();
      const before = this.brush;
      if (go) this.point(before.map((value, axis) => Math.min(Math.max(value + KEY_STEP * go[axis], 0), 1)));
      if (event.key === " " || event.shiftKey) this.stroke(before, this.brush);
    });
    for (const id of ["brush-size", "brush-kind"]) $(id).addEventListener("input", () => this.point(this.brush));
    this.point(this.brush);
  }

  // Where the brush stands.
  point(place) {
    this.brush = place;
    const ring = $("ring");
    ring.style.left = `${100 * place[0]}%`;
    ring.style.top = `${100 * place[1]}%`;
    ring.style.width = `${$("brush-size").value}%`;
  }

  stroke(from, to) {
    const [width, height] = this.size, context = $("mask").getContext("2d");
    context.globalCompositeOperation = $("brush-kind").value === "erase" ? "destination-out" : "source-over";
    context.strokeStyle = this.checks(context);
    context.lineCap = "round";
    context.lineWidth = Math.max(($("brush-size").value / 100) * width, 1);
    context.beginPath();
    context.moveTo(from[0] * width, from[1] * height);
    context.lineTo(to[0] * width + 0.01, to[1] * height);
    context.stroke();
    this.painted();
  }

  // The mask has changed: whether there is any, and how much is made anew.
  painted() {
    const had = this.mask, { data } = $("mask").getContext("2d").getImageData(0, 0, ...this.size);
    this.mask = null;
    for (let i = 3; i < data.length && !this.mask; i += 4) if (data[i] >= 128) this.mask = { hash: "" };
    this.dirty = Boolean(this.mask);
    if (!this.chosen && Boolean(had) !== Boolean(this.mask)) $("strength").value = this.mask ? WHOLE : STRENGTH;
    this.show();
  }

  // What the mask is painted with: black and white, to be seen on any picture.
  checks(context) {
    const side = Math.max(Math.round(this.size[0] / 32), 1), tile = canvasOf(2 * side, 2 * side), made = tile.getContext("2d");
    made.fillStyle = "#fff";
    made.fillRect(0, 0, 2 * side, 2 * side);
    made.fillStyle = "#000";
    for (const place of [0, side]) made.fillRect(place, place, side, side);
    return context.createPattern(tile, "repeat");
  }

  wipe() {
    $("mask").getContext("2d").clearRect(0, 0, ...this.size);
    this.painted();
  }

  invert() {
    const context = $("mask").getContext("2d");
    context.globalCompositeOperation = "xor";
    context.fillStyle = this.checks(context);
    context.fillRect(0, 0, ...this.size);
    this.painted();
  }

  // A mask's file: light is made anew. What is shown, and may be painted on, is what is sent.
  async maskFrom(file) {
    $("mask-file").value = "";
    if (!file) return;
    try {
      const bitmap = await createImageBitmap(file), [width, height] = this.size;
      const seen = canvasOf(width, height).getContext("2d");
      seen.fillRect(0, 0, width, height);
      seen.drawImage(bitmap, 0, 0, width, height);
      const image = seen.getImageData(0, 0, width, height);
      for (let i = 0; i < image.data.length; i += 4) {
        const grey = 0.299 * image.data[i] + 0.587 * image.data[i + 1] + 0.114 * image.data[i + 2];
        image.data[i + 3] = grey >= 128 ? 255 : 0;
      }
      const context = $("mask").getContext("2d");
      context.putImageData(image, 0, 0);
      context.globalCompositeOperation = "source-in";
      context.fillStyle = this.checks(context);
      context.fillRect(0, 0, width, height);
      this.painted();
      if (!this.mask) this.complain(`${file.name} has nothing light in it - what is white is made anew`);
    } catch {
      this.complain(`${file.name} cannot be read as a picture`);
    }
  }

  async maskFile() {
    const [width, height] = this.size, made = canvasOf(width, height), context = made.getContext("2d");
    const image = $("mask").getContext("2d").getImageData(0, 0, width, height);
    for (let i = 0; i < image.data.length; i += 4) image.data.fill(image.data[i + 3] >= 128 ? 255 : 0, i, i + 3).fill(255, i + 3, i + 4);
    context.putImageData(image, 0, 0);
    const blob = await new Promise((resolve) => made.toBlob(resolve, "image/png"));
    return new Uint8Array(await blob.arrayBuffer());
  }

  // To the engine ---------------------------------------------------------------------------------

  post(use, name, bytes) {
    this.pending.set(use, this.send(use, name, bytes));
  }

  // A new connection knows nothing of what was sent.
  again() {
    this.pending.clear();
    if (this.file) this.post("picture", this.file.name, this.file.bytes);
    this.dirty = Boolean(this.mask);
  }

  // The engine has read a file: the newest one of its kind counts.
  answered(id, use, hash) {
    if (this.pending.get(use) !== id) return;
    this.pending.delete(use);
    if (use === "picture") this.hash = hash;
    else if (this.mask) this.mask.hash = hash;
    this.show();
    this.go();
  }

  // The engine could not read one; whether it was one of these.
  failed(id) {
    const use = [...this.pending].find(([, sent]) => sent === id)?.[0];
    if (!use) return false;
    this.pending.delete(use);
    this.waiting = null;
    if (use === "picture") this.file = null;
    else this.wipe();
    this.show();
    return true;
  }

  // Calls back once the engine has everything: at once where it has; only the newest call counts.
  ready(call) {
    this.waiting = call;
    if (this.file && this.dirty) {
      this.dirty = false;
      this.pending.set("mask", 0); // until its file is made
      this.maskFile().then((bytes) => this.post("mask", "mask.png", bytes));
    }
    this.go();
  }

  go() {
    if (this.pending.size || !this.waiting) return;
    const call = this.waiting;
    this.waiting = null;
    call();
  }

  // For a recipe.
  get recipe() {
    const { file, expected } = this;
    if (!file && !expected) return {};
    const made = { init_image: file?.name ?? expected.name, init_image_hash: file ? this.hash : expected.hash, strength: Number($("strength").value) };
    if (this.mask) made.mask = ["mask.png", this.mask.hash, false, $("blend").value, $("content").value, Number($("feather").value), [0, 0, 0, 0]];
    else if (expected?.mask) made.mask = expected.mask;
    return made;
  }
}
