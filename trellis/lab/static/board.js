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

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

// --- one state for all views of the widget ----------------------------------------------------------------

class Store extends EventTarget {
  constructor(model) {
    super();
    this.model = model;
    this.rows = new Map();
    this.order = [];
    this.selected = new Set();
    this.focused = null;
    this.offset = 0;
    this.asked = 0;
    this.delays = [];
    this.waits = new Map();
    this.verdictDelays = [];
    model.on("change:page", () => this.turn());
    model.on("change:changes", () => this.merge());
    model.on("change:verdicts", () => this.heard());
    model.on("change:form", () => this.started());
    this.turn();
  }
  get setup() {
    return this.model.get("setup");
  }
  send(kind, more = {}) {
    this.model.send({ kind, ...more });
  }
  tell(what) {
    this.dispatchEvent(new Event(what));
  }
  now() {
    return Date.now() + this.offset;
  }
  // The kernel's clock may not be the browser's.
  hear(message) {
    const offset = message.now - Date.now();
    if (Math.abs(offset - this.offset) > 2000) this.offset = offset;
  }
  turn() {
    const page = this.model.get("page");
    if (!page.rows) return;
    this.hear(page);
    this.rows = new Map(page.rows.map((row) => [row.id, row]));
    this.sort();
  }
  merge() {
    const changes = this.model.get("changes");
    if (!changes.rows) return;
    this.hear(changes);
    for (const id of changes.gone) this.rows.delete(id);
    for (const row of changes.rows) {
      // A claim changes the line and brings no event about: it is no measure of how late an event is.
      if (row.event > (this.rows.get(row.id)?.event ?? 0)) this.delays.push(Date.now() - row.event_at);
      this.rows.set(row.id, row);
    }
    this.delays = this.delays.slice(-1000);
    this.sort();
  }
  sort() {
    const byId = Boolean(this.model.get("page").prefix);
    const less = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    this.order = [...this.rows.values()]
      .sort((a, b) => (byId ? less(a.id, b.id) : b.created - a.created || less(b.id, a.id)))
      .map((row) => row.id);
    this.tell("rows");
  }
  heard() {
    for (const verdict of this.model.get("verdicts")) {
      if (verdict.ok !== null && this.waits.has(verdict.n)) {
        this.verdictDelays.push(performance.now() - this.waits.get(verdict.n));
        this.waits.delete(verdict.n);
      }
    }
    this.tell("verdicts");
  }
  started() {
    const [first] = this.model.get("form").started ?? [];
    if (first && !this.selected.size) this.choose(first);
  }
  choose(id) {
    this.selected = new Set(id ? [id] : []);
    this.focus(id);
    this.tell("selection");
  }
  toggle(id, on = !this.selected.has(id)) {
    if (on) this.selected.add(id);
    else this.selected.delete(id);
    if (on && !this.focused) this.focus(id);
    this.tell("selection");
  }
  focus(id) {
    if (id === this.focused) return;
    this.focused = id;
    this.send("focus", { id });
    this.tell("focus");
  }
  ask(name, more = {}) {
    this.asked += 1;
    this.waits.set(this.asked, performance.now());
    this.send("ask", { name, ids: [...this.selected], n: this.asked, ...more });
    return this.asked;
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
  const all = h("input", { type: "checkbox", "aria-label": "Select every order on this page", onchange: () => {
    for (const id of store.order) store.toggle(id, all.checked);
  } });
  const heads = ["Order", "Path", "Now", "Age", "Last error"].map((name) => h("div", { role: "columnheader" }, name));
  const grid = h(
    "div",
    { role: "grid", class: "tr-grid", "aria-label": "Orders", "aria-multiselectable": "true" },
    h("div", { role: "rowgroup" }, h("div", { role: "row", class: "tr-line tr-head" }, h("div", { role: "columnheader" }, all), heads)),
    body,
  );
  const empty = h("div", { class: "tr-empty" });
  let cursor = null;

  function line(id) {
    const tick = h("input", { type: "checkbox", tabindex: "-1", "aria-label": `Select ${id}`, onchange: () => store.toggle(id, tick.checked) });
    const small = h("small");
    const picture = pathPicture(setup);
    const state = pill(setup, null);
    const now = h("div", { class: "tr-now" });
    const age = h("div", { class: "tr-age" });
    const error = h("div", { class: "tr-error" });
    const node = h(
      "div",
      { role: "row", class: "tr-line", tabindex: "-1", "data-id": id },
      h("div", { role: "gridcell" }, tick),
      h("div", { role: "gridcell", class: "tr-id" }, h("b", {}, id), small),
      h("div", { role: "gridcell", class: "tr-way" }, picture.node, state),
      h("div", { role: "gridcell" }, now),
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
      set(small, "title", row.address);
      picture.show(row);
      paint(setup, state, row.state);
      text(error, row.error ?? "");
      set(error, "title", row.error);
      made.beat();
    };
    made.beat = () => {
      const row = made.row;
      const left = row.deadline === null ? null : row.deadline - store.now();
      text(now, row.step === null ? "" : left !== null ? `review, ${left > 0 ? `${duration(left)} left` : "time is up"}`
        : row.attempt ? `${row.step}, attempt ${row.attempt}` : row.step);
      set(now, "data-soon", left !== null && left < 5000);
      text(age, row.created ? duration((row.ended ?? store.now()) - row.created) : "");
    };
    return made;
  }

  function show() {
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
    if (!lines.has(cursor)) cursor = store.order[0] ?? null;
    for (const [id, made] of lines) set(made.node, "tabindex", id === cursor ? "0" : "-1");
    const page = store.model.get("page");
    empty.hidden = store.order.length > 0;
    grid.hidden = !empty.hidden;
    text(empty, !page.rows ? "Reading the ledger …"
      : page.prefix || page.states.length ? "No order fits this filter. Choose “All”, or empty the search field."
      : "No orders yet. Describe one under “New order” and press Start: it appears here by itself.");
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
    store.order.slice(Math.min(from, to), Math.max(from, to) + 1).forEach((one) => store.toggle(one, true));
  }

  grid.addEventListener("keydown", (event) => {
    if (event.target === all) return;
    const place = store.order.indexOf(cursor);
    const moves = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: store.order.length - 1 };
    if (event.key in moves) {
      const id = store.order[Math.min(store.order.length - 1, Math.max(0, moves[event.key]))];
      walk(id);
      if (event.shiftKey) store.toggle(id, true);
    } else if (event.key === " ") store.toggle(cursor);
    else if (event.key === "Enter") store.choose(cursor);
    else if (event.key === "Escape") store.choose(null);
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) store.order.forEach((id) => store.toggle(id, true));
    else if (event.key === "PageDown" || event.key === "PageUp") store.send("turn", { forward: event.key === "PageDown" });
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  on(store, "rows", show);
  on(store, "selection", mark);
  on(store, "focus", mark);
  show();
  return { node: [grid, empty], beat: () => lines.forEach((made) => made.beat()) };
}

// --- filter and paging ------------------------------------------------------------------------------------

function filter(store, on) {
  const { setup, model } = store;
  const open = setup.states.filter((state) => !setup.terminal.includes(state));
  const search = h("input", { type: "search", placeholder: "Order id begins with …", "aria-label": "Order id begins with", maxlength: 64 });
  let later = 0;
  const look = (states) => store.send("view", { states, prefix: search.value });
  search.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(() => look(model.get("page").states ?? []), 150);
  });
  const chip = (name, states, colour) => {
    const count = h("span", { class: "tr-count" });
    const dot = colour ? h("i", { class: "tr-dot", style: `background:${colour}` }) : null;
    const node = h("button", { type: "button", class: "tr-chip", onclick: () => look(states) }, dot, name, count);
    const show = () => {
      const counts = model.get("counts");
      const each = (states.length ? states : setup.states).map((state) => counts[state] ?? 0);
      const sum = each.reduce((a, b) => a + b, 0);
      text(count, each.some((n) => n >= setup.counted) ? `${sum}+` : String(sum));
      const now = model.get("page").states ?? [];
      set(node, "aria-pressed", now.length === states.length && states.every((state) => now.includes(state)));
      // A state that no order is in is not worth a place, unless it is being looked at.
      node.hidden = states.length === 1 && sum === 0 && node.getAttribute("aria-pressed") !== "true";
    };
    on(model, "change:counts", show);
    on(model, "change:page", show);
    show();
    return node;
  };
  const chips = [chip("All", []), chip("Open", open), ...setup.states.map((state) => chip(words(state), [state], setup.colours[state][0]))];
  const back = h("button", { type: "button", "aria-label": "Previous page", onclick: () => store.send("turn", { forward: false }) }, "‹");
  const forth = h("button", { type: "button", "aria-label": "Next page", onclick: () => store.send("turn", { forward: true }) }, "›");
  const where = h("span", { class: "tr-quiet" });
  const show = () => {
    const page = model.get("page");
    text(where, `page ${page.number ?? 1}`);
    back.disabled = !page.rows || page.number === 1;
    forth.disabled = !page.more;
  };
  on(model, "change:page", show);
  show();
  return h("div", { class: "tr-bar" }, h("div", { class: "tr-chips", role: "group", "aria-label": "Show orders" }, chips),
    h("div", { class: "tr-pages" }, search, back, where, forth));
}

// --- requests ---------------------------------------------------------------------------------------------

function requests(store, on, unique) {
  const { model } = store;
  const chosen = h("span", { class: "tr-chosen", "aria-live": "polite" });
  const address = h("input", { type: "text", placeholder: "new street and number, city", "aria-label": "New address", "aria-describedby": `${unique}-change-wrong` });
  const wrong = h("span", { class: "tr-wrong", id: `${unique}-change-wrong`, role: "alert" });
  const waiting = new Set();
  const button = (label, name, kind, more) => {
    const node = h("button", { type: "button", class: kind, onclick: () => {
      if (node.disabled) return;
      // Off until the verdict is here: a double click is one request.
      waiting.add(store.ask(name, more?.()));
      enable();
    } }, label);
    return node;
  };
  const parts = () => {
    const [line1, ...rest] = address.value.split(",");
    return { address: { line1, city: rest.join(",").trim() } };
  };
  const buttons = [
    button("Approve", "approve", "tr-go"),
    button("Cancel", "cancel", "tr-stop"),
    button("Change address", "update_address", "", parts),
  ];
  address.addEventListener("keydown", (event) => event.key === "Enter" && buttons[2].click());
  function enable() {
    const n = store.selected.size;
    text(chosen, n ? n === 1 ? [...store.selected][0] : `${n} orders selected` : "Select an order to steer it");
    const shut = !n || waiting.size > 0 || !model.get("link").live;
    for (const one of buttons) one.disabled = shut;
    address.disabled = !n;
  }
  const said = h("ol", { class: "tr-verdicts", "aria-live": "polite", "aria-label": "Verdicts" });
  function verdicts() {
    const lines = model.get("verdicts");
    for (const line of lines) if (line.ok !== null) waiting.delete(line.n);
    said.replaceChildren(...lines.slice(0, 4).map((line) => h(
      "li",
      { class: line.ok === null ? "tr-asking" : line.ok ? "tr-yes" : "tr-no" },
      h("span", { class: "tr-quiet" }, clock(line.at)), h("b", {}, line.name || "Error"), h("span", {}, line.text),
    )));
    enable();
  }
  function errors() {
    const error = model.get("form").errors?.change ?? "";
    text(wrong, error);
    set(address, "aria-invalid", Boolean(error));
    if (error) waiting.clear();
    enable();
  }
  on(store, "selection", enable);
  on(store, "verdicts", verdicts);
  on(model, "change:link", enable);
  on(model, "change:form", errors);
  verdicts();
  errors();
  return h("div", { class: "tr-requests" },
    h("div", { class: "tr-bar", role: "group", "aria-label": "Requests to the selected orders" },
      chosen, h("div", { class: "tr-buttons" }, buttons[0], buttons[1], address, buttons[2])),
    wrong, said);
}

// --- new orders -------------------------------------------------------------------------------------------

function newOrder(store, on, unique) {
  const { setup, model } = store;
  const wrongs = new Map();
  const field = (name, label, input) => {
    const wrong = h("span", { class: "tr-wrong", id: `${unique}-${name}-wrong`, role: "alert" });
    input.id = `${unique}-${name}`;
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
      h("button", { type: "button", class: "tr-icon", "aria-label": "Remove this item", onclick: () => { row.remove(); } }, "×"));
    made += 1;
    const wrong = h("span", { class: "tr-wrong", role: "alert", id: `${unique}-item-${made}-wrong` });
    for (const one of row.querySelectorAll("input")) one.setAttribute("aria-describedby", wrong.id);
    row.append(wrong);
    items.append(row);
    return row;
  };
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
  let sent = false;
  const form = h("form", { class: "tr-card", novalidate: true, "aria-label": "New order" },
    h("h3", {}, "New order"),
    h("div", { class: "tr-field" }, h("span", { class: "tr-label" }, "Items: sku, quantity, unit price"), items,
      h("button", { type: "button", class: "tr-link", onclick: () => addItem().firstChild.focus() }, "+ add an item")),
    field("address", "Street and number", line1), field("city", "City", city),
    h("div", { class: "tr-pair" }, field("policy", "Policy", policy), field("count", "How many", count)), explained,
    h("div", { class: "tr-bar" }, start, done), whole);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (sent || start.disabled) return;
    sent = true;
    show();
    store.send("start", {
      items: [...items.children].map((row) => Object.fromEntries([...row.querySelectorAll("input")].map((one) => [one.name, one.value]))),
      address: { line1: line1.value, city: city.value }, policy: policy.value, count: count.value,
    });
  });
  function show() {
    const { errors = {}, busy = false, done: sentence = "" } = model.get("form");
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
    start.disabled = busy || sent || !model.get("link").live;
    text(start, busy || sent ? "Starting …" : "Start");
  }
  on(model, "change:form", () => {
    if (!model.get("form").busy) sent = false;
    show();
  });
  on(model, "change:link", () => {
    if (!model.get("link").live) sent = false;
    show();
  });
  show();
  return form;
}

// --- faults -----------------------------------------------------------------------------------------------

function faults(store, on, unique) {
  const { setup, model } = store;
  const step = h("select", { "aria-label": "Which step's calls fail" },
    h("option", { value: "" }, "all steps"), setup.steps.map((name) => h("option", { value: name }, name)));
  const note = h("small", { class: "tr-quiet" });
  const percent = (value) => `${Math.round(value * 100)} %`;
  const sliders = [
    ["error", "Raise at once", 1, 0.01, percent], ["hang", "Hang", 1, 0.01, percent],
    ["reply_lost", "Done, but reply lost", 1, 0.01, percent], ["latency", "Latency of good calls", 3, 0.05, (value) => `${value.toFixed(2)} s`],
  ].map(([name, label, max, stride, say]) => {
    const out = h("output", { for: `${unique}-${name}` });
    const range = h("input", { type: "range", id: `${unique}-${name}`, min: 0, max, step: stride, value: 0 });
    let held = false;
    range.addEventListener("input", () => {
      held = true;
      text(out, say(Number(range.value)));
      set(range, "aria-valuetext", out.textContent);
    });
    range.addEventListener("change", () => {
      held = false;
      store.send("fault", { step: step.value || null, name, value: Number(range.value) });
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
  const weather = (name, label) => h("button", { type: "button", onclick: () => store.send("weather", { name }) }, label);
  return h("section", { class: "tr-card", "aria-label": "Faults" }, h("h3", {}, "Faults"),
    h("div", { class: "tr-bar" }, weather("calm", "Calm"), weather("canonical", "Canonical thirds")),
    h("div", { class: "tr-field" }, h("label", {}, h("span", {}, "Calls of "), step)), sliders.map((slider) => slider.node), note);
}

// --- the tries of one order -------------------------------------------------------------------------------

function niceStep(span, most) {
  const raw = span / most;
  const scale = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((n) => n * scale).find((n) => n >= raw);
}

function timeline(store, on) {
  const { setup, model } = store;
  const title = h("h3", {}, "Attempts");
  const link = h("a", { target: "_blank", rel: "noopener", class: "tr-ui" }, "Open in Temporal’s Web UI ↗");
  const legend = h("div", { class: "tr-legend" }, ["succeeded", "failed", "timed out", "abandoned"].map((name) =>
    h("span", {}, h("i", { class: "tr-dot", style: `background:${setup.colours[name][0]}` }), name)));
  const picture = h("div", { class: "tr-picture" });
  const empty = h("div", { class: "tr-empty" });
  let end = 0;

  function draw() {
    const { id, bars = [], marks = [], link: href, cut } = model.get("timeline");
    const row = store.rows.get(id);
    text(title, id ? `Attempts of ${id}` : "Attempts");
    link.hidden = !href;
    if (href) set(link, "href", href);
    legend.hidden = !bars.length;
    empty.hidden = Boolean(bars.length);
    picture.hidden = !bars.length;
    text(empty, id ? "No attempt has ended yet." : "Select an order, and every attempt at its steps is drawn here as it happens.");
    if (!bars.length) return;
    const running = row?.step && row.attempt && !row.ended;
    const lane = (bar) => bar.step + (bar.round > 1 ? ` ${bar.round}` : "");
    const lanes = [...new Set(bars.map(lane))];
    const last = Math.max(...bars.map((bar) => bar.to), ...marks.map((mark) => mark.at));
    if (running && !lanes.includes(row.step)) {
      const again = lanes.filter((name) => name.split(" ")[0] === row.step);
      if (!again.length) lanes.push(row.step);
    }
    const from = Math.min(...bars.map((bar) => bar.from));
    const now = store.now();
    end = running ? Math.max(last, now) : last;
    const span = Math.max(end - from, 50);
    const width = Math.max(picture.clientWidth, 320);
    const left = 84;
    const right = 14;
    const tall = 22;
    const x = (ms) => left + ((ms - from) / span) * (width - left - right);
    const height = lanes.length * tall + 34;
    const svg = h("svg", { class: "tr-gantt", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
    const counts = {};
    for (const bar of bars) counts[bar.outcome] = (counts[bar.outcome] ?? 0) + 1;
    set(svg, "aria-label", `${plural(bars.length, "attempt")} in ${(span / 1000).toFixed(2)} seconds: ${Object.entries(counts).map(([k, n]) => `${n} ${k}`).join(", ")}`);
    const stride = niceStep(span / 1000, Math.max(3, Math.floor(width / 110)));
    for (let s = 0; s <= span / 1000 + 1e-9; s += stride) {
      const at = x(from + s * 1000);
      svg.append(h("line", { class: "tr-tick", x1: at, x2: at, y1: 4, y2: height - 28 }),
        h("text", { class: "tr-axis", x: at, y: height - 16, "text-anchor": "middle" }, Number(s.toFixed(6)).toString()));
    }
    svg.append(h("text", { class: "tr-axis", x: width - right, y: height - 3, "text-anchor": "end" }, "seconds since the first attempt"));
    lanes.forEach((name, i) => svg.append(h("text", { class: "tr-lane", x: left - 10, y: i * tall + 19, "text-anchor": "end" }, name)));
    for (const mark of marks) {
      if (!["ORDER_APPROVED", "ORDER_CANCELLED", "ORDER_FAILED", "APPROVAL_TIMEOUT", "ADDRESS_UPDATED", "REQUEST_REFUSED", "ORDER_COMPLETED"].includes(mark.type)) continue;
      const at = x(mark.at);
      svg.append(h("line", { class: "tr-mark", x1: at, x2: at, y1: 4, y2: height - 28 }, h("title", {}, [words(mark.type), mark.reason].filter(Boolean).join(": "))));
    }
    // Hedged lanes run side by side: each gets its share of the line.
    const shares = Math.max(1, ...bars.map((bar) => Number(bar.lane ?? 0) + 1));
    // A try that failed at once is a sliver: drawn last, or the next one would cover it.
    for (const bar of [...bars].sort((a, b) => b.to - b.from - (a.to - a.from))) {
      const y = lanes.indexOf(lane(bar)) * tall + 6 + (Number(bar.lane ?? 0) * 17) / shares;
      const at = x(bar.from);
      svg.append(h("rect", {
        class: `tr-try tr-${bar.outcome.replace(" ", "-")}`, x: at, y, width: Math.max(3, x(bar.to) - at), height: 17 / shares - (shares > 1 ? 1 : 0), rx: 1.5, fill: setup.colours[bar.outcome][0],
      }, h("title", {}, `${bar.step}, attempt ${bar.attempt}: ${bar.outcome}, ${((bar.to - bar.from) / 1000).toFixed(3)} s${bar.error ? `, ${bar.error}` : ""}`)));
    }
    if (running) {
      const name = lanes.filter((one) => one.split(" ")[0] === row.step).at(-1);
      const since = Math.max(...bars.filter((bar) => bar.step === row.step).map((bar) => bar.to), row.event_at ?? from);
      svg.append(h("rect", { class: "tr-running", x: x(since), y: lanes.indexOf(name) * tall + 6.5, width: Math.max(2, x(end) - x(since)), height: 16, rx: 1.5 },
        h("title", {}, `${row.step}, attempt ${row.attempt}: under way`)));
    }
    picture.replaceChildren(svg);
    text(title, `${plural(bars.length, "attempt")} of ${id}${cut ? " (the newest)" : ""}`);
  }

  on(model, "change:timeline", draw);
  on(store, "focus", () => { if (!store.focused) draw(); });
  const watch = new ResizeObserver(() => draw());
  watch.observe(picture);
  draw();
  return {
    node: h("section", { class: "tr-card tr-time", "aria-label": "Attempts of the order in focus" }, h("div", { class: "tr-bar" }, title, legend, link), picture, empty),
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
  const clear = h("button", { type: "button", class: "tr-link", onclick: () => store.send("clear log") }, "Clear");
  const fold = h("details", { class: "tr-card tr-fold" }, h("summary", {}, "Background log", count), list, clear);
  let before = 0;
  const show = () => {
    const lines = model.get("troubles");
    text(count, lines.length ? String(lines.length) : "");
    clear.hidden = !lines.length;
    const errors = lines.filter((line) => line.level === "error").length;
    if (errors > before) fold.open = true;
    before = errors;
    list.replaceChildren(...(lines.length ? lines.map((line) => h("li", { class: line.level === "warning" ? "tr-asking" : "tr-no" },
      h("span", { class: "tr-quiet" }, clock(line.at)), h("b", {}, line.level), h("span", {}, line.text + (line.times > 1 ? ` (${line.times} times)` : ""))))
      : [h("li", { class: "tr-quiet" }, "Nothing went wrong in the background.")]));
  };
  on(model, "change:troubles", show);
  show();
  return fold;
}

// --- all of it --------------------------------------------------------------------------------------------

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
  const unique = `tr-${views}`;
  const light = h("span", { class: "tr-light", role: "status" });
  const banner = h("div", { class: "tr-banner", role: "alert", hidden: true });
  const full = h("button", { type: "button", onclick: () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()) }, "Full screen");
  on(document, "fullscreenchange", () => text(full, document.fullscreenElement === root ? "Leave full screen" : "Full screen"));
  const table = board(store, on);
  const tries = timeline(store, on);
  const root = h("div", { class: "tr-room", role: "region", "aria-label": "Control room" },
    h("header", { class: "tr-bar" }, h("h2", {}, "Control room"), light, full), banner,
    h("div", { class: "tr-layout" },
      h("div", { class: "tr-side" }, newOrder(store, on, unique), faults(store, on, unique)),
      h("div", { class: "tr-main" }, h("section", { class: "tr-card", "aria-label": "Board" }, filter(store, on), table.node, requests(store, on, unique)), tries.node, troubles(store, on))));
  // In a notebook's command mode "a" would add a cell and "d d" delete one.
  root.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
  const link = () => {
    const { live, text: sentence } = model.get("link");
    set(root, "data-live", String(Boolean(live)));
    text(light, live ? "live" : sentence.split(".")[0].slice(0, 40));
    banner.hidden = Boolean(live);
    text(banner, live ? "" : `${sentence} The board fills again by itself when the servers are back.`);
  };
  on(model, "change:link", link);
  link();
  // For whoever measures: milliseconds from an event's commit to this page, and from a click to its verdict.
  root.delays = () => ({ commit: store.delays, verdict: store.verdictDelays });
  const beat = setInterval(() => {
    table.beat();
    tries.beat();
  }, 250);
  el.append(root);
  store.send("hello");
  return () => {
    clearInterval(beat);
    tries.end();
    ends.forEach((end) => end());
  };
}

export default { render };
