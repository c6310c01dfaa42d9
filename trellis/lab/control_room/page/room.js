// The control room's page. What is shown comes in as traits; what a person asks for goes out as messages
// (see trellis/lab/control_room/widget.py).

import { h, text, set } from "./dom.js";
import { storeOf } from "./store.js";
import { board } from "./board.js";
import { newOrders } from "./new_orders.js";
import { faults } from "./faults.js";
import { breaking } from "./breaking.js";
import { experiments } from "./experiments.js";
import { attempts } from "./attempts.js";
import { timeMachinePanel } from "./time_machine_panel.js";
import { talk } from "./talk.js";
import { log } from "./log.js";

// Each panel receives { store, on, prefix, options } and returns { node, beat, end, folds }. Only the node is required.
// `beat` runs four times a second. `folds` is for a panel at the side: may it be folded when there is only one column?
const PANELS = { board, new_orders: newOrders, faults, breaking, experiments, attempts, time_machine: timeMachinePanel, talk, log };

const TWO_COLUMNS = 860; // px, as in room.css

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
  const prefix = `tr-${views}`;
  const light = h("span", { class: "tr-light", role: "status" });
  const banner = h("div", { class: "tr-banner", role: "alert", hidden: true });
  // What is no failure, and still worth a sentence: for instance that no worker notes its attempts.
  const note = h("small", { class: "tr-quiet tr-note", role: "status" });
  const tell = () => text(note, model.get("note").text ?? "");
  const full = h("button", { type: "button", onclick: () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()) }, "Full screen");
  on(document, "fullscreenchange", () => text(full, document.fullscreenElement === root ? "Leave full screen" : "Full screen"));
  const { title, side, main, options } = store.setup;
  const make = (name) => PANELS[name]({ store, on, prefix: `${prefix}-${name}`, options: options[name] });
  const beside = side.map(make);
  const panels = [...beside, ...main.map(make)];
  const root = h("div", { class: "tr-page tr-room", role: "region", "aria-label": title },
    h("header", { class: "tr-bar" }, h("h2", {}, title), light, full), banner, note,
    h("div", { class: "tr-layout", "data-side": beside.length > 0 },
      beside.length ? h("div", { class: "tr-side" }, beside.map((panel) => panel.node)) : null,
      h("div", { class: "tr-main" }, panels.slice(beside.length).map((panel) => panel.node))));
  // The notebook must not get these keys: in its command mode "a" adds a cell and "d d" deletes one.
  root.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
  // In one column the side panels are above the board. They are folded unless they are needed.
  let wide = null;
  let arranged = null;
  const arrange = () => {
    if (wide === arranged || wide === null || !model.get("page").rows) return;
    arranged = wide;
    for (const { node, folds } of beside) node.open = wide || !folds?.();
  };
  const measure = new ResizeObserver(([entry]) => {
    if (!entry.contentRect.width) return;
    wide = entry.contentRect.width >= TWO_COLUMNS;
    arrange();
  });
  measure.observe(root);
  on(store, "rows", arrange);
  const link = () => {
    const { live, text: sentence } = store.link;
    set(root, "data-live", String(Boolean(live)));
    text(light, live ? "live" : sentence.split(".")[0].slice(0, 40));
    banner.hidden = Boolean(live);
    text(banner, live ? "" : sentence);
  };
  on(store, "link", link);
  on(model, "change:note", tell);
  link();
  tell();
  // For measurements: milliseconds from an event's commit to this page, and from a click to its verdict.
  root.delays = () => ({ commit: store.delays, verdict: store.verdictDelays });
  const beat = setInterval(() => {
    store.checkLife();
    for (const panel of panels) panel.beat?.();
  }, 250);
  el.append(root);
  return () => {
    clearInterval(beat);
    measure.disconnect();
    for (const panel of panels) panel.end?.();
    ends.forEach((end) => end());
  };
}

export default { render };
