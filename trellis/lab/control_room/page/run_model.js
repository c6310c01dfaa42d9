// A recorded run in place of the kernel: it answers what the board asks, at the moment of its cursor
// (see trellis/lab/control_room/recording.py).

const PAGE_SIZE = 25;
const EVERY_FRAMES = 100; // frames between two whole copies of the lines

// The lines of all orders at any moment.
class Frames {
  constructor({ ids, fields, frames }) {
    this.ids = ids;
    this.fields = fields;
    this.frames = frames;
    this.times = frames.map(([at]) => at);
    this.copies = [new Map()];
    this.last = [0, this.copies[0]];
  }
  // How many frames there are up to this moment.
  until(moment) {
    let [low, high] = [0, this.times.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle] <= moment) low = middle + 1;
      else high = middle;
    }
    return low;
  }
  after(count) {
    let [from, rows] = this.last;
    const copy = Math.min(Math.floor(count / EVERY_FRAMES), this.copies.length - 1);
    if (from > count || from < copy * EVERY_FRAMES) [from, rows] = [copy * EVERY_FRAMES, this.copies[copy]];
    if (from < count) rows = new Map(rows);
    while (from < count) {
      for (const [place, ...changes] of this.frames[from][1]) {
        const id = this.ids[place];
        const row = { id, ...rows.get(id) };
        for (let i = 0; i < changes.length; i += 2) row[this.fields[changes[i]]] = changes[i + 1];
        rows.set(id, row);
      }
      from += 1;
      if (from === this.copies.length * EVERY_FRAMES) this.copies.push(new Map(rows));
    }
    this.last = [from, rows];
    return rows;
  }
}

export class RunModel {
  constructor(data, setup) {
    this.frames = new Frames(data);
    this.broken = data.broken;
    this.moment = data.began;
    this.view = { states: [], prefix: "", number: 1 };
    this.listeners = new Map();
    this.values = { setup, page: {}, changes: {}, counts: {}, breaking: {}, timeline: {}, verdicts: [], link: { live: false, ended: true, text: "A recorded run." } };
  }
  get(name) {
    return this.values[name];
  }
  on(name, work) {
    this.listeners.set(name, [...(this.listeners.get(name) ?? []), work]);
  }
  off(name, work) {
    this.listeners.set(name, (this.listeners.get(name) ?? []).filter((one) => one !== work));
  }
  tell(name, ...more) {
    for (const work of this.listeners.get(name) ?? []) work(...more);
  }
  set(name, value) {
    this.values[name] = value;
    this.tell(`change:${name}`);
  }
  // What the kernel does in a control room (trellis/lab/control_room/panels.py).
  send({ kind, n, ...more }) {
    if (kind === "view") this.view = { states: more.states, prefix: more.prefix.trim(), number: 1 };
    if (kind === "turn") this.view.number += more.forward ? 1 : -1;
    if (kind === "focus") this.set("timeline", { id: more.id });
    if (kind === "view" || kind === "turn") this.show();
    queueMicrotask(() => this.tell("msg:custom", { answer: n }));
  }
  go(moment) {
    this.moment = moment;
    this.show();
  }
  show() {
    const { states, prefix } = this.view;
    const rows = [...this.frames.after(this.frames.until(this.moment)).values()];
    const counts = {};
    for (const row of rows) counts[row.state ?? "ORDER_RECEIVED"] = (counts[row.state ?? "ORDER_RECEIVED"] ?? 0) + 1;
    const less = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    const fitting = rows.filter((row) => (!states.length || states.includes(row.state ?? "ORDER_RECEIVED")) && row.id.startsWith(prefix))
      .sort((a, b) => (prefix ? less(a.id, b.id) : b.created - a.created || less(b.id, a.id)));
    const last = Math.max(1, Math.ceil(fitting.length / PAGE_SIZE));
    const number = (this.view.number = Math.min(Math.max(1, this.view.number), last));
    this.set("page", { n: 0, now: this.moment, rows: fitting.slice((number - 1) * PAGE_SIZE, number * PAGE_SIZE), number, more: number < last, states, prefix, by_id: Boolean(prefix) });
    this.set("counts", counts);
    const broken = this.broken.findLast(([at]) => at <= this.moment)?.[1] ?? { experiments: [] };
    if (broken !== this.values.breaking) this.set("breaking", broken);
  }
}
