// The history: what came before the cursor, and what comes after it. A click jumps.

import { h, text, set } from "./dom.js";

const ROW = 22; // px, as in machine.css
const AROUND = 6; // rows drawn above and below what can be seen

// Only the rows that can be seen are drawn: a history may have ten thousand events.
export function story(jump) {
  const space = h("div", { class: "tr-space" });
  const box = h("div", { class: "tr-story", role: "listbox", tabindex: "0", "aria-label": "History" }, space);
  const rows = [];
  let run = null;
  let step = 0;
  let taken = 0;

  function makeRow() {
    const [stop, number, what, after] = ["tr-stop-mark", "tr-number", "tr-what", "tr-after"].map((name) => h("span", { class: name }));
    const node = h("div", { class: "tr-event", role: "option" }, stop, number, what, after);
    node.addEventListener("click", () => jump(run.events[Number(node.dataset.place)].step));
    space.append(node);
    return { node, stop, number, what, after };
  }

  function draw() {
    if (!run) return;
    const events = run.events;
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - AROUND);
    const many = Math.min(events.length - first, Math.ceil((box.clientHeight || 400) / ROW) + 2 * AROUND);
    while (rows.length < many) rows.push(makeRow());
    let selected = null;
    rows.forEach((row, slot) => {
      const place = first + slot;
      const event = slot < many ? events[place] : null;
      row.node.hidden = !event;
      if (!event) return;
      const here = event.id === taken;
      set(row.node, "data-place", place);
      set(row.node, "id", `${box.id}-${event.id}`);
      set(row.node, "aria-posinset", place + 1);
      set(row.node, "aria-setsize", events.length);
      set(row.node, "aria-selected", String(here));
      set(row.node, "data-comes", event.id > taken);
      row.node.style.top = `${place * ROW}px`;
      text(row.stop, event.stops ? [...new Set(event.stops)].map((stop) => stop + 1).join("–") : "");
      text(row.number, String(event.id));
      text(row.what, event.words);
      text(row.after, `+${((event.at - run.began) / 1000).toFixed(2)}`);
      set(row.node, "title", `event ${event.id}, ${event.type}: ${event.words}`);
      if (here) selected = row.node.id;
    });
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
    show(shown, index) {
      if (shown !== run) {
        run = shown;
        space.style.height = `${(run?.events.length ?? 0) * ROW}px`;
      }
      step = index;
      taken = run?.steps[index]?.event ?? 0;
      // The event of the cursor is kept in view. The page around the list does not move.
      const top = (run?.events.findIndex((event) => event.id === taken) ?? -1) * ROW;
      if (top >= 0 && (top < box.scrollTop + ROW || top > box.scrollTop + box.clientHeight - 3 * ROW)) {
        box.scrollTop = Math.max(0, top - box.clientHeight / 2);
      }
      draw();
    },
  };
}
