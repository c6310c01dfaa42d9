// The control room's page. What is shown comes in as traits; what a person asks for goes out as messages
// (see trellis/lab/control_room/widget.py).

import { h, text, set } from "./dom.js";
import { storeOf } from "./store.js";
import { board } from "./board.js";
import { filter } from "./filter.js";
import { requests } from "./requests.js";
import { newOrder } from "./new_order.js";
import { faults } from "./faults.js";
import { timeline } from "./timeline.js";
import { troubles } from "./log.js";

const TWO_COLUMNS = 860; // px, as in board.css

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
  const full = h("button", { type: "button", onclick: () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()) }, "Full screen");
  on(document, "fullscreenchange", () => text(full, document.fullscreenElement === root ? "Leave full screen" : "Full screen"));
  const table = board(store, on);
  const tries = timeline(store, on);
  const order = newOrder(store, on, prefix);
  const plan = faults(store, on, prefix);
  const root = h("div", { class: "tr-room", role: "region", "aria-label": "Control room" },
    h("header", { class: "tr-bar" }, h("h2", {}, "Control room"), light, full), banner,
    h("div", { class: "tr-layout" },
      h("div", { class: "tr-side" }, order, plan),
      h("div", { class: "tr-main" }, h("section", { class: "tr-card", "aria-label": "Board" }, filter(store, on), table.node, requests(store, on, prefix, table)), tries.node, troubles(store, on))));
  // In a notebook's command mode "a" would add a cell and "d d" delete one.
  root.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
  // Where there is one column the board comes first to the eye: what stands above it is folded, unless it is needed.
  let wide = null;
  let arranged = null;
  const arrange = () => {
    if (wide === arranged || wide === null || !model.get("page").rows) return;
    arranged = wide;
    order.open = wide || !store.order.length;
    plan.open = wide;
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
  link();
  // For whoever measures: milliseconds from an event's commit to this page, and from a click to its verdict.
  root.delays = () => ({ commit: store.delays, verdict: store.verdictDelays });
  const beat = setInterval(() => {
    store.watch();
    table.beat();
    tries.beat();
  }, 250);
  el.append(root);
  return () => {
    clearInterval(beat);
    measure.disconnect();
    tries.end();
    ends.forEach((end) => end());
  };
}

export default { render };
