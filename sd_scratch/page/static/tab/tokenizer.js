// CLIP's byte-level BPE, with the place of every token in the text as it was typed.

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const PATTERN = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;
const WORD = /[\p{L}\p{N}][\p{L}\p{N}\p{M}\p{Cf}]*|[^\s\p{L}\p{N}\p{P}!-~]+/gu;
const LONGEST = 10000; // characters of a text; what a model reads is far less

export class Tokenizer {
  // vocabulary: token -> id; merges: lines "a b" in the order of learning; length: tokens that a model reads.
  constructor(vocabulary, merges, length) {
    this.vocabulary = vocabulary;
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.length = length;
    this.symbols = byteSymbols();
    this.cache = new Map();
  }

  static async load(folder, length, fetcher = fetch) {
    const [vocabulary, merges] = await Promise.all([
      fetcher(`${folder}/vocab.json`).then((answer) => answer.json()),
      fetcher(`${folder}/merges.txt`).then((answer) => answer.text()),
    ]);
    const lines = merges.split("\n").filter((line) => line && !line.startsWith("#version"));
    return new Tokenizer(vocabulary, lines, length);
  }

  // {ids, tokens, words, cut}: `length` ids, start and end included; a token has its id, its position among
  // them, and start and end in the text (after NFC); a word has its text and the positions of its tokens.
  encode(typed) {
    const text = typed.slice(0, LONGEST).normalize("NFC");
    const all = [...text.matchAll(PATTERN)].flatMap((match) => this.tokens(match[0], match.index));
    const tokens = all.slice(0, this.length - 2).map((token, i) => ({ ...token, position: i + 1 }));
    const ids = [this.vocabulary[START], ...tokens.map((token) => token.id)];
    while (ids.length < this.length) ids.push(this.vocabulary[END]);
    return { ids, tokens, words: words(text, tokens), cut: all.length - tokens.length };
  }

  // The tokens of one piece of text that stands at `start`.
  tokens(written, start) {
    const lower = written.toLowerCase();
    // For every byte the place of its character, for its piece; where lower case is longer, of the whole.
    const places = [];
    for (const character of lower.length === written.length ? lower : "") {
      const at = places.length ? places[places.length - 1][1] : start;
      for (const _ of new TextEncoder().encode(character)) places.push([at, at + character.length]);
    }
    let byte = 0;
    return this.pieces(lower).map((piece) => {
      const from = places[byte]?.[0] ?? start;
      byte += piece.startsWith("<|") ? 0 : piece.replace("</w>", "").length;
      const end = places[byte - 1]?.[1] ?? start + written.length;
      return { id: this.vocabulary[piece], text: piece, start: from, end };
    });
  }

  pieces(word) {
    if (word === START || word === END) return [word];
    if (!this.cache.has(word)) this.cache.set(word, this.merge(word));
    return this.cache.get(word);
  }

  // The pair that was learnt first is joined first, until no pair is known.
  merge(word) {
    const bytes = new TextEncoder().encode(word);
    let parts = Array.from(bytes, (byte) => this.symbols[byte]);
    parts[parts.length - 1] += "</w>";
    while (parts.length > 1) {
      let best = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) {
        best = Math.min(best, this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity);
      }
      if (best === Infinity) break;
      const joined = [];
      for (let i = 0; i < parts.length; i++) {
        if (this.ranks.get(`${parts[i]} ${parts[i + 1]}`) === best) {
          joined.push(parts[i] + parts[i + 1]);
          i++;
        } else {
          joined.push(parts[i]);
        }
      }
      parts = joined;
    }
    return parts;
  }
}

// What stands between white space and punctuation, with whole tokens; what shares a token is one word.
function words(text, tokens) {
  const found = [];
  let first = 0;
  for (const match of text.matchAll(WORD)) {
    let [start, end] = [match.index, match.index + match[0].length];
    while (first < tokens.length && tokens[first].end <= start) first++;
    let last = first;
    while (last < tokens.length && tokens[last].start < end) last++;
    if (first === last) continue;
    let from = first;
    const before = found[found.length - 1];
    if (before && before.last > first) {
      found.pop();
      [from, start] = [before.first, before.start];
    }
    start = Math.min(start, tokens[from].start);
    end = Math.max(end, tokens[last - 1].end);
    found.push({ start, end, first: from, last });
  }
  return found.map(({ start, end, first: from, last }) => ({
    text: text.slice(start, end),
    start,
    end,
    positions: tokens.slice(from, last).map((token) => token.position),
  }));
}

// One visible character for every byte: itself where Latin-1 prints it, else one from U+0100 on.
function byteSymbols() {
  const symbols = new Array(256);
  let hidden = 0;
  for (let byte = 0; byte < 256; byte++) {
    const visible = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte < 0xad) || byte > 0xad;
    symbols[byte] = String.fromCharCode(visible ? byte : 0x100 + hidden++);
  }
  return symbols;
}
