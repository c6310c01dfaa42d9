// The time machine: one cursor over a recording's history, code, variables, commands and books.

import { h, text, set, keep, button, enable } from "./dom.js";
import { clock } from "./words.js";
import { books } from "./books.js";
import { Cursor } from "./cursor.js";
import { recorded } from "./recorded.js";
import { say } from "./sentence.js";
import { side } from "./side.js";

const STOPS = "A stop is a workflow task, or the marker of a local activity. Between two stops the workflow’s code does not run.";
const KEYS = "Keys: ← → one step, Home and End, space plays.";

let machines = 0;

const moment = (ms) => `${clock(ms)}.${String(Math.floor(ms) % 1000).padStart(3, "0")}`;

// These elements have keys of their own.
const takes = (target, key) => target.matches("select, input:not([type=range]), textarea") || (key === " " && target.matches("button, summary, [role=tab]"));

export function timeMachine() {
  machines += 1;
  const id = `tr-machine-${machines}`;
  const cursor = new Cursor();
  const title = h("h3");
  const link = h("span", { class: "tr-quiet", role: "status" });
  const tabs = h("div", { class: "tr-chips", role: "tablist", "aria-label": "Workflows" });
  const keptTabs = new Map();
  const step = (label, name, by) => button(label, { class: "tr-icon", "aria-label": name }, () => cursor.go(by()));
  const first = step("|‹", "First step", () => 0);
  const back = step("‹", "Step back", () => cursor.step - 1);
  const forth = step("›", "Step forward", () => cursor.step + 1);
  const last = step("›|", "Last step", () => cursor.count - 1);
  const play = button("Play", {}, () => cursor.play());
  const slider = h("input", { type: "range", min: 1, max: 1, value: 1, "aria-label": "Step", "aria-describedby": `${id}-stops` });
  const where = h("output", { class: "tr-where" });
  const bar = h("div", { class: "tr-bar tr-cursor" }, first, back, play, forth, last, slider, where);
  const says = h("p", { class: "tr-says", role: "status", "aria-live": "polite" });
  const parted = h("p", { class: "tr-warning", hidden: true });
  const empty = h("div", { class: "tr-empty" });
  const space = h("div", { class: "tr-sides" });
  const outside = books();
  let sides = [];
  let page = recorded({});

  const node = h("div", { class: "tr-machine", id, role: "region", "aria-label": "Time machine", tabindex: "-1" },
    h("div", { class: "tr-bar" }, title, tabs, link),
    bar, says, parted, empty, space, outside.node,
    h("small", { class: "tr-quiet tr-stops", id: `${id}-stops` }, `${STOPS} ${KEYS}`));

  function drawRuns() {
    const runs = page.sides[0] ?? [];
    text(title, page.sides.length > 1 ? "Side by side" : runs[0]?.id ?? "Time machine");
    set(node, "aria-label", `Time machine: ${page.sides.map((one) => one[0]?.id).join(" and ")}`);
    tabs.hidden = runs.length < 2 || page.sides.length > 1;
    keep(tabs, keptTabs, (tabs.hidden ? [] : runs).map((run) => [`${run.id} ${run.run}`, run]),
      () => h("button", { type: "button", class: "tr-chip", role: "tab" }),
      (tab, run) => {
        text(tab, run.title);
        set(tab, "title", `${run.type}, ${run.id}`);
        set(tab, "aria-selected", String(run === cursor.run));
        tab.onclick = () => cursor.choose(run);
      });
    if (sides.length !== page.sides.length) {
      sides = page.sides.map((one, i) => side(cursor, one[0]?.id ?? "", `${id}-${i}`));
      space.replaceChildren(...sides.map((one) => one.node));
      set(space, "data-many", sides.length > 1);
      // New boxes have no size before they are laid out.
      if (width) requestAnimationFrame(fit);
    }
    text(parted, page.parted?.words ?? "");
  }

  function drawStep() {
    const alone = page.sides.length < 2;
    const shown = alone ? [cursor.run] : page.sides.map((one) => one[0]);
    const at = (run) => Math.min(cursor.step, (run?.steps.length ?? 0) - 1);
    shown.forEach((run, i) => sides[i]?.show(run, at(run), alone));
    const run = shown.find((one) => one && one.steps.length > cursor.step) ?? shown[0];
    const now = run?.steps[at(run)] ?? null;
    empty.hidden = Boolean(now);
    text(empty, run?.events.length ? "Only the history is there: no step of it was replayed." : run?.trouble || "No step has been replayed yet.");
    for (const part of [says, bar]) part.hidden = !now;
    space.hidden = !run?.events.length;
    if (!now) {
      outside.show([], 0);
      return;
    }
    set(slider, "max", cursor.count);
    slider.value = cursor.step + 1;
    set(slider, "aria-valuetext", `Step ${cursor.step + 1} of ${cursor.count}: ${now.says}`);
    text(where, `step ${cursor.step + 1} of ${cursor.count} · event ${now.event} · ${moment(now.at)}`);
    say(says, alone ? now.says : "");
    says.hidden = !alone;
    parted.hidden = !page.parted || (page.parted.step != null && cursor.step + 1 < page.parted.step);
    enable(first, cursor.step > 0, "This is the first step");
    enable(back, cursor.step > 0, "This is the first step");
    enable(forth, cursor.step < cursor.count - 1, "This is the last step");
    enable(last, cursor.step < cursor.count - 1, "This is the last step");
    outside.show(page.books, now.at);
  }

  const focus = () => (bar.hidden ? node : slider).focus();
  cursor.addEventListener("runs", drawRuns);
  cursor.addEventListener("step", drawStep);
  cursor.addEventListener("play", () => {
    text(play, cursor.playing ? "Pause" : "Play");
    // A screen reader cannot read as fast as it plays.
    set(says, "aria-live", cursor.playing ? "off" : "polite");
  });
  slider.addEventListener("input", () => cursor.go(Number(slider.value) - 1));
  node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // The notebook must not get these keys: in its command mode "a" adds a cell and "d d" deletes one.
    event.stopPropagation();
    if (takes(event.target, event.key)) return;
    const moves = { ArrowLeft: cursor.step - 1, ArrowRight: cursor.step + 1, Home: 0, End: cursor.count - 1 };
    if (event.key in moves) cursor.go(moves[event.key]);
    else if (event.key === " ") cursor.play();
    else return;
    event.preventDefault();
  });
  // Boxes show what the step is about, so they must know their size. Steps change the height, which is no reason.
  let width = 0;
  const sized = new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === width) return;
    width = contentRect.width;
    fit();
  });
  const fit = () => {
    for (const one of sides) one.resize();
    drawStep();
  };
  sized.observe(node);
  drawRuns();
  drawStep();
  return {
    node,
    take(json) {
      const held = node.getRootNode().activeElement === node;
      page = recorded(json);
      cursor.take(page.sides);
      if (held) focus();
    },
    tell: (words) => text(link, words),
    focus,
    end() {
      cursor.pause();
      sized.disconnect();
    },
  };
}
