// Sliders for the plan of faults in force.

import { h, text, set, keep } from "./dom.js";

const UNITS = {
  share: (value) => `${Math.round(value * 100)} %`,
  s: (value) => `${value.toFixed(2)} s`,
};

export function faults({ store, on, prefix, options }) {
  const { model } = store;
  const step = h("select", { "aria-label": `Which ${options.noun}'s calls fail` });
  const app = h("select", { "aria-label": "Whose calls fail" });
  const whose = h("div", { class: "tr-field", hidden: true }, h("label", {}, h("span", {}, "Workers on "), app));
  const wrong = h("span", { class: "tr-wrong", role: "status", hidden: true });
  const [keptSteps, keptApps] = [new Map(), new Map()];
  const note = h("small", { class: "tr-quiet" });
  const sliders = options.sliders.map(({ name, label, says, unit, least, most, stride, steps }) => {
    const inWords = UNITS[unit];
    const out = h("output", { for: `${prefix}-${name}` });
    const range = h("input", { type: "range", id: `${prefix}-${name}`, title: says, min: least, max: most, step: stride, value: least });
    let held = false;
    let waiting = 0;
    // A slider that is dragged away and back sends no "change" event, so the end of the drag releases it. "change" comes
    // after "pointerup" and must find the slider where the person left it. The timeout lets "change" come first.
    const release = () => setTimeout(() => {
      if (waiting || !held) return;
      held = false;
      show();
    }, 0);
    for (const end of ["keyup", "blur"]) range.addEventListener(end, release);
    for (const end of ["pointerup", "pointercancel"]) on(document, end, release);
    range.addEventListener("input", () => {
      held = true;
      text(out, inWords(Number(range.value)));
      set(range, "aria-valuetext", out.textContent);
    });
    range.addEventListener("change", async () => {
      waiting += 1;
      await store.request("fault", { app: app.value || null, step: step.value || null, name, value: Number(range.value) });
      waiting -= 1;
      release();
    });
    return { name, steps, range, out, inWords, held: () => held, node: h("div", { class: "tr-slider" }, h("label", { for: range.id }, label), out, range) };
  });
  // What is on the page at once: the plan of the orders, or one plan for each app that a board shows.
  function current() {
    const faults = model.get("faults");
    if (!faults.apps) return { ...faults, names: options.steps };
    keep(app, keptApps, faults.apps.map((one) => [one.queue, one.queue]), (queue) => h("option", { value: queue }, queue), () => {});
    whose.hidden = faults.apps.length < 2;
    text(wrong, faults.why ?? "");
    wrong.hidden = !faults.why;
    return faults.apps.find((one) => one.queue === app.value) ?? {};
  }
  function show() {
    const plan = current();
    keep(step, keptSteps, ["", ...(plan.names ?? [])].map((name) => [name, name]),
      (name) => h("option", { value: name }, name || `all ${options.noun}s`), () => {});
    for (const node of [step, ...sliders.map((slider) => slider.range), ...presets]) node.disabled = !plan.mix;
    if (!plan.mix) return;
    const mix = (step.value && plan.steps[step.value]) || plan.mix;
    for (const slider of sliders) {
      // A slider stays where it is while a person holds it.
      if (!slider.held()) {
        slider.range.value = mix[slider.name];
        text(slider.out, slider.inWords(mix[slider.name]));
        set(slider.range, "aria-valuetext", slider.out.textContent);
      }
      slider.range.disabled = options.steps && slider.steps !== null && step.value !== "" && !slider.steps.includes(step.value);
    }
    const own = Object.keys(plan.steps);
    text(note, plan.script ? `A script is in force: ${plan.script}. Moving a slider ends it.`
      : own.length ? `With a mix of their own: ${own.join(", ")}.` : `Plan ${plan.version}. ${options.follow} within a second.`);
  }
  const presets = Object.entries(options.presets).map(([name, label]) =>
    h("button", { type: "button", onclick: () => store.request("preset faults", { app: app.value || null, name }) }, label));
  step.addEventListener("change", show);
  app.addEventListener("change", show);
  on(model, "change:faults", show);
  show();
  const node = h("details", { class: "tr-card tr-fold" }, h("summary", {}, "Faults"), h("section", { "aria-label": "Faults" },
    whose, wrong, h("div", { class: "tr-bar" }, presets),
    h("div", { class: "tr-field" }, h("label", {}, h("span", {}, "Calls of "), step)), sliders.map((slider) => slider.node), note));
  return { node, folds: () => true };
}
