// One state for all views of the widget: the lines on the page, the selection, and the requests to the kernel.

// Numbers of requests are unique, so that a page that was loaded again ignores answers to the page before it.
function unique() {
  return globalThis.crypto?.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
}

const LOST = 6000; // ms without a sign of life. The kernel gives one every two seconds.
const GONE = "The kernel is gone. Run the first cell again.";

class Store extends EventTarget {
  constructor(model) {
    super();
    this.model = model;
    this.rows = new Map();
    this.order = [];
    this.frame = 0;
    this.view = "";
    this.selected = new Set();
    this.judged = new Set(); // the selected lines that have their verdict
    this.names = new Map(); // of lines that a person calls by another name than their id
    this.focused = null;
    this.focusing = 0;
    this.offset = 0;
    this.waits = new Map();
    this.alive = performance.now();
    this.gone = false;
    this.delays = [];
    this.verdictDelays = [];
    for (const name of ["page", "changes", "beat", "link"]) model.on(`change:${name}`, () => this.noteLife());
    model.on("change:page", () => this.takePage());
    model.on("change:changes", () => this.takeChanges());
    model.on("change:timeline", () => this.follow());
    model.on("change:link", () => this.announce("link"));
    model.on("msg:custom", (message) => this.settle(message.answer, message));
    this.takePage();
    this.follow();
    // The trait holds the last whole page without the changes since then, so ask for the page again. A page that was
    // loaded again, or a second view, continues with the line in focus.
    this.request("hello").then(() => {
      if (!this.selected.size && this.rows.has(this.focused)) this.select([this.focused], true);
    });
  }
  get setup() {
    return this.model.get("setup");
  }
  get link() {
    return this.gone ? { live: false, text: GONE } : this.model.get("link");
  }
  announce(what) {
    this.dispatchEvent(new Event(what));
  }

  // --- asking the kernel, and whether it is there ---
  // Every request has an answer: the kernel's, or { lost: true } when the kernel is gone.
  request(kind, more = {}) {
    const n = unique();
    return new Promise((answered) => {
      this.waits.set(n, answered);
      try {
        this.model.send({ kind, n, ...more });
      } catch {
        this.settle(n, { lost: true });
        this.alive = -Infinity;
        this.checkLife();
      }
    });
  }
  settle(n, answer) {
    this.waits.get(n)?.(answer);
    this.waits.delete(n);
  }
  noteLife() {
    this.alive = performance.now();
    this.checkLife();
  }
  checkLife() {
    const gone = !this.model.get("link").ended && performance.now() - this.alive > LOST;
    if (gone) for (const n of [...this.waits.keys()]) this.settle(n, { lost: true });
    if (gone === this.gone) return;
    this.gone = gone;
    if (!gone) this.request("hello");
    this.announce("link");
  }

  // --- what the kernel sends ---
  now() {
    return Date.now() + this.offset;
  }
  name(id) {
    return this.names.get(id) ?? id;
  }
  // The kernel's clock may not be the browser's.
  noteFrame(message) {
    const offset = message.now - Date.now();
    if (Math.abs(offset - this.offset) > 2000) this.offset = offset;
    this.frame = message.n;
  }
  takePage() {
    const page = this.model.get("page");
    if (!page.rows) return;
    this.noteFrame(page);
    this.rows = new Map(page.rows.map((row) => [row.id, row]));
    const view = JSON.stringify([page.states, page.prefix, page.type]);
    if (view !== this.view) {
      // A new filter hides selected lines. A person would not see them, so they are no longer selected.
      this.view = view;
      this.keepSelected((id) => this.rows.has(id));
    }
    this.sort();
  }
  takeChanges() {
    const changes = this.model.get("changes");
    if (!changes.rows) return;
    const missed = changes.n !== this.frame + 1;
    this.noteFrame(changes);
    for (const id of changes.gone) this.rows.delete(id);
    for (const row of changes.rows) {
      // A claim changes the line without an event. Such a change must not count in the delays of events.
      if (row.event > (this.rows.get(row.id)?.event ?? 0)) this.delays.push(Date.now() - row.event_at);
      this.rows.set(row.id, row);
    }
    this.delays = this.delays.slice(-1000);
    this.sort();
    if (missed) this.request("hello");
  }
  sort() {
    const byId = this.model.get("page").by_id;
    for (const row of this.rows.values()) if (row.name) this.names.set(row.id, row.name);
    const less = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    this.order = [...this.rows.values()]
      .sort((a, b) => (byId ? less(a.id, b.id) : b.created - a.created || less(b.id, a.id)))
      .map((row) => row.id);
    this.forget();
    this.announce("rows");
  }

  // --- which lines are selected ---
  hidden() {
    return [...this.selected].filter((id) => !this.rows.has(id));
  }
  keepSelected(fits) {
    const before = this.selected.size;
    for (const id of this.selected) if (!fits(id)) this.selected.delete(id);
    for (const id of this.judged) if (!this.selected.has(id)) this.judged.delete(id);
    if (this.selected.size !== before) this.announce("selection");
  }
  // A line that has its verdict and left the page is no longer selected.
  forget() {
    this.keepSelected((id) => this.rows.has(id) || !this.judged.has(id));
  }
  choose(id) {
    this.selected = new Set(id ? [id] : []);
    this.judged.clear();
    this.focus(id);
    this.announce("selection");
  }
  select(ids, on) {
    for (const id of ids) {
      if (on) this.selected.add(id);
      else this.selected.delete(id);
      this.judged.delete(id);
    }
    if (on && !this.focused && ids.length) this.focus(ids[0]);
    this.announce("selection");
  }
  toggle(id) {
    this.select([id], !this.selected.has(id));
  }
  focus(id) {
    if (id === this.focused) return;
    this.focused = id;
    this.focusing += 1;
    this.request("focus", { id }).then(() => {
      this.focusing -= 1;
      this.follow();
    });
    this.announce("focus");
  }
  // The same room may be open in another view, where another line was chosen.
  follow() {
    const id = this.model.get("timeline").id ?? null;
    if (this.focusing || id === this.focused) return;
    this.focused = id;
    this.announce("focus");
  }
  // Whether the request is still possible for any selected line. For lines that are not shown, assume that it is.
  can(request) {
    return [...this.selected].some((id) => {
      const row = this.rows.get(id);
      return !row || row[request.allowed];
    });
  }
  async ask(name, more = {}) {
    const ids = [...this.selected];
    const began = performance.now();
    const answer = await this.request("ask", { name, ids, ...more });
    if (!answer.lost && !answer.error) {
      this.verdictDelays.push(performance.now() - began);
      for (const id of ids) if (this.selected.has(id)) this.judged.add(id);
      this.forget();
    }
    return answer;
  }
}

const stores = new WeakMap();
export function storeOf(model) {
  if (!stores.has(model)) stores.set(model, new Store(model));
  return stores.get(model);
}
