// How the board draws one value of a line. A column of the specification names one of these cells.
// A cell makes `nodes` for one line. `show(row)` is called when the line changed, `beat(row)` as time passes.

import { h, text, set } from "./dom.js";
import { duration, countdown } from "./words.js";
import { pathPicture, pill, paint } from "./path.js";

export const cells = {
  text(store, column) {
    const node = h("div", { class: "tr-text" });
    return {
      nodes: [node],
      show: (row) => {
        text(node, String(row[column.key] ?? ""));
        set(node, "title", row[column.key]);
      },
    };
  },

  order() {
    const id = h("b");
    const small = h("small");
    return {
      nodes: [id, small],
      show: (row) => {
        text(id, row.id);
        set(id, "title", row.id);
        text(small, [row.total, row.policy, row.address].filter(Boolean).join(" · ") || "not received yet");
        set(small, "title", small.textContent);
      },
    };
  },

  // A name, and small words under it.
  named() {
    const name = h("b");
    const small = h("small");
    return {
      nodes: [name, small],
      show: (row) => {
        text(name, row.name);
        set(name, "title", row.name);
        text(small, row.more);
        set(small, "title", row.more);
      },
    };
  },

  state(store) {
    const state = pill(store.setup, null);
    return { nodes: [state], show: (row) => paint(store.setup, state, row.state) };
  },

  path(store) {
    const picture = pathPicture(store.setup);
    const state = pill(store.setup, null);
    return {
      nodes: [picture.node, state],
      show: (row) => {
        picture.show(row);
        paint(store.setup, state, row.state);
      },
    };
  },

  step(store) {
    const step = h("span");
    const since = h("small");
    const node = h("div", { class: "tr-now" }, step, since);
    const due = (row) => (row.due && row.due > store.now() ? `in ${duration(row.due - store.now())}` : "");
    const show = (row) => {
      const left = row.deadline === null ? null : row.deadline - store.now();
      text(step, row.step ?? "");
      text(since, row.step === null ? "" : left !== null ? countdown(left) : row.attempt ? [`attempt ${row.attempt}`, due(row), row.note].filter(Boolean).join(", ") : row.note ?? "");
      set(node, "title", [row.step, since.textContent].filter(Boolean).join(", "));
      set(node, "data-soon", left !== null && left < 5000);
    };
    return { nodes: [node], show, beat: show };
  },

  age(store, column) {
    const node = h("div");
    const show = (row) => text(node, row[column.key] ? duration((row.ended ?? store.now()) - row[column.key]) : "");
    return { nodes: [node], show, beat: show };
  },
};
