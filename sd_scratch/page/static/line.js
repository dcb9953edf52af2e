// The line to the engine behind the server: messages out, answers in. docs/page.md has the format.

const PROTOCOL = "sd-scratch-page";
const KEY = "sd-scratch-token";

// The token of this start, out of the address and kept for a reload.
export function takeToken() {
  const found = /[#&]token=([\w-]+)/.exec(location.hash);
  if (found) {
    localStorage.setItem(KEY, found[1]);
    const rest = location.hash.slice(1).split("&").filter((part) => !part.startsWith("token="));
    history.replaceState(null, "", rest.length ? `#${rest.join("&")}` : location.pathname);
  }
  return localStorage.getItem(KEY) ?? "";
}

// Answers go to `onAnswer(head, body)`, body a Uint8Array or null; `onState` is told "open" or "lost".
export class ServerLine {
  constructor(token, onAnswer, onState) {
    Object.assign(this, { token, onAnswer, onState, wait: 500, socket: null });
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const protocols = this.token ? [PROTOCOL, this.token] : [PROTOCOL];
    const socket = new WebSocket(`${scheme}://${location.host}/socket`, protocols);
    socket.binaryType = "arraybuffer";
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.wait = 500;
      this.onState("open");
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.onAnswer(JSON.parse(data), null);
      else this.onAnswer(...openFrame(data));
    };
    socket.onclose = () => {
      this.onState(opened ? "lost" : "refused");
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(this.wait * 2, 8000);
    };
    this.socket = socket;
  }

  // Whether the message went out; with a file's bytes it is the head before them.
  send(message, bytes = null) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    const text = JSON.stringify(message);
    this.socket.send(bytes ? new Blob([...makeHead(text), bytes]) : text);
    return true;
  }
}

// What stands before the body of a binary message: the length of its head, and the head.
function makeHead(text) {
  const head = new TextEncoder().encode(text), length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, head.length, true);
  return [length.buffer, head];
}

// A binary answer: the length of its head, the head as JSON, the body.
export function openFrame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return [head, new Uint8Array(buffer, 4 + length)];
}
