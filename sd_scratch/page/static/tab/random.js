// The noise of a seed, as PyTorch draws it on a processor: the Mersenne Twister (Matsumoto and Nishimura
// 1998) and the Box-Muller transform, so that a picture in the tab has the seed of a picture anywhere else.

const N = 624;
const M = 397;

export class MersenneTwister {
  // seed: a BigInt or a whole number; as in PyTorch its lower 32 bits count.
  constructor(seed) {
    this.state = new Uint32Array(N);
    this.state[0] = Number(BigInt.asUintN(32, BigInt(seed)));
    for (let i = 1; i < N; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, before) + i;
    }
    this.next = N;
  }

  // 32 random bits.
  bits() {
    if (this.next === N) this.twist();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  twist() {
    const s = this.state;
    for (let i = 0; i < N; i++) {
      const y = (s[i] & 0x80000000) | (s[(i + 1) % N] & 0x7fffffff);
      s[i] = s[(i + M) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  // `count` numbers of unit variance, at least 16, in fp32.
  normal(count) {
    if (count < 16) throw new RangeError("fewer than 16 numbers are drawn in another way");
    const x = new Float32Array(count);
    const uniform = () => (this.bits() & 0xffffff) / 0x1000000;
    for (let i = 0; i < count; i++) x[i] = uniform();
    for (let i = 0; i + 15 < count; i += 16) boxMuller(x, i);
    if (count % 16) {
      // The last sixteen once more, as the numbers of a count that 16 divides are made in blocks.
      for (let i = count - 16; i < count; i++) x[i] = uniform();
      boxMuller(x, count - 16);
    }
    return x;
  }
}

function boxMuller(x, first) {
  for (let j = first; j < first + 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - x[j]));
    const angle = 2 * Math.PI * x[j + 8];
    x[j] = radius * Math.cos(angle);
    x[j + 8] = radius * Math.sin(angle);
  }
}
