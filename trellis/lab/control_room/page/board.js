// The board: one line for each order or workflow, with the columns of the specification.

import { h, text, set } from "./dom.js";
import { cells } from "./cells.js";
import { filter } from "./filter.js";
import { requests } from "./requests.js";
import { brokenLine } from "./breaking.js";
import { capital } from "./words.js";

const TICK = "26px"; // the column of checkboxes

// In a narrow room a column folds: its cell moves to a line of its own below the others.
function layout(columns) {
  const widths = (fold) => [TICK, ...columns.filter((column) => !column.fold || column.fold > fold).map((column) => column.width)];
  return `--columns: ${widths(0).join(" ")}; --columns-1: ${narrower(widths(1))}; --columns-2: ${narrower(widths(2))}`;
}
// A minimum that suits the whole width would push the last column out of a narrow one.
const narrower = (widths) => widths.map((width) => width.replace(/^minmax\([^,]*,/, "minmax(60px,")).join(" ");

function table(store, on) {
  const { setup } = store;
  const lines = new Map();
  const body = h("div", { role: "rowgroup", class: "tr-body" });
  const every = `Select every ${setup.words.one} on this page`;
  const all = h("input", { type: "checkbox", "aria-label": every, title: every,
    onchange: () => store.select(store.order, all.checked) });
  const heads = setup.columns.map((column) => h("div", { role: "columnheader", "data-fold": column.fold || null }, column.title));
  const grid = h(
    "div",
    { role: "grid", class: "tr-grid", style: layout(setup.columns), "aria-label": capital(setup.words.many), "aria-multiselectable": "true" },
    h("div", { role: "rowgroup" }, h("div", { role: "row", class: "tr-line tr-head" }, h("div", { role: "columnheader" }, all), heads)),
    body,
  );
  const empty = h("div", { class: "tr-empty", tabindex: "-1" });
  let cursor = null;
  let shown = [];

  function makeLine(id) {
    const tick = h("input", { type: "checkbox", tabindex: "-1", "aria-label": `Select ${store.name(id)}`, onchange: () => store.select([id], tick.checked) });
    const made = setup.columns.map((column) => cells[column.cell](store, column));
    const node = h(
      "div",
      { role: "row", class: "tr-line", tabindex: "-1", "data-id": id },
      h("div", { role: "gridcell" }, tick),
      made.map(({ nodes }, i) => h("div", { role: "gridcell", class: `tr-cell-${setup.columns[i].cell}`, "data-fold": setup.columns[i].fold || null }, nodes)),
    );
    node.addEventListener("click", (event) => {
      if (event.target === tick) return;
      if (event.shiftKey) selectUpTo(id);
      else if (event.ctrlKey || event.metaKey) store.toggle(id);
      else store.choose(id);
      moveTo(id);
    });
    const line = { node, tick, row: null };
    line.show = (row) => {
      line.row = row;
      made.forEach((cell) => cell.show(row));
    };
    line.beat = () => made.forEach((cell) => cell.beat?.(line.row));
    return line;
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
      if (!lines.has(id)) lines.set(id, makeLine(id));
      const made = lines.get(id);
      const row = store.rows.get(id);
      if (made.row !== row) made.show(row);
      // Moving a line that is already in its place would make it lose the keyboard's focus.
      if (body.children[place] !== made.node) body.insertBefore(made.node, body.children[place] ?? null);
    });
    const nearest = store.order[Math.min(Math.max(shown.indexOf(cursor), 0), store.order.length - 1)] ?? null;
    if (!lines.has(cursor)) cursor = nearest;
    for (const [id, made] of lines) set(made.node, "tabindex", id === cursor ? "0" : "-1");
    const page = store.model.get("page");
    empty.hidden = store.order.length > 0;
    grid.hidden = !empty.hidden;
    const { words } = setup;
    text(empty, !page.rows ? words.reading
      : page.prefix || page.type || page.states.length ? `No ${words.one} fits this filter. Choose “All”, or empty the search field.`
      : words.empty);
    // If the line with the focus left the page, the next line gets the focus.
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

  function moveTo(id) {
    if (!id) return;
    cursor = id;
    for (const [other, made] of lines) set(made.node, "tabindex", other === id ? "0" : "-1");
    lines.get(id)?.node.focus();
  }

  function selectUpTo(id) {
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
      moveTo(id);
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
  return { nodes: [grid, empty], beat: () => lines.forEach((made) => made.beat()), moveTo: () => moveTo(cursor) };
}

export function board({ store, on, prefix, options }) {
  const orders = table(store, on);
  const broken = brokenLine({ store, on, ends: store.setup.options.breaking?.ends ?? {} });
  const node = h("section", { class: "tr-card", "aria-label": "Board" },
    filter(store, on, options.counted), broken.node, orders.nodes, requests(store, on, prefix, orders.moveTo));
  return { node, beat: () => [orders, broken].forEach((part) => part.beat()) };
}
