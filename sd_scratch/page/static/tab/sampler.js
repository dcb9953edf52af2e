// Samplers without fresh noise, on the ladders of timesteps that the package has under the same names.
// DDIM (Song et al. 2020, arXiv:2010.02502, equation 12) ends at the schedule's first alpha_bar; Euler (Karras
// et al. 2022, arXiv:2206.00364) is the same step in other coordinates, to sigma = 0; DPM-Solver++(2M) (Lu et
// al. 2022, arXiv:2211.01095, algorithm 2) goes to x0 as it follows from two answers.

export const SAMPLERS = ["ddim", "euler", "dpmpp_2m"];
const sigmaOf = (alphaBar) => Math.sqrt((1 - alphaBar) / alphaBar);

const SPACINGS = {
  leading(T, steps, offset) {
    const stride = Math.floor(T / steps);
    const first = Math.min(offset, T - 1 - (steps - 1) * stride);
    return (i) => i * stride + first;
  },
  trailing: (T, steps) => (i) => halfToEven(T - ((steps - 1 - i) * T) / steps) - 1,
};

function halfToEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 ? below + 1 : below;
}

// Timesteps from noise to picture, with the alpha_bar of each and of the one below it.
export function ladder(manifest, steps, sampler = "ddim") {
  const { alpha_bars: alphaBars, steps_offset: offset, set_alpha_to_one: toOne, spacing } = manifest;
  if (!(spacing in SPACINGS)) throw new Error(`the spacing ${spacing} is not known in the tab`);
  if (!(steps >= 1 && steps <= alphaBars.length)) {
    throw new RangeError(`steps: give a whole number from 1 to ${alphaBars.length}`);
  }
  const at = steps === 1 ? () => alphaBars.length - 1 : SPACINGS[spacing](alphaBars.length, steps, offset);
  const rungs = [];
  for (let i = steps - 1; i >= 0; i--) rungs.push({ t: at(i), alphaBar: alphaBars[at(i)] });
  const last = toOne || sampler !== "ddim" ? 1 : alphaBars[0];
  return rungs.map((rung, i) => ({ ...rung, next: i + 1 < rungs.length ? rungs[i + 1].alphaBar : last }));
}

// The network's answer as clean sample and noise; all arrays are Float32Array of one length.
export function interpret(kind, answer, sample, alphaBar) {
  const signal = Math.sqrt(alphaBar);
  const noise = Math.sqrt(1 - alphaBar);
  const x0 = new Float32Array(sample.length);
  const eps = new Float32Array(sample.length);
  for (let i = 0; i < sample.length; i++) {
    if (kind === "v_prediction") {
      x0[i] = signal * sample[i] - noise * answer[i];
      eps[i] = noise * sample[i] + signal * answer[i];
    } else if (kind === "sample") {
      x0[i] = answer[i];
      eps[i] = (sample[i] - signal * answer[i]) / noise;
    } else {
      eps[i] = answer[i];
      x0[i] = (sample[i] - noise * answer[i]) / signal;
    }
  }
  return { x0, eps };
}

// What unit noise is multiplied with to stand on the first rung: DDIM begins with unit variance, samplers in
// sigma with sigma in their coordinates, unless a ladder begins as low as leading ones do.
export function noiseScale({ spacing }, rungs, sampler) {
  return sampler === "ddim" || spacing === "leading" ? 1 : Math.sqrt(1 - rungs[0].alphaBar);
}

// The sample one rung further down, from rung i. `before` is the x0 of the step before, or null.
export function step({ x0, eps }, rungs, i, sampler, before) {
  const { alphaBar, next } = rungs[i];
  const signal = Math.sqrt(next), noise = Math.sqrt(1 - next);
  let ahead = 0; // how much further than x0 the line through two x0 is followed
  if (sampler === "dpmpp_2m" && before && i < rungs.length - 1) {
    const [above, here, below] = [rungs[i - 1].alphaBar, alphaBar, next].map(sigmaOf);
    ahead = ((1 - below / here) * Math.log(here / below)) / (2 * Math.log(above / here));
  }
  return x0.map((x, k) => signal * (ahead ? x + ahead * (x - before[k]) : x) + noise * eps[k]);
}

// Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) of an answer [uncond, cond].
export function guide(both, scale) {
  const half = both.length / 2;
  const answer = new Float32Array(half);
  for (let i = 0; i < half; i++) answer[i] = both[i] + scale * (both[half + i] - both[i]);
  return answer;
}
