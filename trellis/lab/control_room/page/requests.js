// Requests to the selected lines, and their verdicts.

import { h, text, set, keep, button, enable } from "./dom.js";
import { clock } from "./words.js";

export function requests(store, on, prefix, moveTo) {
  const { setup, model } = store;
  const chosen = h("span", { class: "tr-chosen", "aria-live": "polite" });
  const clear = button("Clear", { class: "tr-link", "aria-label": "Clear the selection" }, () => {
    store.choose(null);
    moveTo();
  });
  let waiting = false;
  const asks = setup.requests.map((request) => {
    const id = `${prefix}-${request.name}-wrong`;
    const field = request.field && h("input", { type: "text", placeholder: request.field, "aria-label": request.label, "aria-describedby": id });
    const wrong = h("span", { class: "tr-wrong", id, role: "alert" });
    const node = button(request.title, { class: request.style && `tr-${request.style}` }, () => ask(request, field));
    if (field) field.addEventListener("keydown", (event) => event.key === "Enter" && node.click());
    const complain = (sentence) => {
      text(wrong, sentence);
      if (field) set(field, "aria-invalid", Boolean(sentence));
    };
    return { request, field, wrong, node, complain };
  });
  async function ask(request, field) {
    // Off until the verdict has come: a double click is one request.
    waiting = true;
    show();
    for (const one of asks) one.complain("");
    const answer = await store.ask(request.name, field ? { text: field.value } : {});
    waiting = false;
    asks.find((one) => one.request === request).complain(answer.error ?? "");
    show();
  }
  function show() {
    const n = store.selected.size;
    const hidden = store.hidden().length;
    const name = n === 1 && !hidden ? store.name([...store.selected][0]) : `${n} selected${hidden ? `, ${hidden} not shown` : ""}`;
    text(chosen, n ? name : `Select ${setup.words.a} to steer it`);
    clear.hidden = !n;
    for (const { request, node } of asks) {
      const can = store.can(request);
      enable(node, can && !waiting && store.link.live, n && !can ? `What is selected can no longer be ${request.past}` : null);
    }
  }
  const list = h("ol", { class: "tr-verdicts", "aria-live": "polite", "aria-label": "Verdicts" });
  const kept = new Map();
  function verdicts() {
    keep(list, kept, model.get("verdicts").slice(0, 4).map((line) => [line.id, line]),
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
    h("div", { class: "tr-bar", role: "group", "aria-label": `Requests to the selected ${setup.words.many}` },
      chosen, clear, h("div", { class: "tr-buttons" }, asks.map(({ field, node }) => [field, node]))),
    asks.filter((one) => one.field).map((one) => one.wrong), list);
}
