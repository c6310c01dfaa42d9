// The board: one line for each order.

import { h, text, set } from "./dom.js";
import { duration, countdown } from "./words.js";
import { pathPicture, pill, paint } from "./path.js";

export function board(store, on) {
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
