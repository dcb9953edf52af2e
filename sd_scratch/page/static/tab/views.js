// A tensor of the tab's engine as the page draws it; sd_scratch/page/views.py does the same.

// `row` is the manifest's, `data` that of one branch without the batch, `encoding` the prompt's.
export function view(row, data, encoding) {
  const axes = row.axes.slice(1), shape = row.shape.slice(1), labels = {};
  if (axes.join() === "head,query,token" && row.hw) {
    const [heads, places, tokens] = shape;
    const groups = groupsOf(encoding, tokens);
    labels.word = groups.map(([name]) => name);
    const values = new Float32Array(heads * groups.length * places);
    for (let h = 0; h < heads; h++) {
      groups.forEach(([, positions], w) => {
        for (let p = 0; p < places; p++) {
          let sum = 0;
          for (const position of positions) sum += data[(h * places + p) * tokens + position];
          values[(h * groups.length + w) * places + p] = sum;
        }
      });
    }
    return { kind: "maps", values, axes: ["head", "word", "height", "width"], shape: [heads, groups.length, ...row.hw], labels };
  }
  const kind = axes.at(-1) === "width" ? "maps" : axes.length > 1 ? "table" : axes.length ? "bars" : "number";
  return { kind, values: Float32Array.from(data), axes, shape, labels };
}

// Each word's places among the tokens, and the tokens that stand for no word.
function groupsOf({ words, tokens: text }, tokens) {
  const groups = words.map(({ text: name, positions }) => [name, positions]);
  const taken = new Set(groups.flatMap(([, positions]) => positions));
  const places = text.map(({ position }) => position);
  const end = Math.max(0, ...places) + 1;
  const others = [
    ["(start)", [0]],
    ["(other)", places.filter((place) => !taken.has(place))],
    ["(end)", end < tokens ? [end] : []],
    ["(padding)", Array.from({ length: Math.max(tokens - end - 1, 0) }, (_, i) => end + 1 + i)],
  ];
  return [...groups, ...others].filter(([, positions]) => positions.length);
}

export function statistics(data) {
  let [min, max, sum, square, count] = [Infinity, -Infinity, 0, 0, 0];
  for (const value of data) {
    if (!Number.isFinite(value)) continue;
    [min, max, sum, square, count] = [Math.min(min, value), Math.max(max, value), sum + value, square + value * value, count + 1];
  }
  if (!count) return { min: null, max: null, mean: null, std: null, not_finite: data.length };
  const mean = sum / count;
  return { min, max, mean, std: Math.sqrt(Math.max(square / count - mean * mean, 0)), not_finite: data.length - count };
}
