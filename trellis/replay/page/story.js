// The history: what came before the cursor, and what comes after it. A click jumps.

import { h, text, set } from "./dom.js";
import { scrolling } from "./scrolling.js";

const ROW = 22; // px, as in machine.css
const AROUND = 6; // rows drawn above and below what can be seen

// Only the rows that can be seen are drawn: a history may have ten thousand events.
export function story(jump) {
  const space = h("div", { class: "tr-space" });
  const box = h("div", { class: "tr-story", role: "listbox", tabindex: "0", "aria-label": "History" }, space);
  const scroll = scrolling(box);
  const rows = new Map(); // by the place of the event
  let run = null;
  let step = 0;
  let taken = 0;

  function makeRow(place) {
    const event = run.events[place];
    const words = event.words.replaceAll("`", "");
    const [stop, number, what, after] = ["tr-stop-mark", "tr-number", "tr-what", "tr-after"].map((name) => h("span", { class: name }));
    const node = h("div", { class: "tr-event", role: "option", id: `${box.id}-${event.id}`, "aria-posinset": place + 1, onclick: () => jump(run.events[place].step) }, stop, number, what, after);
    node.style.top = `${place * ROW}px`;
    text(number, String(event.id));
    text(what, words);
    text(after, `+${((event.at - run.began) / 1000).toFixed(2)}`);
    set(node, "title", `event ${event.id}, ${event.type}: ${words}`);
    space.append(node);
    return { node, stop };
  }
  function dropRows(besides = () => false) {
    for (const [place, row] of rows) {
      if (besides(place)) continue;
      row.node.remove();
      rows.delete(place);
    }
  }

  function draw() {
    if (!run) return;
    const { events } = run;
    const first = Math.max(0, Math.floor(scroll.at.top / ROW) - AROUND);
    const end = Math.min(events.length, first + Math.ceil((scroll.at.height || 400) / ROW) + 2 * AROUND);
    dropRows((place) => place >= first && place < end);
    let selected = null;
    for (let place = first; place < end; place += 1) {
      const event = events[place];
      const here = event.id === taken;
      if (!rows.has(place)) rows.set(place, makeRow(place));
      const { node, stop } = rows.get(place);
      // A running workflow may stop at an event that was its last one, and its history grows.
      text(stop, event.stops ? [...new Set(event.stops)].map((one) => one + 1).join("–") : "");
      set(node, "aria-setsize", events.length);
      set(node, "aria-selected", String(here));
      set(node, "data-comes", event.id > taken);
      if (here) selected = node.id;
    }
    set(box, "aria-activedescendant", selected);
  }

  box.addEventListener("scroll", draw);
  box.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: -1, ArrowDown: 1 };
    if (!(event.key in moves) || !run) return;
    jump(step + moves[event.key]);
    event.preventDefault();
  });
  return {
    node: box,
    draw,
    resize() {
      scroll.measure();
      draw();
    },
    // First both boxes scroll, then both change: the layout is computed once.
    aim(shown, index) {
      if (shown !== run) {
        // More of the same history keeps its rows, so that a click while it grows meets the row that was aimed at.
        if (shown?.id !== run?.id || shown?.run !== run?.run) dropRows();
        run = shown;
        space.style.height = `${(run?.events.length ?? 0) * ROW}px`;
      }
      step = index;
      taken = run?.steps[index]?.event ?? 0;
      const place = run?.events.findIndex((event) => event.id === taken) ?? -1;
      if (place >= 0) scroll.show(place * ROW, ROW);
    },
  };
}
