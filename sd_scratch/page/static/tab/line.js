// The line to the engine in the tab: the same messages and answers as with a server, to a worker.

export class TabLine {
  constructor(onAnswer, onState) {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => onAnswer(data.head, data.body);
    this.worker.onerror = (event) => onState("broken", event.message || "its files could not be loaded");
  }

  send(message) {
    this.worker.postMessage(message);
    return true;
  }
}
