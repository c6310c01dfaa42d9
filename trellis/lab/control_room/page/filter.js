// Which lines the board shows, page by page.

import { h, text, set, button, enable, keep } from "./dom.js";
import { words, capital } from "./words.js";

export function filter(store, on, counted) {
  const { setup, model } = store;
  const open = setup.states.filter((state) => !setup.ended.includes(state));
  const begins = `${capital(setup.words.one)} id begins with`;
  const search = h("input", { type: "search", placeholder: `${begins} …`, "aria-label": begins, maxlength: 64 });
  const kind = h("select", { "aria-label": "Type", hidden: true, onchange: () => look(states) });
  const kinds = new Map();
  let states = [];
  let later = 0;
  let asking = 0;
  const look = async (wanted) => {
    // The typed text goes with this message. A later message with it would undo the choice of states.
    clearTimeout(later);
    later = 0;
    states = wanted;
    asking += 1;
    await store.request("view", { states, prefix: search.value, type: kind.value });
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
      text(count, each.some((n) => n >= counted) ? `${sum}+` : String(sum));
      const now = model.get("page").states ?? [];
      set(node, "aria-pressed", now.length === fitting.length && fitting.every((state) => now.includes(state)));
      // A state without lines gets no chip, unless the filter shows it.
      node.hidden = fitting.length === 1 && sum === 0 && node.getAttribute("aria-pressed") !== "true";
    };
    on(model, "change:counts", tell);
    on(model, "change:page", tell);
    tell();
    return node;
  };
  // One open state needs no second chip.
  const chips = [chip("All", []), ...(open.length > 1 ? [chip("Open", open)] : []), ...setup.states.map((state) => chip(words(state), [state], setup.colours[state][0]))];
  const back = button("‹", { "aria-label": "Previous page" }, () => store.request("turn", { forward: false }));
  const forth = button("›", { "aria-label": "Next page" }, () => store.request("turn", { forward: true }));
  const where = h("span", { class: "tr-quiet", role: "status" });
  function show() {
    const page = model.get("page");
    const types = page.types ?? [];
    keep(kind, kinds, ["", ...types].map((type) => [type, type]), (type) => h("option", { value: type }, type || "all types"), () => {});
    kind.hidden = types.length < 2 && !page.type;
    text(where, `page ${page.number ?? 1}`);
    enable(back, page.number > 1, "This is the first page");
    enable(forth, page.more, "This is the last page");
    // A page that was loaded again shows the filter in force. While a person types, nothing changes.
    if (!later && !asking) {
      states = page.states ?? [];
      search.value = page.prefix ?? "";
      kind.value = page.type ?? "";
    }
  }
  on(model, "change:page", show);
  show();
  return h("div", { class: "tr-bar" }, h("div", { class: "tr-chips", role: "group", "aria-label": `Show ${setup.words.many}` }, chips),
    h("div", { class: "tr-pages" }, kind, search, back, where, forth));
}
