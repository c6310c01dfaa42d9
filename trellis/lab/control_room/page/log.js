// What went wrong in the background.

import { h, text, keep, button } from "./dom.js";
import { clock } from "./words.js";

export function log({ store, on }) {
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
  return { node: fold };
}
