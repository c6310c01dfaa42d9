// Sliders for the plan of faults in force.

import { h, text, set } from "./dom.js";

const UNITS = {
  share: (value) => `${Math.round(value * 100)} %`,
  s: (value) => `${value.toFixed(2)} s`,
};

export function faults({ store, on, prefix, options }) {
  const { model } = store;
  const step = h("select", { "aria-label": "Which step's calls fail" },
    h("option", { value: "" }, "all steps"), options.steps.map((name) => h("option", { value: name }, name)));
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
      await store.request("fault", { step: step.value || null, name, value: Number(range.value) });
      waiting -= 1;
      release();
    });
    return { name, steps, range, out, inWords, held: () => held, node: h("div", { class: "tr-slider" }, h("label", { for: range.id }, label), out, range) };
  });
  function show() {
    const plan = model.get("faults");
    if (!plan.mix) return;
    const mix = (step.value && plan.steps[step.value]) || plan.mix;
    for (const slider of sliders) {
      // A slider stays where it is while a person holds it.
      if (!slider.held()) {
        slider.range.value = mix[slider.name];
        text(slider.out, slider.inWords(mix[slider.name]));
        set(slider.range, "aria-valuetext", slider.out.textContent);
      }
      slider.range.disabled = slider.steps !== null && step.value !== "" && !slider.steps.includes(step.value);
    }
    const own = Object.keys(plan.steps);
    text(note, plan.script ? `A script is in force: ${plan.script}. Moving a slider ends it.`
      : own.length ? `With a mix of their own: ${own.join(", ")}.` : `Plan ${plan.version}. Running orders follow within a second.`);
  }
  step.addEventListener("change", show);
  on(model, "change:faults", show);
  show();
  const presets = Object.entries(options.presets).map(([name, label]) =>
    h("button", { type: "button", onclick: () => store.request("preset faults", { name }) }, label));
  const node = h("details", { class: "tr-card tr-fold" }, h("summary", {}, "Faults"), h("section", { "aria-label": "Faults" },
    h("div", { class: "tr-bar" }, presets),
    h("div", { class: "tr-field" }, h("label", {}, h("span", {}, "Calls of "), step)), sliders.map((slider) => slider.node), note));
  return { node, folds: () => true };
}
