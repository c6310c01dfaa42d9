// Books kept outside the workflow, as they stood at the moment of the cursor: entries that came later are left out.

import { h, text } from "./dom.js";
import { clock, plural } from "./words.js";

const exact = (ms) => `${clock(ms)}.${String(Math.floor(ms) % 1000).padStart(3, "0")}`;

export function books() {
  const node = h("section", { class: "tr-card tr-books", "aria-label": "Books" });
  let drawn = [];
  let given = null;

  function draw(tables) {
    given = tables;
    drawn = tables.map(({ name, columns, rows }) => {
      const title = h("h3");
      const lines = rows.map(([at, ...cells]) => h("tr", { hidden: true }, h("td", {}, exact(at)), cells.map((cell) => h("td", {}, cell == null ? "" : String(cell)))));
      const scroll = h("div", { class: "tr-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["at", ...columns].map((column) => h("th", { scope: "col" }, column)))), h("tbody", {}, lines)));
      return { name, title, lines, scroll, times: rows.map(([at]) => at), shown: 0, node: h("div", { class: "tr-book" }, title, scroll) };
    });
    node.replaceChildren(...drawn.map((book) => book.node));
    node.hidden = !drawn.length;
  }
  draw([]);
  return {
    node,
    show(tables, moment) {
      if (tables !== given) draw(tables);
      for (const book of drawn) {
        let many = 0;
        while (many < book.times.length && book.times[many] <= moment) many += 1;
        // Only the rows between the last moment and this one change.
        for (let i = Math.min(many, book.shown); i < Math.max(many, book.shown); i += 1) book.lines[i].hidden = i >= many;
        if (many !== book.shown && many) book.scroll.scrollTop = book.scroll.scrollHeight;
        book.shown = many;
        const later = book.times.length - many;
        text(book.title, `${book.name}: ${many ? plural(many, "line") : "nothing yet"}${later ? `, ${later} later` : ""}`);
      }
    },
  };
}
