// Buttons that break something on purpose, and the line that says what is broken now.

import { h, text, keep, button, enable } from "./dom.js";
import { duration } from "./words.js";

const newest = (model) => (model.get("breaking").experiments ?? [])[0];
const underWay = (model) => (newest(model)?.phase === "over" ? undefined : newest(model));

export function breaking({ store, on, prefix }) {
  const { model } = store;
  const bar = h("div", { class: "tr-bar", role: "group", "aria-label": "Break on purpose", "aria-describedby": `${prefix}-why` });
  const why = h("small", { class: "tr-quiet", id: `${prefix}-why` });
  const kept = new Map();
  const reasons = new Map();
  let waiting = false;
  async function ask(name) {
    // Off until the kernel has answered: a double click breaks one thing.
    waiting = true;
    show();
    await store.request("break", { name });
    waiting = false;
    show();
  }
  function show() {
    const buttons = model.get("breaking").buttons ?? [];
    const now = underWay(model);
    const busy = now ? `${now.title} is not over yet.` : null;
    keep(bar, kept, buttons.map((one) => [one.name, one]), (one) => button(one.label, { class: "tr-stop" }, () => ask(one.name)),
      (node, one) => {
        enable(node, !one.why && !busy && !waiting && store.link.live, one.why ?? busy);
        if (!one.why && !busy) node.setAttribute("title", one.says);
      });
    // A reason in a tooltip alone would reach neither the keyboard nor a screen reader.
    const labels = new Map();
    for (const one of buttons) if (one.why) labels.set(one.why, [...(labels.get(one.why) ?? []), one.label]);
    const lines = [...labels].map(([reason, names]) => (names.length === buttons.length ? reason : `${names.join(", ")}: ${reason}`));
    // The line on the board and the card may be out of sight.
    const last = newest(model);
    if (last) lines.push(`${last.title}: ${last.verdict || last.phase}.`);
    keep(why, reasons, (lines.length ? lines : ["Orders that run meanwhile must recover. The audit checks it."]).map((line) => [line, line]),
      () => h("div"), (node, line) => text(node, line));
  }
  on(model, "change:breaking", show);
  on(store, "link", show);
  show();
  const node = h("details", { class: "tr-card tr-fold" }, h("summary", {}, "Break"), h("section", { "aria-label": "Break" }, bar, why));
  return { node, folds: () => true };
}

// The line on the board, while something is broken and until the audit has ended.
export function brokenLine({ store, on, ends }) {
  const { model } = store;
  const what = h("b");
  // Not announced: a screen reader would read the clock out every second.
  const more = h("span", { "aria-live": "off" });
  const end = button("Heal it now", {}, () => store.request("heal"));
  const node = h("div", { class: "tr-broken", hidden: true }, what, more, end);
  function show() {
    const now = underWay(model);
    node.hidden = !now;
    text(what, now ? `${now.title}: ${now.phase}` : "");
    if (!now) return;
    const left = now.phase === "broken" ? ` Healed in ${duration(now.until - store.now())}.` : "";
    text(more, now.sentence + left);
    text(end, ends[now.name] ?? "Heal it now");
    enable(end, now.phase === "broken" && store.link.live, "It is healed already, or not broken yet.");
  }
  on(model, "change:breaking", show);
  show();
  return { node: h("div", { "aria-live": "polite" }, node), beat: () => node.hidden || show() };
}
