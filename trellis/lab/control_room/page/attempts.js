// The attempts of the line in focus on a time axis.

import { h, text, set, keep } from "./dom.js";
import { words, plural, capital } from "./words.js";

function niceStep(span, most) {
  const raw = span / most;
  const scale = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((n) => n * scale).find((n) => n >= raw);
}

const MARKS = ["ORDER_APPROVED", "ORDER_CANCELLED", "ORDER_FAILED", "APPROVAL_TIMEOUT", "ADDRESS_UPDATED", "REQUEST_REFUSED", "ORDER_COMPLETED"];

// The legend names these only where one of them is drawn.
const OUTCOMES_SELDOM = ["lost", "open", "unknown"];

// Each mark has a title. The title is changed in place, so that a tooltip stays open while an order runs.
function drawn(kind) {
  const node = h("g");
  const kept = new Map();
  const make = () => h(kind, {}, kind === "text" ? null : h("title"));
  const show = (one, [attributes, words]) => {
    for (const [name, value] of Object.entries(attributes)) set(one, name, value);
    text(kind === "text" ? one : one.firstChild, words);
  };
  return { node, show: (entries) => keep(node, kept, entries, make, show) };
}

export function attempts({ store, on, options }) {
  const { setup, model } = store;
  const title = h("h3", {}, "Attempts");
  const dot = (name) => h("i", { class: "tr-dot", style: `background:${setup.colours[name][0]}` });
  const link = h("a", { target: "_blank", rel: "noopener", class: "tr-ui" }, "Open in Temporal’s Web UI ↗");
  const legend = h("div", { class: "tr-legend" }, options.outcomes.map((name) =>
    h("span", {}, dot(name), name)));
  const rare = OUTCOMES_SELDOM.filter((name) => setup.colours[name]).map((name) => [name, h("span", { hidden: true }, dot(name), name)]);
  const key = h("span", { hidden: true }, h("i", { class: "tr-band-key" }), "broken on purpose");
  legend.append(...rare.map(([, node]) => node), key);
  const [ticks, bands, bandNames, axis, lanes, bars, running, marks] = ["line", "rect", "text", "text", "text", "rect", "rect", "line"].map(drawn);
  const svg = h("svg", { class: "tr-gantt", role: "img" }, [bands, ticks, bandNames, axis, lanes, marks, bars, running].map((part) => part.node));
  const picture = h("div", { class: "tr-picture" }, svg);
  const empty = h("div", { class: "tr-empty" });
  const said = h("small", { class: "tr-quiet" });
  const cells = [capital(options.step ?? "step"), "Attempt", "Outcome", "After", "Took", "Error"];
  const body = h("tbody");
  const kept = new Map();
  const table = h("details", { class: "tr-fold" }, h("summary", {}, "As a table"),
    h("div", { class: "tr-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, cells.map((name) => h("th", { scope: "col" }, name)))), body)));
  const seconds = (ms) => `${(ms / 1000).toFixed(3)} s`;
  const keyOf = (bar) => bar.key ?? [bar.step, bar.round, bar.lane, bar.attempt].join(" ");
  // An attempt that has not ended goes on until now, or ended with its workflow.
  const ends = (bar) => bar.to ?? Math.max(bar.from, row?.ended ?? store.now());
  const told = (bar) => `attempt ${bar.attempt}${bar.try ? `, try ${bar.try}` : ""}`;
  const inFocus = () => store.rows.get(model.get("timeline").id);
  let row;

  function draw() {
    const { id, bars: tries = [], marks: events = [], round = 1, link: href, cut, note } = model.get("timeline");
    row = inFocus();
    link.hidden = !href;
    if (href) set(link, "href", href);
    legend.hidden = picture.hidden = table.hidden = !tries.length;
    empty.hidden = !picture.hidden;
    text(empty, id ? options.none : options.hint);
    text(said, note ?? "");
    const whose = id && store.name(id);
    text(title, !id ? "Attempts" : tries.length ? `${plural(tries.length, "attempt")} of ${whose}${cut ? " (the newest)" : ""}` : `Attempts of ${whose}`);
    if (!tries.length) return;
    const lane = (bar) => bar.step + (bar.round > 1 ? ` ${bar.round}` : "");
    const names = [...new Set(tries.map(lane))];
    // The ledger's tries are noted when they end. An open attempt of a flight is a bar itself.
    const open = tries.some((bar) => bar.to === null);
    const under = options.per_round && row?.step && row.attempt && !row.ended;
    const now = under && lane({ step: row.step, round: options.per_round.includes(row.step) ? round : 0 });
    if (under && !names.includes(now)) names.push(now);
    const noted = events.filter((mark) => MARKS.includes(mark.type));
    // A refusal may come hours later. If the axis included it, all attempts would be too narrow to see.
    const happened = noted.filter((mark) => mark.type !== "REQUEST_REFUSED");
    const from = Math.min(...tries.map((bar) => bar.from));
    const last = Math.max(...tries.map(ends), ...happened.map((mark) => mark.at));
    const end = under || (open && !row?.ended) ? Math.max(last, store.now()) : last;
    const span = Math.max(end - from, 50);
    const width = Math.max(picture.clientWidth, 320);
    const left = Math.min(Math.max(84, 12 + 6.6 * Math.max(...names.map((name) => name.length))), options.per_round ? 84 : width * 0.3);
    const right = 14;
    const tall = 22;
    const broken = (model.get("breaking").experiments ?? []).map((one) => ({ ...one, to: one.healed ?? store.now() }))
      .filter((one) => one.began <= end && one.to >= from);
    key.hidden = !broken.length;
    const top = broken.length ? 14 : 0;
    const x = (ms) => left + ((Math.min(Math.max(ms, from), end) - from) / span) * (width - left - right);
    const height = names.length * tall + 34 + top;
    const counts = {};
    for (const bar of tries) counts[bar.outcome] = (counts[bar.outcome] ?? 0) + 1;
    for (const [name, node] of rare) node.hidden = !counts[name];
    set(svg, "width", width);
    set(svg, "height", height);
    set(svg, "viewBox", `0 0 ${width} ${height}`);
    set(svg, "aria-label", `${plural(tries.length, "attempt")} in ${(span / 1000).toFixed(2)} seconds: ${Object.entries(counts).map(([k, n]) => `${n} ${k}`).join(", ")}${broken.map((one) => `; broken meanwhile: ${one.title}`).join("")}`);
    const stride = niceStep(span / 1000, Math.max(3, Math.floor(width / 110)));
    const at = [];
    for (let s = 0; s <= span / 1000 + 1e-9; s += stride) at.push(Number(s.toFixed(6)));
    const place = (s) => left + ((s * 1000) / span) * (width - left - right);
    bands.show(broken.map((one) => [one.id, [
      { class: "tr-band", x: x(one.began), y: top, width: Math.max(2, x(one.to) - x(one.began)), height: height - 28 - top },
      `${one.title}: broken on purpose for ${seconds(one.to - one.began)}`,
    ]]));
    // A name that begins near the right end is written to the left of it, or it would be cut off.
    bandNames.show(broken.map((one) => {
      const late = x(one.began) > width * 0.7;
      return [one.id, [{ class: "tr-band-name", x: late ? Math.min(x(one.to), width - right) : x(one.began), y: 10, "text-anchor": late ? "end" : "start" }, one.title]];
    }));
    ticks.show(at.map((s, i) => [i, [{ class: "tr-tick", x1: place(s), x2: place(s), y1: top + 4, y2: height - 28 }, ""]]));
    axis.show([...at.map((s, i) => [i, [{ class: "tr-axis", x: place(s), y: height - 16, "text-anchor": "middle" }, String(s)]]),
      ["what", [{ class: "tr-axis", x: width - right, y: height - 3, "text-anchor": "end" }, "seconds since the first attempt"]]]);
    const most = Math.max(12, Math.floor((left - 12) / 6.4));
    const short = (name) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
    lanes.show(names.map((name, i) => [name, [{ class: "tr-lane", x: left - 10, y: top + i * tall + 19, "text-anchor": "end" }, short(name)]]));
    marks.show(noted.map((mark) => [`${mark.type} ${mark.at}`, [
      { class: "tr-mark", x1: x(mark.at), x2: x(mark.at), y1: top + 4, y2: height - 28 },
      `${words(mark.type)} after ${seconds(mark.at - from)}${mark.reason ? `: ${mark.reason}` : ""}`,
    ]]));
    // Hedged lanes run side by side: each gets its share of the line.
    const shares = Math.max(1, ...tries.map((bar) => Number(bar.lane ?? 0) + 1));
    // An attempt that failed at once is narrow. It is drawn last, so that no wider one covers it.
    bars.show([...tries].sort((a, b) => ends(b) - b.from - (ends(a) - a.from)).map((bar) => [keyOf(bar), [
      {
        class: `tr-try tr-${bar.outcome.replace(" ", "-")}`, fill: setup.colours[bar.outcome][0], rx: 1.5,
        x: x(bar.from), y: top + names.indexOf(lane(bar)) * tall + 6 + (Number(bar.lane ?? 0) * 17) / shares,
        width: Math.max(3, x(ends(bar)) - x(bar.from)), height: 17 / shares - (shares > 1 ? 1 : 0),
      },
      `${bar.step}, ${told(bar)}: ${bar.outcome}, ${seconds(ends(bar) - bar.from)}${bar.error ? `, ${bar.error}` : ""}`,
    ]]));
    const since = Math.max(row?.event_at ?? from, ...tries.filter((bar) => bar.step === row?.step).map(ends));
    running.show(!under ? [] : [["now", [
      { class: "tr-running", x: x(since), y: top + names.indexOf(now) * tall + 6.5, width: Math.max(2, x(end) - x(since)), height: 16, rx: 1.5 },
      `${row.step}, attempt ${row.attempt}: under way`,
    ]]]);
    if (table.open) list();
  }

  function list() {
    const { bars: tries = [] } = model.get("timeline");
    const from = Math.min(...tries.map((bar) => bar.from));
    keep(body, kept, tries.map((bar) => [keyOf(bar), bar]), () => h("tr", {}, cells.map(() => h("td"))), (node, bar) => {
      const step = bar.step + (bar.round > 1 ? `, round ${bar.round}` : "") + (bar.lane > 0 ? `, lane ${bar.lane}` : "");
      const number = bar.try ? `${bar.attempt}, try ${bar.try}` : String(bar.attempt);
      const values = [step, number, bar.outcome, seconds(bar.from - from), seconds(ends(bar) - bar.from), bar.error ?? ""];
      values.forEach((value, i) => text(node.children[i], value));
    });
  }

  table.addEventListener("toggle", draw);
  on(model, "change:timeline", draw);
  on(model, "change:breaking", draw);
  on(store, "focus", draw);
  // A line and its attempts come apart, one before the other.
  on(store, "rows", () => inFocus() !== row && draw());
  const watch = new ResizeObserver(() => draw());
  watch.observe(picture);
  draw();
  return {
    node: h("section", { class: "tr-card tr-time", "aria-label": `Attempts of the ${setup.words.one} in focus` }, h("div", { class: "tr-bar" }, title, legend, link), picture, empty, said, table),
    beat: () => {
      const { bars = [] } = model.get("timeline");
      if (row && !row.ended && (row.attempt || bars.some((bar) => bar.to === null))) draw();
    },
    end: () => watch.disconnect(),
  };
}
