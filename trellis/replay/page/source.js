// The source of the workflow: which lines ran in this step and how often, and where its tasks wait.

import { h, text, set, keep } from "./dom.js";
import { coloured } from "./python.js";
import { shortFile } from "./recorded.js";
import { scrolling } from "./scrolling.js";

const LINE = 18; // px, as in machine.css

export function source() {
  const files = h("select", { "aria-label": "File" });
  const note = h("small", { class: "tr-quiet" });
  const box = h("div", { class: "tr-code", tabindex: "0", role: "region", "aria-label": "Code" });
  const kept = new Map();
  const drawn = new Map(); // file and run -> { node, lines }
  const scroll = scrolling(box);
  let lines = [];
  let marked = [];
  let run = null;
  let file = "";
  let chosen = false;

  function draw() {
    const key = `${run?.id} ${run?.run} ${file}`;
    const code = run?.files[file] ?? "";
    if (drawn.get(key)?.code !== code) {
      const all = coloured(code).map((parts, i) => h("div", { class: "tr-code-line" }, h("span", { class: "tr-line-number" }, String(i + 1)), h("code", {}, parts)));
      drawn.set(key, { code, all, node: h("div", { class: "tr-code-file" }, all) });
    }
    const { node, all } = drawn.get(key);
    lines = all;
    if (box.firstChild !== node) box.replaceChildren(node);
  }

  // What concerns the file: [line, times] that ran, and [task, line] of what waits.
  function inFile(step) {
    const ran = (step?.lines ?? []).map(([index, times]) => [run.place(index), times]).filter(([place]) => place[0] === file);
    const waits = (step?.waits ?? []).flatMap(([task, frames]) => frames.map((index) => [task, run.place(index)])).filter(([, place]) => place[0] === file);
    return { ran: ran.map(([place, times]) => [place[1], times]), waits: waits.map(([task, place]) => [task, place[1]]) };
  }
  function aimAt({ ran, waits }, look) {
    // A task that ran in this step and waits again is what the step is about. Its outermost line tells most.
    const moved = waits.find(([, number]) => ran.some(([other]) => other === number));
    const target = look ?? (moved ?? waits[0])?.[1] ?? ran[0]?.[0];
    if (target) scroll.show((target - 1) * LINE, LINE);
  }
  function mark({ ran, waits }, look) {
    for (const node of marked) for (const name of ["data-ran", "data-waits", "data-looked"]) node.removeAttribute(name);
    marked = [];
    const on = (number, name, value) => {
      const node = lines[number - 1];
      if (!node) return;
      set(node, name, value);
      marked.push(node);
    };
    for (const [number, times] of ran) on(number, "data-ran", `×${times}`);
    const tasks = new Map();
    for (const [task, number] of waits) tasks.set(number, [...(tasks.get(number) ?? []), task]);
    for (const [number, names] of tasks) on(number, "data-waits", `waits: ${[...new Set(names)].join(", ")}`);
    if (look) on(look, "data-looked", "");
  }

  let shown = null;
  function choose(name, look) {
    file = name;
    chosen = true;
    files.value = name;
    draw();
    const found = inFile(shown);
    aimAt(found, look);
    mark(found, look);
  }
  files.addEventListener("change", () => choose(files.value));
  return {
    node: h("section", { class: "tr-card tr-source", "aria-label": "Code" }, h("div", { class: "tr-bar" }, h("h3", {}, "Code"), files, note), box),
    reveal: ([name, line]) => run.files[name] !== undefined && choose(name, line),
    resize: scroll.measure,
    // Says which file, and scrolls to what this step is about. Then `mark` marks it.
    aim(next, step) {
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
      draw();
      const found = inFile(step);
      aimAt(found);
      return () => mark(found);
    },
  };
}
