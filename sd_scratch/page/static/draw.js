// Numbers to pixels: pictures, and tensors as maps, tables and bars.

// From low to high, dark to light; and from negative over zero to positive.
const RISING = [[13, 20, 60], [62, 44, 126], [142, 52, 118], [214, 80, 78], [247, 148, 59], [252, 226, 120], [255, 252, 214]];
const SIGNED = [[16, 78, 139], [88, 148, 200], [190, 214, 233], [246, 244, 238], [240, 196, 170], [212, 106, 80], [140, 28, 32]];

function along(stops, share) {
  const x = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(x), stops.length - 2);
  return stops[i].map((value, c) => value + (stops[i + 1][c] - value) * (x - i));
}

const table = (stops) => Array.from({ length: 256 }, (_, i) => along(stops, i / 255).map(Math.round));
const PALETTES = { rising: table(RISING), signed: table(SIGNED) };

// How numbers become colours: one scale for all of a view.
export function scaleOf(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(low <= high)) [low, high] = [0, 0];
  if (low < 0) {
    const most = Math.max(-low, high);
    return { low: -most, high: most, palette: PALETTES.signed };
  }
  return { low: 0, high, palette: PALETTES.rising };
}

export function paint(image, values, start, count, scale, place = (i) => i) {
  const span = scale.high - scale.low || 1;
  for (let i = 0; i < count; i++) {
    const value = values[start + i];
    const colour = Number.isFinite(value) ? scale.palette[Math.round(Math.min(Math.max((value - scale.low) / span, 0), 1) * 255)] : [255, 0, 255];
    const at = 4 * place(i);
    image.data[at] = colour[0];
    image.data[at + 1] = colour[1];
    image.data[at + 2] = colour[2];
    image.data[at + 3] = 255;
  }
}

// One matrix on a canvas, a pixel a number.
export function matrix(canvas, values, start, rows, columns, scale) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  paint(image, values, start, rows * columns, scale);
  context.putImageData(image, 0, 0);
}

// Many matrices on one canvas, side by side with a gap of a pixel.
export function grid(canvas, values, count, rows, columns, across, scale) {
  canvas.width = across * (columns + 1) - 1;
  canvas.height = Math.ceil(count / across) * (rows + 1) - 1;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let n = 0; n < count; n++) {
    const left = (n % across) * (columns + 1), top = Math.floor(n / across) * (rows + 1);
    paint(image, values, n * rows * columns, rows * columns, scale, (i) => (top + Math.floor(i / columns)) * canvas.width + left + (i % columns));
  }
  context.putImageData(image, 0, 0);
}

// Red, green and blue of every pixel on a canvas.
export function picture(canvas, { width, height, pixels }) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// Two pictures of one size: their difference four times as strong, and how far apart they are.
export function difference(a, b) {
  if (a.width !== b.width || a.height !== b.height) return null;
  const pixels = new Uint8Array(a.pixels.length);
  let differing = 0, most = 0;
  for (let i = 0; i < a.pixels.length; i += 3) {
    let apart = 0;
    for (let c = 0; c < 3; c++) {
      const d = Math.abs(a.pixels[i + c] - b.pixels[i + c]);
      pixels[i + c] = Math.min(4 * d, 255);
      apart = Math.max(apart, d);
    }
    if (apart) differing++;
    most = Math.max(most, apart);
  }
  return { width: a.width, height: a.height, pixels, share: (3 * differing) / a.pixels.length, most };
}

export function legend(scale) {
  const row = document.createElement("div");
  row.className = "scale";
  const bar = document.createElement("canvas");
  const values = Float32Array.from({ length: 128 }, (_, i) => scale.low + ((scale.high - scale.low) * i) / 127);
  matrix(bar, values, 0, 1, 128, scale);
  bar.setAttribute("aria-hidden", "true");
  row.append(short(scale.low), bar, short(scale.high));
  return row;
}

export function short(value) {
  if (value === null || value === undefined) return "none";
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}
