// The control room's page. What is shown comes in as traits; what a person asks for goes out as messages
// (see trellis/lab/room.py). Text reaches the page as text nodes alone, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "circle", "line", "path", "rect", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

// Setting what is there already would make the page lay itself out again, 25 times a second.
function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}
function set(node, name, value) {
  if (value == null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// Nodes are kept by their keys: a new one would be announced again, close its tooltip and lose the focus.
function keep(parent, kept, entries, make, show) {
  const wanted = new Map(entries);
  for (const [key, node] of kept) {
    if (!wanted.has(key)) {
      node.remove();
      kept.delete(key);
    }
  }
  let place = 0;
  for (const [key, value] of wanted) {
    if (!kept.has(key)) kept.set(key, make(value));
    const node = kept.get(key);
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
    show(node, value);
    place += 1;
  }
}

// A button that is truly disabled drops the focus to the page's end; this one only does nothing, and says why.
function button(label, attributes, work) {
  const node = h("button", { type: "button", ...attributes, onclick: () => isOn(node) && work() }, label);
  return node;
}
const isOn = (node) => node.getAttribute("aria-disabled") !== "true";
function enable(node, on, why = null) {
  set(node, "aria-disabled", on ? null : "true");
  set(node, "title", on ? null : why);
}

// A page that was loaded again must not take the answers to its earlier self for its own.
function unique() {
  return globalThis.crypto?.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
}

const words = (state) => (state ? state.toLowerCase().replaceAll("_", " ") : "starting");
const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

function duration(ms) {
  const s = Math.max(0, ms / 1000);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.floor(s)} s`;
  if (s < 6000) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

function countdown(ms) {
  const s = Math.ceil(ms / 1000);
  return s > 0 ? `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")} left` : "time is up";
}

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

// --- one state for all views of the widget ----------------------------------------------------------------

const LOST = 6000; // ms without a sign of life, of which the kernel gives one every two seconds
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
    this.judged = new Set(); // of the selected ones, those that had their verdict
    this.focused = null;
    this.focusing = 0;
    this.offset = 0;
    this.waits = new Map();
    this.alive = performance.now();
    this.gone = false;
    this.delays = [];
    this.verdictDelays = [];
    for (const name of ["page", "changes", "beat", "link"]) model.on(`change:${name}`, () => this.lives());
    model.on("change:page", () => this.turn());
    model.on("change:changes", () => this.merge());
    model.on("change:timeline", () => this.follow());
    model.on("change:link", () => this.tell("link"));
    model.on("msg:custom", (message) => this.settle(message.answer, message));
    this.turn();
    this.follow();
    // What came by now is the last whole page, without what changed since. A page that was loaded again, or a second
    // one, goes on with the order in focus.
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
  tell(what) {
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
        this.watch();
      }
    });
  }
  settle(n, answer) {
    this.waits.get(n)?.(answer);
    this.waits.delete(n);
  }
  lives() {
    this.alive = performance.now();
    this.watch();
  }
  watch() {
    const gone = !this.model.get("link").ended && performance.now() - this.alive > LOST;
    if (gone) for (const n of [...this.waits.keys()]) this.settle(n, { lost: true });
    if (gone === this.gone) return;
    this.gone = gone;
    if (!gone) this.request("hello");
    this.tell("link");
  }

  // --- what the kernel tells ---
  now() {
    return Date.now() + this.offset;
  }
  // The kernel's clock may not be the browser's.
  hear(message) {
    const offset = message.now - Date.now();
    if (Math.abs(offset - this.offset) > 2000) this.offset = offset;
    this.frame = message.n;
  }
  turn() {
    const page = this.model.get("page");
    if (!page.rows) return;
    this.hear(page);
    this.rows = new Map(page.rows.map((row) => [row.id, row]));
    const view = JSON.stringify([page.states, page.prefix]);
    if (view !== this.view) {
      // Under another filter nobody sees, or remembers, what is selected and not shown.
      this.view = view;
      this.keepSelected((id) => this.rows.has(id));
    }
    this.sort();
  }
  merge() {
    const changes = this.model.get("changes");
    if (!changes.rows) return;
    const missed = changes.n !== this.frame + 1;
    this.hear(changes);
    for (const id of changes.gone) this.rows.delete(id);
    for (const row of changes.rows) {
      // A claim changes the line and brings no event about: it is no measure of how late an event is.
      if (row.event > (this.rows.get(row.id)?.event ?? 0)) this.delays.push(Date.now() - row.event_at);
      this.rows.set(row.id, row);
    }
    this.delays = this.delays.slice(-1000);
    this.sort();
    if (missed) this.request("hello");
  }
  sort() {
    const byId = Boolean(this.model.get("page").prefix);
    const less = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    this.order = [...this.rows.values()]
      .sort((a, b) => (byId ? less(a.id, b.id) : b.created - a.created || less(b.id, a.id)))
      .map((row) => row.id);
    this.forget();
    this.tell("rows");
  }

  // --- which orders are meant ---
  hidden() {
    return [...this.selected].filter((id) => !this.rows.has(id));
  }
  keepSelected(fits) {
    const before = this.selected.size;
    for (const id of this.selected) if (!fits(id)) this.selected.delete(id);
    for (const id of this.judged) if (!this.selected.has(id)) this.judged.delete(id);
    if (this.selected.size !== before) this.tell("selection");
  }
  // Who has had a verdict and has left the page is not meant by the next click.
  forget() {
    this.keepSelected((id) => this.rows.has(id) || !this.judged.has(id));
  }
  choose(id) {
    this.selected = new Set(id ? [id] : []);
    this.judged.clear();
    this.focus(id);
    this.tell("selection");
  }
  select(ids, on) {
    for (const id of ids) {
      if (on) this.selected.add(id);
      else this.selected.delete(id);
      this.judged.delete(id);
    }
    if (on && !this.focused && ids.length) this.focus(ids[0]);
    this.tell("selection");
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
    this.tell("focus");
  }
  // The same room may be open on another page, where another order was chosen.
  follow() {
    const id = this.model.get("timeline").id ?? null;
    if (this.focusing || id === this.focused) return;
    this.focused = id;
    this.tell("focus");
  }
  // Whether any of the selected orders can still be asked this. Those not shown may be.
  can(name) {
    return [...this.selected].some((id) => {
      const row = this.rows.get(id);
      return !row || (name === "approve" ? row.can_approve : row.open);
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
function storeOf(model) {
  if (!stores.has(model)) stores.set(model, new Store(model));
  return stores.get(model);
}

// --- the way of an order as a small picture ---------------------------------------------------------------

function pathPicture(setup) {
  const step = 17;
  const size = setup.path.length;
  const svg = h("svg", { class: "tr-path", viewBox: `0 0 ${step * size} 18`, role: "img" });
  const lines = setup.path.slice(1).map((_, i) => h("line", { x1: step * i + 9, x2: step * i + 26, y1: 9, y2: 9 }));
  const dots = setup.path.map((_, i) => h("circle", { cx: step * i + 9, cy: 9, r: 3.5 }));
  const cross = h("path", { class: "tr-cross" });
  svg.append(...lines, ...dots, cross);
  return {
    node: svg,
    show(row) {
      const broken = setup.terminal.includes(row.state) && row.state !== "COMPLETED";
      const colour = row.state ? setup.colours[row.state][0] : null;
      dots.forEach((dot, i) => {
        const here = i === row.reached && !broken;
        set(dot, "r", here ? 6 : 3.5);
        set(dot, "class", i <= row.reached ? "tr-on" : "tr-off");
        // Where nothing has been painted the style sheet decides, and it knows the theme.
        dot.style.fill = i <= row.reached && colour ? colour : "";
        dot.style.stroke = dot.style.fill;
      });
      lines.forEach((line, i) => {
        set(line, "class", i < row.reached ? "tr-on" : "tr-off");
        line.style.stroke = i < row.reached && colour ? colour : "";
      });
      const x = step * Math.min(row.reached + 1, size - 1) + 9;
      set(cross, "d", broken ? `M${x - 4.5} 4.5 l9 9 m0 -9 l-9 9` : "M0 0");
      cross.style.stroke = broken ? "currentColor" : "none";
      const where = setup.path[Math.max(row.reached, 0)][1];
      set(svg, "aria-label", broken ? `${words(row.state)} after ${where}` : `${words(row.state)}, ${row.reached + 1} of ${size}`);
    },
  };
}

function pill(setup, state) {
  const node = h("span", { class: "tr-pill" });
  paint(setup, node, state);
  return node;
}
function paint(setup, node, state) {
  text(node, words(state));
  const [back, fore] = setup.colours[state] ?? ["", ""];
  node.style.background = back;
  node.style.color = fore;
}

// --- the board --------------------------------------------------------------------------------------------

function board(store, on) {
  const { setup } = store;
  const lines = new Map();
  const body = h("div", { role: "rowgroup", class: "tr-body" });
  const all = h("input", { type: "checkbox", "aria-label": "Select every order on this page", title: "Select every order on this page",
    onchange: () => store.select(store.order, all.checked) });
  const heads = ["Order", "Path", "Now", "Age", "Last error"].map((name) => h("div", { role: "columnheader" }, name));
  const grid = h(
    "div",
    { role: "grid", class: "tr-grid", "aria-label": "Orders", "aria-multiselectable": "true" },
    h("div", { role: "rowgroup" }, h("div", { role: "row", class: "tr-line tr-head" }, h("div", { role: "columnheader" }, all), heads)),
    body,
  );
  const empty = h("div", { class: "tr-empty", tabindex: "-1" });
  let cursor = null;
  let shown = [];

  function line(id) {
    const tick = h("input", { type: "checkbox", tabindex: "-1", "aria-label": `Select ${id}`, onchange: () => store.select([id], tick.checked) });
    const small = h("small");
    const picture = pathPicture(setup);
    const state = pill(setup, null);
    const doing = h("span");
    const since = h("small");
    const now = h("div", { role: "gridcell", class: "tr-now" }, doing, since);
    const age = h("div", { class: "tr-age" });
    const error = h("div", { class: "tr-error" });
    const node = h(
      "div",
      { role: "row", class: "tr-line", tabindex: "-1", "data-id": id },
      h("div", { role: "gridcell" }, tick),
      h("div", { role: "gridcell", class: "tr-id" }, h("b", { title: id }, id), small),
      h("div", { role: "gridcell", class: "tr-way" }, picture.node, state),
      now,
      h("div", { role: "gridcell" }, age),
      h("div", { role: "gridcell" }, error),
    );
    node.addEventListener("click", (event) => {
      if (event.target === tick) return;
      if (event.shiftKey) stretch(id);
      else if (event.ctrlKey || event.metaKey) store.toggle(id);
      else store.choose(id);
      walk(id);
    });
    const made = { node, tick, row: null };
    made.show = (row) => {
      made.row = row;
      text(small, [row.total, row.policy, row.address].filter(Boolean).join(" · ") || "not received yet");
      set(small, "title", small.textContent);
      picture.show(row);
      paint(setup, state, row.state);
      text(error, row.error ?? "");
      set(error, "title", row.error);
      made.beat();
    };
    made.beat = () => {
      const row = made.row;
      const left = row.deadline === null ? null : row.deadline - store.now();
      text(doing, row.step ?? "");
      text(since, row.step === null ? "" : left !== null ? countdown(left) : row.attempt ? `attempt ${row.attempt}` : "");
      set(now, "title", [row.step, since.textContent].filter(Boolean).join(", "));
      set(now, "data-soon", left !== null && left < 5000);
      text(age, row.created ? duration((row.ended ?? store.now()) - row.created) : "");
    };
    return made;
  }

  function show() {
    const active = body.getRootNode().activeElement;
    const held = body.contains(active) ? active.closest(".tr-line").dataset.id : null;
    for (const [id, made] of lines) {
      if (!store.rows.has(id)) {
        made.node.remove();
        lines.delete(id);
      }
    }
    store.order.forEach((id, place) => {
      if (!lines.has(id)) lines.set(id, line(id));
      const made = lines.get(id);
      const row = store.rows.get(id);
      if (made.row !== row) made.show(row);
      // Moving a line that is in its place already would take the keyboard's focus from it.
      if (body.children[place] !== made.node) body.insertBefore(made.node, body.children[place] ?? null);
    });
    const nearest = store.order[Math.min(Math.max(shown.indexOf(cursor), 0), store.order.length - 1)] ?? null;
    if (!lines.has(cursor)) cursor = nearest;
    for (const [id, made] of lines) set(made.node, "tabindex", id === cursor ? "0" : "-1");
    const page = store.model.get("page");
    empty.hidden = store.order.length > 0;
    grid.hidden = !empty.hidden;
    text(empty, !page.rows ? "Reading the ledger …"
      : page.prefix || page.states.length ? "No order fits this filter. Choose “All”, or empty the search field."
      : "No orders yet. Describe one under “New order” and press Start: it appears here by itself.");
    // A line that left took the keyboard with it: it goes to the next one.
    if (held && !lines.has(held)) (lines.get(cursor)?.node ?? empty).focus();
    shown = store.order;
    mark();
  }

  function mark() {
    for (const [id, made] of lines) {
      const on = store.selected.has(id);
      made.tick.checked = on;
      set(made.node, "aria-selected", on);
      set(made.node, "aria-current", id === store.focused ? "true" : null);
    }
    const here = store.order.filter((id) => store.selected.has(id)).length;
    all.checked = here > 0 && here === store.order.length;
    all.indeterminate = here > 0 && here < store.order.length;
  }

  function walk(id) {
    if (!id) return;
    cursor = id;
    for (const [other, made] of lines) set(made.node, "tabindex", other === id ? "0" : "-1");
    lines.get(id)?.node.focus();
  }

  function stretch(id) {
    const from = Math.max(0, store.order.indexOf(store.focused ?? cursor));
    const to = store.order.indexOf(id);
    store.select(store.order.slice(Math.min(from, to), Math.max(from, to) + 1), true);
  }

  grid.addEventListener("keydown", (event) => {
    if (event.target === all) return;
    const place = store.order.indexOf(cursor);
    const moves = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: store.order.length - 1 };
    if (event.key in moves) {
      const id = store.order[Math.min(store.order.length - 1, Math.max(0, moves[event.key]))];
      walk(id);
      if (event.shiftKey) store.select([id], true);
    } else if (event.key === " ") store.toggle(cursor);
    else if (event.key === "Enter") store.choose(cursor);
    else if (event.key === "Escape") store.choose(null);
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) store.select(store.order, true);
    else if (event.key === "PageDown" || event.key === "PageUp") store.request("turn", { forward: event.key === "PageDown" });
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  on(store, "rows", show);
  on(store, "selection", mark);
  on(store, "focus", mark);
  show();
  return { node: [grid, empty], beat: () => lines.forEach((made) => made.beat()), walk: () => walk(cursor) };
}

// --- filter and paging ------------------------------------------------------------------------------------

function filter(store, on) {
  const { setup, model } = store;
  const open = setup.states.filter((state) => !setup.terminal.includes(state));
  const search = h("input", { type: "search", placeholder: "Order id begins with …", "aria-label": "Order id begins with", maxlength: 64 });
  let states = [];
  let later = 0;
  let asking = 0;
  const look = async (wanted) => {
    // What was typed goes with this one; sent after it, it would undo the choice of states.
    clearTimeout(later);
    later = 0;
    states = wanted;
    asking += 1;
    await store.request("view", { states, prefix: search.value });
    asking -= 1;
    show();
  };
  search.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(() => look(states), 150);
  });
  const chip = (name, fitting, colour) => {
    const count = h("span", { class: "tr-count" });
    const dot = colour ? h("i", { class: "tr-dot", style: `background:${colour}` }) : null;
    const node = h("button", { type: "button", class: "tr-chip", onclick: () => look(fitting) }, dot, name, count);
    const tell = () => {
      const counts = model.get("counts");
      const each = (fitting.length ? fitting : setup.states).map((state) => counts[state] ?? 0);
      const sum = each.reduce((a, b) => a + b, 0);
      text(count, each.some((n) => n >= setup.counted) ? `${sum}+` : String(sum));
      const now = model.get("page").states ?? [];
      set(node, "aria-pressed", now.length === fitting.length && fitting.every((state) => now.includes(state)));
      // A state that no order is in is not worth a place, unless it is being looked at.
      node.hidden = fitting.length === 1 && sum === 0 && node.getAttribute("aria-pressed") !== "true";
    };
    on(model, "change:counts", tell);
    on(model, "change:page", tell);
    tell();
    return node;
  };
  const chips = [chip("All", []), chip("Open", open), ...setup.states.map((state) => chip(words(state), [state], setup.colours[state][0]))];
  const back = button("‹", { "aria-label": "Previous page" }, () => store.request("turn", { forward: false }));
  const forth = button("›", { "aria-label": "Next page" }, () => store.request("turn", { forward: true }));
  const where = h("span", { class: "tr-quiet", role: "status" });
  function show() {
    const page = model.get("page");
    text(where, `page ${page.number ?? 1}`);
    enable(back, page.number > 1, "This is the first page");
    enable(forth, page.more, "This is the last page");
    // A page that was loaded again shows which filter is in force; under somebody's fingers it changes nothing.
    if (!later && !asking) {
      states = page.states ?? [];
      search.value = page.prefix ?? "";
    }
  }
  on(model, "change:page", show);
  show();
  return h("div", { class: "tr-bar" }, h("div", { class: "tr-chips", role: "group", "aria-label": "Show orders" }, chips),
    h("div", { class: "tr-pages" }, search, back, where, forth));
}

// --- requests ---------------------------------------------------------------------------------------------

function requests(store, on, prefix, table) {
  const { model } = store;
  const chosen = h("span", { class: "tr-chosen", "aria-live": "polite" });
  const address = h("input", { type: "text", placeholder: "new street and number, city", "aria-label": "New address", "aria-describedby": `${prefix}-change-wrong` });
  const wrong = h("span", { class: "tr-wrong", id: `${prefix}-change-wrong`, role: "alert" });
  let waiting = false;
  const ask = async (name, more) => {
    // Off until the verdict is here: a double click is one request.
    waiting = true;
    show();
    complain("");
    const answer = await store.ask(name, more);
    waiting = false;
    complain(answer.error ?? "");
    show();
  };
  const parts = () => {
    const [line1, ...rest] = address.value.split(",");
    return { address: { line1, city: rest.join(",").trim() } };
  };
  const buttons = {
    approve: button("Approve", { class: "tr-go" }, () => ask("approve")),
    cancel: button("Cancel", { class: "tr-stop" }, () => ask("cancel")),
    update_address: button("Change address", {}, () => ask("update_address", parts())),
  };
  const past = { approve: "approved", cancel: "cancelled", update_address: "sent elsewhere" };
  const clear = button("Clear", { class: "tr-link", "aria-label": "Clear the selection" }, () => {
    store.choose(null);
    table.walk();
  });
  address.addEventListener("keydown", (event) => event.key === "Enter" && buttons.update_address.click());
  function complain(sentence) {
    text(wrong, sentence);
    set(address, "aria-invalid", Boolean(sentence));
  }
  function show() {
    const n = store.selected.size;
    const hidden = store.hidden().length;
    const name = n === 1 && !hidden ? [...store.selected][0] : `${n} selected${hidden ? `, ${hidden} not shown` : ""}`;
    text(chosen, n ? name : "Select an order to steer it");
    clear.hidden = !n;
    for (const [name, node] of Object.entries(buttons)) {
      const can = store.can(name);
      enable(node, can && !waiting && store.link.live, n && !can ? `What is selected can no longer be ${past[name]}` : null);
    }
  }
  const said = h("ol", { class: "tr-verdicts", "aria-live": "polite", "aria-label": "Verdicts" });
  const kept = new Map();
  function verdicts() {
    keep(said, kept, model.get("verdicts").slice(0, 4).map((line) => [line.id, line]),
      (line) => h("li", {}, h("span", { class: "tr-quiet" }), h("b", {}, line.name || "Error"), h("span")),
      (node, line) => {
        set(node, "class", line.ok === null ? "tr-asking" : line.ok ? "tr-yes" : "tr-no");
        text(node.firstChild, clock(line.at));
        text(node.lastChild, line.text);
      });
  }
  for (const name of ["selection", "rows", "link"]) on(store, name, show);
  on(model, "change:verdicts", verdicts);
  verdicts();
  show();
  return h("div", { class: "tr-requests" },
    h("div", { class: "tr-bar", role: "group", "aria-label": "Requests to the selected orders" },
      chosen, clear, h("div", { class: "tr-buttons" }, buttons.approve, buttons.cancel, address, buttons.update_address)),
    wrong, said);
}

// --- new orders -------------------------------------------------------------------------------------------

function newOrder(store, on, prefix) {
  const { setup } = store;
  const wrongs = new Map();
  const field = (name, label, input) => {
    const wrong = h("span", { class: "tr-wrong", id: `${prefix}-${name}-wrong`, role: "alert" });
    input.id = `${prefix}-${name}`;
    input.setAttribute("aria-describedby", wrong.id);
    wrongs.set(name, { wrong, input });
    return h("div", { class: "tr-field" }, h("label", { for: input.id }, label), input, wrong);
  };
  const items = h("div", { class: "tr-items" });
  let made = 0;
  const input = (attributes) => h("input", { type: "text", autocomplete: "off", ...attributes });
  const addItem = (sku = "", quantity = "1", price = "") => {
    const row = h("div", { class: "tr-item" },
      input({ value: sku, "aria-label": "SKU", placeholder: "sku", name: "sku" }),
      input({ value: quantity, "aria-label": "Quantity", inputmode: "numeric", name: "quantity" }),
      input({ value: price, "aria-label": "Unit price", inputmode: "decimal", placeholder: "0.00", name: "price" }),
      h("button", { type: "button", class: "tr-icon", "aria-label": "Remove this item", onclick: () => {
        row.remove();
        more.focus();
      } }, "×"));
    made += 1;
    const wrong = h("span", { class: "tr-wrong", role: "alert", id: `${prefix}-item-${made}-wrong` });
    for (const one of row.querySelectorAll("input")) one.setAttribute("aria-describedby", wrong.id);
    row.append(wrong);
    items.append(row);
    return row;
  };
  const more = button("+ add an item", { class: "tr-link" }, () => addItem().firstChild.focus());
  addItem("book", "2", "12.50");
  const line1 = input({ value: "1 Main Street" });
  const city = input({ value: "Springfield" });
  const policy = h("select", {}, Object.keys(setup.presets).map((name) => h("option", { value: name, selected: name === setup.default }, name)));
  const explained = h("small", { class: "tr-quiet" });
  const explain = () => text(explained, setup.presets[policy.value]);
  policy.addEventListener("change", explain);
  explain();
  const count = input({ value: "1", inputmode: "numeric" });
  const done = h("span", { class: "tr-done", role: "status" });
  const whole = h("span", { class: "tr-wrong", role: "alert" });
  const start = h("button", { type: "submit", class: "tr-go" }, "Start");
  let waiting = false;
  const form = h("form", { novalidate: true, "aria-label": "New order" },
    h("div", { class: "tr-field" }, h("span", { class: "tr-label" }, "Items: sku, quantity, unit price"), items, more),
    field("address", "Street and number", line1), field("city", "City", city),
    h("div", { class: "tr-pair" }, field("policy", "Policy", policy), field("count", "How many", count)), explained,
    h("div", { class: "tr-bar" }, start, done), whole);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!isOn(start)) return;
    waiting = true;
    tell({});
    const answer = await store.request("start", {
      items: [...items.children].map((row) => Object.fromEntries([...row.querySelectorAll("input")].map((one) => [one.name, one.value]))),
      address: { line1: line1.value, city: city.value }, policy: policy.value, count: count.value,
    });
    waiting = false;
    tell(answer);
    if (answer.started && !store.selected.size) store.choose(answer.started);
  });
  function tell({ errors = {}, done: sentence = "" }) {
    for (const [name, { wrong, input: one }] of wrongs) {
      text(wrong, errors[name] ?? "");
      set(one, "aria-invalid", Boolean(errors[name]));
    }
    [...items.children].forEach((row, index) => {
      const error = errors[`item ${index}`] ?? "";
      text(row.lastChild, error);
      // The sentence names the one that is wrong.
      for (const one of row.querySelectorAll("input")) set(one, "aria-invalid", error.includes(one.name));
    });
    text(whole, errors.form ?? "");
    text(done, sentence);
    show();
  }
  function show() {
    enable(start, !waiting && store.link.live);
    text(start, waiting ? "Starting …" : "Start");
  }
  on(store, "link", show);
  show();
  return h("details", { class: "tr-card tr-fold" }, h("summary", {}, "New order"), form);
}

// --- faults -----------------------------------------------------------------------------------------------

function faults(store, on, prefix) {
  const { setup, model } = store;
  const step = h("select", { "aria-label": "Which step's calls fail" },
    h("option", { value: "" }, "all steps"), setup.steps.map((name) => h("option", { value: name }, name)));
  const note = h("small", { class: "tr-quiet" });
  const percent = (value) => `${Math.round(value * 100)} %`;
  const sliders = [
    ["error", "Raise at once", 1, 0.01, percent], ["hang", "Hang", 1, 0.01, percent],
    ["reply_lost", "Done, but reply lost", 1, 0.01, percent], ["latency", "Latency of good calls", 3, 0.05, (value) => `${value.toFixed(2)} s`],
  ].map(([name, label, max, stride, say]) => {
    const out = h("output", { for: `${prefix}-${name}` });
    const range = h("input", { type: "range", id: `${prefix}-${name}`, min: 0, max, step: stride, value: 0 });
    let held = false;
    let waiting = 0;
    // Dragged away and back to where it was, a slider tells of no change: letting go is what counts. A change is
    // told after the pointer is up, and must find the slider where it was left.
    const release = () => setTimeout(() => {
      if (waiting || !held) return;
      held = false;
      show();
    }, 0);
    for (const end of ["keyup", "blur"]) range.addEventListener(end, release);
    for (const end of ["pointerup", "pointercancel"]) on(document, end, release);
    range.addEventListener("input", () => {
      held = true;
      text(out, say(Number(range.value)));
      set(range, "aria-valuetext", out.textContent);
    });
    range.addEventListener("change", async () => {
      waiting += 1;
      await store.request("fault", { step: step.value || null, name, value: Number(range.value) });
      waiting -= 1;
      release();
    });
    return { name, range, out, say, held: () => held, node: h("div", { class: "tr-slider" }, h("label", { for: range.id }, label), out, range) };
  });
  function show() {
    const plan = model.get("faults");
    if (!plan.mix) return;
    const mix = (step.value && plan.steps[step.value]) || plan.mix;
    for (const slider of sliders) {
      // Under somebody's finger a slider stays where it is.
      if (!slider.held()) {
        slider.range.value = mix[slider.name];
        text(slider.out, slider.say(mix[slider.name]));
        set(slider.range, "aria-valuetext", slider.out.textContent);
      }
      slider.range.disabled = slider.name === "reply_lost" && step.value !== "" && !setup.reply_can_be_lost.includes(step.value);
    }
    const own = Object.keys(plan.steps);
    text(note, plan.script ? `A script is in force: ${plan.script}. Moving a slider ends it.`
      : own.length ? `With a mix of their own: ${own.join(", ")}.` : `Plan ${plan.version}. Running orders follow within a second.`);
  }
  step.addEventListener("change", show);
  on(model, "change:faults", show);
  show();
  const weather = (name, label) => h("button", { type: "button", onclick: () => store.request("weather", { name }) }, label);
  return h("details", { class: "tr-card tr-fold" }, h("summary", {}, "Faults"), h("section", { "aria-label": "Faults" },
    h("div", { class: "tr-bar" }, weather("calm", "Calm"), weather("canonical", "Canonical thirds")),
    h("div", { class: "tr-field" }, h("label", {}, h("span", {}, "Calls of "), step)), sliders.map((slider) => slider.node), note));
}

// --- the tries of one order -------------------------------------------------------------------------------

function niceStep(span, most) {
  const raw = span / most;
  const scale = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((n) => n * scale).find((n) => n >= raw);
}

const MARKS = ["ORDER_APPROVED", "ORDER_CANCELLED", "ORDER_FAILED", "APPROVAL_TIMEOUT", "ADDRESS_UPDATED", "REQUEST_REFUSED", "ORDER_COMPLETED"];

// What is drawn has a title to point at. It is changed in place, or a tooltip could not stay open while an order runs.
function drawn(kind) {
  const node = h("g");
  const kept = new Map();
  const make = () => h(kind, {}, kind === "text" ? null : h("title"));
  const show = (one, [attributes, words]) => {
    for (const [name, value] of Object.entries(attributes)) set(one, name, value);
    text(kind === "text" ? one : one.firstChild, words);
  };
  return { node, show: (entries) => keep(node, kept, entries, make, show) };
}

function timeline(store, on) {
  const { setup, model } = store;
  const title = h("h3", {}, "Attempts");
  const link = h("a", { target: "_blank", rel: "noopener", class: "tr-ui" }, "Open in Temporal’s Web UI ↗");
  const legend = h("div", { class: "tr-legend" }, ["succeeded", "failed", "timed out", "abandoned"].map((name) =>
    h("span", {}, h("i", { class: "tr-dot", style: `background:${setup.colours[name][0]}` }), name)));
  const [ticks, axis, lanes, bars, running, marks] = ["line", "text", "text", "rect", "rect", "line"].map(drawn);
  const svg = h("svg", { class: "tr-gantt", role: "img" }, [ticks, axis, lanes, marks, bars, running].map((part) => part.node));
  const picture = h("div", { class: "tr-picture" }, svg);
  const empty = h("div", { class: "tr-empty" });
  const cells = ["Step", "Attempt", "Outcome", "After", "Took", "Error"];
  const body = h("tbody");
  const kept = new Map();
  const table = h("details", { class: "tr-fold" }, h("summary", {}, "As a table"),
    h("div", { class: "tr-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, cells.map((name) => h("th", { scope: "col" }, name)))), body)));
  const seconds = (ms) => `${(ms / 1000).toFixed(3)} s`;
  const keyOf = (bar) => [bar.step, bar.round, bar.lane, bar.attempt].join(" ");

  function draw() {
    const { id, bars: tries = [], marks: events = [], link: href, cut } = model.get("timeline");
    const row = store.rows.get(id);
    link.hidden = !href;
    if (href) set(link, "href", href);
    legend.hidden = picture.hidden = table.hidden = !tries.length;
    empty.hidden = !picture.hidden;
    text(empty, id ? "No attempt has ended yet." : "Select an order, and every attempt at its steps is drawn here as it happens.");
    text(title, !id ? "Attempts" : tries.length ? `${plural(tries.length, "attempt")} of ${id}${cut ? " (the newest)" : ""}` : `Attempts of ${id}`);
    if (!tries.length) return;
    const lane = (bar) => bar.step + (bar.round > 1 ? ` ${bar.round}` : "");
    const names = [...new Set(tries.map(lane))];
    const under = row?.step && row.attempt && !row.ended;
    if (under && !names.some((name) => name.split(" ")[0] === row.step)) names.push(row.step);
    const noted = events.filter((mark) => MARKS.includes(mark.type));
    // A refusal may come hours later; it would press all that happened into a sliver.
    const told = noted.filter((mark) => mark.type !== "REQUEST_REFUSED");
    const from = Math.min(...tries.map((bar) => bar.from));
    const last = Math.max(...tries.map((bar) => bar.to), ...told.map((mark) => mark.at));
    const end = under ? Math.max(last, store.now()) : last;
    const span = Math.max(end - from, 50);
    const width = Math.max(picture.clientWidth, 320);
    const left = 84;
    const right = 14;
    const tall = 22;
    const x = (ms) => left + ((Math.min(Math.max(ms, from), end) - from) / span) * (width - left - right);
    const height = names.length * tall + 34;
    const counts = {};
    for (const bar of tries) counts[bar.outcome] = (counts[bar.outcome] ?? 0) + 1;
    set(svg, "width", width);
    set(svg, "height", height);
    set(svg, "viewBox", `0 0 ${width} ${height}`);
    set(svg, "aria-label", `${plural(tries.length, "attempt")} in ${(span / 1000).toFixed(2)} seconds: ${Object.entries(counts).map(([k, n]) => `${n} ${k}`).join(", ")}`);
    const stride = niceStep(span / 1000, Math.max(3, Math.floor(width / 110)));
    const at = [];
    for (let s = 0; s <= span / 1000 + 1e-9; s += stride) at.push(Number(s.toFixed(6)));
    const place = (s) => left + ((s * 1000) / span) * (width - left - right);
    ticks.show(at.map((s, i) => [i, [{ class: "tr-tick", x1: place(s), x2: place(s), y1: 4, y2: height - 28 }, ""]]));
    axis.show([...at.map((s, i) => [i, [{ class: "tr-axis", x: place(s), y: height - 16, "text-anchor": "middle" }, String(s)]]),
      ["what", [{ class: "tr-axis", x: width - right, y: height - 3, "text-anchor": "end" }, "seconds since the first attempt"]]]);
    lanes.show(names.map((name, i) => [name, [{ class: "tr-lane", x: left - 10, y: i * tall + 19, "text-anchor": "end" }, name]]));
    marks.show(noted.map((mark) => [`${mark.type} ${mark.at}`, [
      { class: "tr-mark", x1: x(mark.at), x2: x(mark.at), y1: 4, y2: height - 28 },
      `${words(mark.type)} after ${seconds(mark.at - from)}${mark.reason ? `: ${mark.reason}` : ""}`,
    ]]));
    // Hedged lanes run side by side: each gets its share of the line.
    const shares = Math.max(1, ...tries.map((bar) => Number(bar.lane ?? 0) + 1));
    // A try that failed at once is a sliver: drawn last, or the next one would cover it.
    bars.show([...tries].sort((a, b) => b.to - b.from - (a.to - a.from)).map((bar) => [keyOf(bar), [
      {
        class: `tr-try tr-${bar.outcome.replace(" ", "-")}`, fill: setup.colours[bar.outcome][0], rx: 1.5,
        x: x(bar.from), y: names.indexOf(lane(bar)) * tall + 6 + (Number(bar.lane ?? 0) * 17) / shares,
        width: Math.max(3, x(bar.to) - x(bar.from)), height: 17 / shares - (shares > 1 ? 1 : 0),
      },
      `${bar.step}, attempt ${bar.attempt}: ${bar.outcome}, ${seconds(bar.to - bar.from)}${bar.error ? `, ${bar.error}` : ""}`,
    ]]));
    const since = Math.max(row?.event_at ?? from, ...tries.filter((bar) => bar.step === row?.step).map((bar) => bar.to));
    const on = names.findLastIndex((name) => name.split(" ")[0] === row?.step);
    running.show(!under ? [] : [["now", [
      { class: "tr-running", x: x(since), y: on * tall + 6.5, width: Math.max(2, x(end) - x(since)), height: 16, rx: 1.5 },
      `${row.step}, attempt ${row.attempt}: under way`,
    ]]]);
    if (table.open) list();
  }

  function list() {
    const { bars: tries = [] } = model.get("timeline");
    const from = Math.min(...tries.map((bar) => bar.from));
    keep(body, kept, tries.map((bar) => [keyOf(bar), bar]), () => h("tr", {}, cells.map(() => h("td"))), (node, bar) => {
      const step = bar.step + (bar.round > 1 ? `, round ${bar.round}` : "") + (bar.lane > 0 ? `, lane ${bar.lane}` : "");
      const values = [step, String(bar.attempt), bar.outcome, seconds(bar.from - from), seconds(bar.to - bar.from), bar.error ?? ""];
      values.forEach((value, i) => text(node.children[i], value));
    });
  }

  table.addEventListener("toggle", draw);
  on(model, "change:timeline", draw);
  on(store, "focus", draw);
  const watch = new ResizeObserver(() => draw());
  watch.observe(picture);
  draw();
  return {
    node: h("section", { class: "tr-card tr-time", "aria-label": "Attempts of the order in focus" }, h("div", { class: "tr-bar" }, title, legend, link), picture, empty, table),
    beat: () => {
      const row = store.rows.get(model.get("timeline").id);
      if (row?.attempt && !row.ended) draw();
    },
    end: () => watch.disconnect(),
  };
}

// --- what went wrong in the background --------------------------------------------------------------------

function troubles(store, on) {
  const { model } = store;
  const list = h("ol", { class: "tr-log", "aria-live": "polite" });
  const count = h("span", { class: "tr-count" });
  const summary = h("summary", {}, "Background log", count);
  const clear = button("Clear", { class: "tr-link" }, () => {
    store.request("clear log");
    summary.focus();
  });
  const empty = h("div", { class: "tr-quiet" }, "Nothing went wrong in the background.");
  const fold = h("details", { class: "tr-card tr-fold" }, summary, empty, list, clear);
  const kept = new Map();
  let before = 0;
  const show = () => {
    const lines = model.get("troubles");
    text(count, lines.length ? String(lines.length) : "");
    clear.hidden = !lines.length;
    const errors = lines.filter((line) => line.level === "error").length;
    if (errors > before) fold.open = true;
    before = errors;
    empty.hidden = lines.length > 0;
    keep(list, kept, lines.map((line) => [line.id, line]),
      (line) => h("li", { class: line.level === "warning" ? "tr-asking" : "tr-no" }, h("span", { class: "tr-quiet" }), h("b", {}, line.level), h("span", {}, line.text)),
      (node, line) => {
        text(node.firstChild, clock(line.at));
        text(node.lastChild, line.text + (line.times > 1 ? ` (${line.times} times)` : ""));
      });
  };
  on(model, "change:troubles", show);
  show();
  return fold;
}

// --- all of it --------------------------------------------------------------------------------------------

const TWO_COLUMNS = 860; // px, as in board.css

let views = 0;

function render({ model, el }) {
  const store = storeOf(model);
  const ends = [];
  const on = (target, name, work) => {
    if (target === model) {
      model.on(name, work);
      ends.push(() => model.off(name, work));
    } else {
      target.addEventListener(name, work);
      ends.push(() => target.removeEventListener(name, work));
    }
  };
  views += 1;
  const prefix = `tr-${views}`;
  const light = h("span", { class: "tr-light", role: "status" });
  const banner = h("div", { class: "tr-banner", role: "alert", hidden: true });
  const full = h("button", { type: "button", onclick: () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()) }, "Full screen");
  on(document, "fullscreenchange", () => text(full, document.fullscreenElement === root ? "Leave full screen" : "Full screen"));
  const table = board(store, on);
  const tries = timeline(store, on);
  const order = newOrder(store, on, prefix);
  const plan = faults(store, on, prefix);
  const root = h("div", { class: "tr-room", role: "region", "aria-label": "Control room" },
    h("header", { class: "tr-bar" }, h("h2", {}, "Control room"), light, full), banner,
    h("div", { class: "tr-layout" },
      h("div", { class: "tr-side" }, order, plan),
      h("div", { class: "tr-main" }, h("section", { class: "tr-card", "aria-label": "Board" }, filter(store, on), table.node, requests(store, on, prefix, table)), tries.node, troubles(store, on))));
  // In a notebook's command mode "a" would add a cell and "d d" delete one.
  root.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
  // Where there is one column the board comes first to the eye: what stands above it is folded, unless it is needed.
  let wide = null;
  let arranged = null;
  const arrange = () => {
    if (wide === arranged || wide === null || !model.get("page").rows) return;
    arranged = wide;
    order.open = wide || !store.order.length;
    plan.open = wide;
  };
  const measure = new ResizeObserver(([entry]) => {
    if (!entry.contentRect.width) return;
    wide = entry.contentRect.width >= TWO_COLUMNS;
    arrange();
  });
  measure.observe(root);
  on(store, "rows", arrange);
  const link = () => {
    const { live, text: sentence } = store.link;
    set(root, "data-live", String(Boolean(live)));
    text(light, live ? "live" : sentence.split(".")[0].slice(0, 40));
    banner.hidden = Boolean(live);
    text(banner, live ? "" : sentence);
  };
  on(store, "link", link);
  link();
  // For whoever measures: milliseconds from an event's commit to this page, and from a click to its verdict.
  root.delays = () => ({ commit: store.delays, verdict: store.verdictDelays });
  const beat = setInterval(() => {
    store.watch();
    table.beat();
    tries.beat();
  }, 250);
  el.append(root);
  return () => {
    clearInterval(beat);
    measure.disconnect();
    tries.end();
    ends.forEach((end) => end());
  };
}

export default { render };
