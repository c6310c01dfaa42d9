// The verdict on what was broken last, and a table of what was broken before.

import { h, text, set, keep } from "./dom.js";
import { clock } from "./words.js";

export function experiments({ store, on }) {
  const { model } = store;
  const title = h("h3");
  const sentence = h("p");
  const figures = h("div", { class: "tr-figures" });
  const found = h("ul", { class: "tr-log", "aria-label": "Violations" });
  const earlier = h("tbody");
  const fold = h("details", { class: "tr-fold" }, h("summary", {}, "Earlier"), h("div", { class: "tr-scroll" },
    h("table", {}, h("thead", {}, h("tr", {}, ["Broken", "At", "For", "Faults", "Verdict"].map((name) => h("th", { scope: "col" }, name)))), earlier)));
  const card = h("section", { class: "tr-card tr-verdict", "aria-label": "Verdict", hidden: true }, title, sentence, figures, found, fold);
  const [keptFigures, keptFound, keptEarlier] = [new Map(), new Map(), new Map()];
  function show() {
    const [last, ...before] = (model.get("breaking").experiments ?? []).filter((one) => one.phase === "over");
    card.hidden = !last;
    if (!last) return;
    set(card, "data-verdict", last.verdict);
    text(title, `${last.title}: ${last.verdict}`);
    text(sentence, last.trouble && !last.sentence.includes(last.trouble) ? `${last.sentence} ${last.trouble}` : last.sentence);
    keep(figures, keptFigures, last.numbers, () => h("div", {}, h("span"), h("b")), (node, value) => text(node.lastChild, value));
    for (const [what, node] of keptFigures) text(node.firstChild, what);
    found.hidden = !last.violations.length;
    keep(found, keptFound, last.violations.map((line) => [line, line]), () => h("li", { class: "tr-no" }, h("span")), (node, line) => text(node.firstChild, line));
    fold.hidden = !before.length;
    keep(earlier, keptEarlier, before.map((one) => [one.id, one]), () => h("tr", {}, h("td"), h("td"), h("td"), h("td"), h("td")), (node, one) => {
      const values = [one.title, clock(one.began), ...one.numbers.slice(0, 2).map(([, value]) => value), one.verdict];
      values.forEach((value, i) => text(node.children[i], value));
    });
  }
  on(model, "change:breaking", show);
  show();
  // The card appears inside a live region that is there from the beginning. A region that appears is not announced.
  return { node: h("div", { class: "tr-live", "aria-live": "polite" }, card) };
}
