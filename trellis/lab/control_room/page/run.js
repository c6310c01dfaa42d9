// A recorded run in a file of its own: the board, and a slider over its time.

import { h, text, set, button } from "./dom.js";
import { openFile } from "./file.js";
import { plural } from "./words.js";
import { RunModel } from "./run_model.js";
import { storeOf } from "./store.js";
import { board } from "./board.js";
import { experiments } from "./experiments.js";

const SPEEDS = [1, 5, 20];
const TICKS = 100; // ms between two pictures while it plays

const stamp = (ms) => new Date(ms).toLocaleString([], { hour12: false });

function recordedRun(data) {
  const model = new RunModel(data, data.setup);
  const store = storeOf(model);
  store.now = () => model.moment;
  const on = (target, name, work) => (target === model ? model.on(name, work) : target.addEventListener(name, work));
  const length = Math.max(1, data.ended - data.began);
  const panels = [board, experiments].map((panel, i) => panel({ store, on, prefix: `tr-run-${i}`, options: data.setup.options.board }));
  const slider = h("input", { type: "range", min: 0, max: length, step: "any", value: 0, "aria-label": "Moment of the run" });
  const where = h("output", { class: "tr-where" });
  const play = button("Play", {}, () => (playing ? pause() : start()));
  const speed = h("select", { "aria-label": "Speed" }, SPEEDS.map((n) => h("option", { value: n }, `${n} ×`)));
  let playing = 0;

  function go(moment) {
    model.go(Math.min(Math.max(moment, data.began), data.ended));
    const after = model.moment - data.began;
    slider.value = after;
    text(where, `+${(after / 1000).toFixed(1)} s of ${(length / 1000).toFixed(1)} s · ${stamp(model.moment)}`);
    set(slider, "aria-valuetext", `${(after / 1000).toFixed(1)} seconds after the beginning`);
    for (const panel of panels) panel.beat?.();
  }
  function pause() {
    clearInterval(playing);
    playing = 0;
    text(play, "Play");
  }
  function start() {
    if (model.moment >= data.ended) go(data.began);
    text(play, "Pause");
    let before = performance.now();
    playing = setInterval(() => {
      const now = performance.now();
      const next = model.moment + (now - before) * Number(speed.value);
      before = now;
      go(next);
      if (next >= data.ended) pause();
    }, TICKS);
  }
  const frame = (by) => {
    const { frames, moment } = model;
    const place = frames.until(moment) - 1 + by;
    return place < 0 ? data.began : frames.times[Math.min(place, frames.times.length - 1)] ?? data.ended;
  };
  slider.addEventListener("input", () => go(data.began + Number(slider.value)));
  const node = h("div", { class: "tr-room tr-run", role: "region", "aria-label": "Recorded run" },
    h("div", { class: "tr-bar tr-cursor" }, play, speed, slider, where), panels.map((panel) => panel.node),
    h("small", { class: "tr-quiet" }, `${plural(data.ids.length, "order")}, from ${stamp(data.began)} to ${stamp(data.ended)}, as the ledger showed them. Keys: ← → one change, Home and End, space plays.${data.trouble ? ` ${data.trouble}` : ""}`));
  node.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: () => frame(-1), ArrowRight: () => frame(1), Home: () => data.began, End: () => data.ended };
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input:not([type=range])")) return;
    if (event.key in moves && !event.target.closest("[role=grid]")) go(moves[event.key]());
    else if (event.key === " " && event.target === slider) play.click();
    else return;
    event.preventDefault();
  });
  go(data.began);
  return { node, focus: () => slider.focus() };
}

openFile(recordedRun);
