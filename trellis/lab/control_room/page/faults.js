// Sliders for the plan of faults in force.

import { h, text, set } from "./dom.js";

export function faults(store, on, prefix) {
  const { setup, model } = store;
  const step = h("select", { "aria-label": "Which step's calls fail" },
    h("option", { value: "" }, "all steps"), setup.steps.map((name) => h("option", { value: name }, name)));
  const note = h("small", { class: "tr-quiet" });
  const percent = (value) => `${Math.round(value * 100)} %`;
  const sliders = [
    ["error", "Raise at once", 1, 0.01, percent], ["hang", "Hang", 1, 0.01, percent],
    ["reply_lost", "Done, but reply lost", 1, 0.01, percent], ["latency", "Latency of good calls", 3, 0.05, (value) => `${value.toFixed(2)} s`],
  ].map(([name, label, max, stride, say]) => {
    const out = h("output", { for: `${prefix}-${name}` });
    const range = h("input", { type: "range", id: `${prefix}-${name}`, min: 0, max, step: stride, value: 0 });
    let held = false;
    let waiting = 0;
    // Dragged away and back to where it was, a slider tells of no change: letting go is what counts. A change is
    // told after the pointer is up, and must find the slider where it was left.
    const release = () => setTimeout(() => {
      if (waiting || !held) return;
      held = false;
      show();
    }, 0);
    for (const end of ["keyup", "blur"]) range.addEventListener(end, release);
    for (const end of ["pointerup", "pointercancel"]) on(document, end, release);
    range.addEventListener("input", () => {
      held = true;
      text(out, say(Number(range.value)));
      set(range, "aria-valuetext", out.textContent);
    });
    range.addEventListener("change", async () => {
      waiting += 1;
      await store.request("fault", { step: step.value || null, name, value: Number(range.value) });
      waiting -= 1;
      release();
    });
    return { name, range, out, say, held: () => held, node: h("div", { class: "tr-slider" }, h("label", { for: range.id }, label), out, range) };
  });
  function show() {
    const plan = model.get("faults");
    if (!plan.mix) return;
    const mix = (step.value && plan.steps[step.value]) || plan.mix;
    for (const slider of sliders) {
      // Under somebody's finger a slider stays where it is.
      if (!slider.held()) {
        slider.range.value = mix[slider.name];
        text(slider.out, slider.say(mix[slider.name]));
        set(slider.range, "aria-valuetext", slider.out.textContent);
      }
      slider.range.disabled = slider.name === "reply_lost" && step.value !== "" && !setup.reply_can_be_lost.includes(step.value);
    }
    const own = Object.keys(plan.steps);
    text(note, plan.script ? `A script is in force: ${plan.script}. Moving a slider ends it.`
      : own.length ? `With a mix of their own: ${own.join(", ")}.` : `Plan ${plan.version}. Running orders follow within a second.`);
  }
  step.addEventListener("change", show);
  on(model, "change:faults", show);
  show();
  const weather = (name, label) => h("button", { type: "button", onclick: () => store.request("weather", { name }) }, label);
  return h("details", { class: "tr-card tr-fold" }, h("summary", {}, "Faults"), h("section", { "aria-label": "Faults" },
    h("div", { class: "tr-bar" }, weather("calm", "Calm"), weather("canonical", "Canonical thirds")),
    h("div", { class: "tr-field" }, h("label", {}, h("span", {}, "Calls of "), step)), sliders.map((slider) => slider.node), note));
}
