// The source of the workflow: which lines ran in this step and how often, and where its tasks wait.

import { h, text, set, keep } from "./dom.js";
import { coloured } from "./python.js";
import { shortFile } from "./recorded.js";

const LINE = 18; // px, as in machine.css

export function source() {
  const files = h("select", { "aria-label": "File" });
  const note = h("small", { class: "tr-quiet" });
  const box = h("div", { class: "tr-code", tabindex: "0", role: "region", "aria-label": "Code" });
  const kept = new Map();
  const drawn = new Map(); // file and run -> { node, lines }
  let marked = [];
  let run = null;
  let file = "";
  let chosen = false;

  function draw(name) {
    const key = `${run.id} ${run.run} ${name}`;
    const code = run.files[name] ?? "";
    if (drawn.get(key)?.code !== code) {
      const lines = coloured(code).map((parts, i) => h("div", { class: "tr-code-line" }, h("span", { class: "tr-line-number" }, String(i + 1)), h("code", {}, parts)));
      drawn.set(key, { code, lines, node: h("div", { class: "tr-code-file" }, lines) });
    }
    const { node } = drawn.get(key);
    if (box.firstChild !== node) box.replaceChildren(node);
    return drawn.get(key).lines;
  }

  // Only this box scrolls, and not the page around it.
  function bringIntoView(line) {
    const top = (line - 1) * LINE;
    if (top < box.scrollTop + LINE || top > box.scrollTop + box.clientHeight - 3 * LINE) box.scrollTop = Math.max(0, top - box.clientHeight / 2);
  }

  function mark(step, look) {
    for (const node of marked) for (const name of ["data-ran", "data-waits", "data-looked"]) node.removeAttribute(name);
    marked = [];
    if (!run) return;
    const lines = draw(file);
    const on = (number, name, value) => {
      const node = lines[number - 1];
      if (!node) return;
      set(node, name, value);
      marked.push(node);
    };
    const ran = (step?.lines ?? []).map(([index, times]) => [run.place(index), times]).filter(([place]) => place[0] === file);
    for (const [place, times] of ran) on(place[1], "data-ran", `×${times}`);
    const waits = (step?.waits ?? []).flatMap(([task, frames]) => frames.map((index) => [task, run.place(index)])).filter(([, place]) => place[0] === file);
    const tasks = new Map();
    for (const [task, place] of waits) tasks.set(place[1], [...(tasks.get(place[1]) ?? []), task]);
    for (const [number, names] of tasks) on(number, "data-waits", `waits: ${[...new Set(names)].join(", ")}`);
    if (look) on(look, "data-looked", "");
    // A task that ran in this step and waits again is what the step is about. Its outermost line tells most.
    const moved = waits.find(([, place]) => ran.some(([other]) => other[1] === place[1]));
    const target = look ?? (moved ?? waits[0])?.[1][1] ?? ran[0]?.[0][1];
    if (target) bringIntoView(target);
  }

  let shown = null;
  function choose(name, look) {
    file = name;
    chosen = true;
    files.value = name;
    mark(shown, look);
  }
  files.addEventListener("change", () => choose(files.value));
  return {
    node: h("section", { class: "tr-card tr-source", "aria-label": "Code" }, h("div", { class: "tr-bar" }, h("h3", {}, "Code"), files, note), box),
    reveal: ([name, line]) => run.files[name] !== undefined && choose(name, line),
    show(next, step) {
      run = next;
      shown = step;
      const names = Object.keys(run?.files ?? {});
      keep(files, kept, names.map((name) => [name, name]), () => h("option"), (node, name) => {
        set(node, "value", name);
        text(node, shortFile(name));
        set(node, "title", name);
      });
      files.hidden = names.length < 2;
      const ran = (step?.lines ?? []).map(([index]) => run.place(index)[0]);
      const waits = (step?.waits ?? []).flatMap(([, frames]) => frames).map((index) => run.place(index)[0]);
      // The file that a person chose stays as long as steps touch it. Otherwise the workflow's own file comes first.
      if (chosen && ![...ran, ...waits].includes(file)) chosen = false;
      if (!chosen || !names.includes(file)) {
        const own = run?.ownFile;
        const many = (name) => ran.filter((other) => other === name).length;
        const most = [...names].sort((a, b) => many(b) - many(a))[0];
        if (ran.length || !names.includes(file)) file = (ran.length && !ran.includes(own) ? most : own) ?? names[0] ?? "";
      }
      files.value = file;
      text(note, !names.length ? "The source is not part of this recording."
        : step?.lines === null ? "Which lines ran was not traced."
        : step?.cut ? `${step.cut} further executions of lines are not kept.`
        : step && !step.lines.length ? "No line of this code ran." : names.length < 2 ? shortFile(file) : "");
      mark(step);
    },
  };
}
