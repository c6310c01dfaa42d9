// Requests to the selected orders, and their verdicts.

import { h, text, set, keep, button, enable } from "./dom.js";
import { clock } from "./words.js";

export function requests(store, on, prefix, table) {
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
