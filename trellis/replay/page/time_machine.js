// The time machine as a widget (see trellis/lab/time_machines.py).

import { h } from "./dom.js";
import { timeMachine } from "./machine.js";

function render({ model, el }) {
  const machine = timeMachine();
  const take = () => machine.take(model.get("recording"));
  const tell = () => machine.tell(model.get("link"));
  model.on("change:recording", take);
  model.on("change:link", tell);
  take();
  tell();
  el.append(h("div", { class: "tr-page" }, machine.node));
  return () => {
    model.off("change:recording", take);
    model.off("change:link", tell);
    machine.end();
  };
}

export default { render };
