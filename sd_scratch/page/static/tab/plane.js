// The plane in which the vectors of some prompts differ most (principal components, Pearson 1901), as
// sd_scratch.mapping.movement has it.

// `rows`: one Float32Array for each prompt. Directions are found from the inner products of the rows, which
// are few, by Jacobi's rotations.
export class Plane {
  constructor(rows) {
    const n = rows.length, size = rows[0].length, count = Math.min(n - 1, 2);
    this.mean = new Float64Array(size);
    for (const row of rows) for (let i = 0; i < size; i++) this.mean[i] += row[i] / n;
    const apart = rows.map((row) => Float64Array.from(row, (x, i) => x - this.mean[i]));
    const { values, vectors } = eigen(apart.map((a) => apart.map((b) => a.reduce((sum, x, i) => sum + x * b[i], 0))));
    const total = values.reduce((a, b) => a + Math.max(b, 0), 0);
    if (!(values[count - 1] > 1e-14 * total)) throw new Error("the prompts do not differ in so many directions");
    this.directions = [];
    for (let k = 0; k < count; k++) {
      const direction = new Float64Array(size);
      apart.forEach((row, r) => {
        const share = vectors[r][k] / Math.sqrt(values[k]);
        for (let i = 0; i < size; i++) direction[i] += share * row[i];
      });
      const largest = direction.reduce((best, x, i) => (Math.abs(x) > Math.abs(direction[best]) ? i : best), 0);
      this.directions.push(direction[largest] < 0 ? direction.map((x) => -x) : direction);
    }
    this.explained = values.slice(0, count).map((value) => value / total);
    this.places = apart.map((row) => this.directions.map((d) => d.reduce((sum, x, i) => sum + x * row[i], 0)));
    // What sets a landmark apart from the plane.
    this.rest = apart.map((row, r) => row.map((x, i) => x - this.directions.reduce((sum, d, k) => sum + d[i] * this.places[r][k], 0)));
  }

  // The vectors at a place: the plane's, and what the landmarks lend, weighted by the inverse square of their
  // distance (Shepard 1968).
  at(place) {
    const squares = this.places.map((mark) => mark.reduce((sum, x, k) => sum + (x - place[k]) ** 2, 0));
    const scale = this.places.flat().reduce((sum, x) => sum + x * x, 0);
    const here = squares.map((square) => square < 1e-12 * scale);
    const weights = here.some(Boolean) ? here.map(Number) : squares.map((square) => 1 / square);
    const total = weights.reduce((a, b) => a + b, 0);
    const made = new Float32Array(this.mean.length);
    for (let i = 0; i < made.length; i++) {
      let value = this.mean[i];
      this.directions.forEach((d, k) => (value += d[i] * place[k]));
      this.rest.forEach((rest, r) => (value += (weights[r] / total) * rest[i]));
      made[i] = value;
    }
    return made;
  }
}

// Eigenvalues, the largest first, and eigenvectors (columns) of a symmetric matrix.
function eigen(matrix) {
  const n = matrix.length, a = matrix.map((row) => [...row]);
  const v = a.map((_, i) => a.map((_, j) => Number(i === j)));
  for (let sweep = 0; sweep < 60; sweep++) {
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(a[p][q]) < 1e-300) continue;
        const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1), s = t * c;
        for (let k = 0; k < n; k++) [a[k][p], a[k][q]] = [c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]];
        for (let k = 0; k < n; k++) [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
        for (let k = 0; k < n; k++) [v[k][p], v[k][q]] = [c * v[k][p] - s * v[k][q], s * v[k][p] + c * v[k][q]];
      }
    }
  }
  const order = a.map((_, i) => i).sort((i, j) => a[j][j] - a[i][i]);
  return { values: order.map((i) => a[i][i]), vectors: v.map((row) => order.map((i) => row[i])) };
}
