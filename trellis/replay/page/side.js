// One recording at the cursor: history, code, variables, commands, tasks, and why a replay stopped.

import { h, text } from "./dom.js";
import { asked } from "./asked.js";
import { shortPlace } from "./recorded.js";
import { say } from "./sentence.js";
import { source } from "./source.js";
import { story } from "./story.js";
import { marksOf, tree } from "./tree.js";

const NOTHING = {};

// Both sides of a history that the code does not fit.
function trouble() {
  const what = h("b");
  const history = h("p");
  const code = h("p");
  const node = h("div", { class: "tr-warning", role: "note", hidden: true }, what, history, code);
  return {
    node,
    show(run, last) {
      node.hidden = !run?.trouble && !run?.broken;
      if (node.hidden) return;
      const broken = run.broken;
      say(what, [last ? "" : "Later: ", run.trouble || "The code does not fit this history."].join(""));
      say(history, broken ? `History${broken.event ? `, event ${broken.event}` : ""}: ${broken.history}` : "");
      say(code, broken ? `Code: ${broken.code}${broken.line == null ? "" : `, ${shortPlace(run.place(broken.line))}`}` : "");
      history.hidden = code.hidden = !broken;
    },
  };
}

export function side(cursor, name, id) {
  const past = story((step) => cursor.go(step));
  past.node.id = `${id}-story`;
  const code = source();
  const values = tree({ "aria-label": "Variables" });
  const none = h("div", { class: "tr-quiet" });
  const changes = h("small", { class: "tr-quiet" });
  const orders = asked(code.reveal);
  const stopped = trouble();
  const said = h("p", { class: "tr-said", hidden: true });
  const node = h("div", { class: "tr-one", role: "group", "aria-label": name }, said, stopped.node,
    h("div", { class: "tr-two" },
      h("section", { class: "tr-card tr-history", "aria-label": "History" }, h("div", { class: "tr-bar" }, h("h3", {}, "History")), past.node),
      code.node,
      h("section", { class: "tr-card tr-variables", "aria-label": "Variables" }, h("div", { class: "tr-bar" }, h("h3", {}, "Variables"), changes), values.node, none),
      h("div", { class: "tr-stack" }, orders.woken, orders.node, orders.waits)));
  return {
    node,
    resize() {
      past.resize();
      code.resize();
    },
    // `alone`: the page itself says the step's sentence, else each side says its own.
    show(run, index, alone) {
      const step = run?.steps[index] ?? null;
      const last = !run || index >= run.steps.length - 1;
      said.hidden = alone;
      say(said, step ? `${name}: ${step.says}` : "");
      stopped.show(run, last);
      past.aim(run, step ? index : 0);
      const mark = code.aim(run, step);
      past.draw();
      mark();
      const now = step ? run.after(index + 1) : NOTHING;
      values.show(now, step && index > 0 ? marksOf(step.changed) : undefined, step && index > 0 ? run.after(index) : undefined);
      const many = Object.keys(now).length;
      text(none, many ? "" : "The workflow has no variables of its own yet.");
      none.hidden = many > 0;
      text(changes, !step || index === 0 ? "" : step.changed.length ? `${step.changed.length} changed in this step` : "none changed in this step");
      orders.show(run, step);
    },
  };
}
