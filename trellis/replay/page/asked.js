// What woke the workflow in this step, what it asked for, and where its tasks wait.

import { h, text } from "./dom.js";
import { plural } from "./words.js";
import { shortPlace } from "./recorded.js";
import { preview, tree } from "./tree.js";

const MOST = 200; // a step that asks for a thousand activities would be slow to draw

export function asked(reveal) {
  const title = h("h3");
  const list = h("div", { class: "tr-asked" });
  const link = (place) => h("button", { type: "button", class: "tr-link tr-place", title: `${place[0]}:${place[1]}, in ${place[2]}`, onclick: () => reveal(place) }, shortPlace(place));
  const opened = new Set(); // the names of the commands whose input a person opened

  function inside(name, value) {
    const values = tree();
    const node = h("details", { class: "tr-branch" }, h("summary", {}, h("span", { class: "tr-kind" }, name), h("span", { class: "tr-value" }, preview(value))), values.node);
    const grow = () => {
      if (node.open) opened.add(name);
      else opened.delete(name);
      if (node.open) values.show(value !== null && typeof value === "object" ? value : { value });
    };
    node.open = opened.has(name);
    if (node.open) values.show(value !== null && typeof value === "object" ? value : { value });
    node.addEventListener("toggle", grow);
    return node;
  }
  function drawn(run, command) {
    return h("div", { class: "tr-command" },
      h("div", { class: "tr-bar" }, h("b", {}, command.kind), command.name ? h("span", {}, command.name) : null, command.line == null ? null : link(run.place(command.line))),
      command.input === undefined || command.input === null ? null : inside("input", command.input),
      command.options ? inside("options", command.options) : null);
  }

  const woken = h("div", { class: "tr-asked" });
  const waiting = h("div", { class: "tr-waits" });
  return {
    node: h("section", { class: "tr-card", "aria-label": "Commands" }, title, list),
    woken: h("section", { class: "tr-card", "aria-label": "Woken by" }, h("h3", {}, "Woken by"), woken),
    waits: h("section", { class: "tr-card", "aria-label": "Tasks" }, h("h3", {}, "Where its tasks wait"), waiting),
    show(run, step) {
      const commands = step?.commands ?? [];
      text(title, commands.length ? `Asked for ${plural(commands.length, "command")}` : "Asked for nothing");
      list.replaceChildren(...commands.slice(0, MOST).map((command) => drawn(run, command)));
      if (commands.length > MOST) list.append(h("div", { class: "tr-quiet" }, `and ${commands.length - MOST} more`));
      woken.replaceChildren(...(step?.woken ?? []).slice(0, MOST).map((one) => h("div", { class: "tr-command" },
        h("div", { class: "tr-bar" }, h("b", {}, one.words.replaceAll("`", "")), one.event == null ? null : h("span", { class: "tr-quiet" }, `event ${one.event}`)),
        one.details === undefined ? null : inside("details", one.details))));
      const waits = step?.waits ?? [];
      waiting.replaceChildren(...waits.slice(0, MOST).map(([task, frames]) => h("div", { class: "tr-wait" }, h("b", {}, task),
        h("span", {}, frames.flatMap((index, i) => [i ? " › " : null, `${run.place(index)[2]} `, link(run.place(index))])))));
      if (waits.length > MOST) waiting.append(h("div", { class: "tr-quiet" }, `and ${waits.length - MOST} more`));
      if (!waits.length) waiting.append(h("div", { class: "tr-quiet" }, step ? "No task waits: this run of the workflow has ended." : ""));
    },
  };
}
