// The line in focus in the time machine. It opens inside the room, because a widget cannot open another output.

import { h, text, button, enable } from "./dom.js";
import { timeMachine } from "./machine.js";

export function timeMachinePanel({ store, on }) {
  const { model, setup } = store;
  const { one: line, a } = setup.words;
  const open = button("Open in time machine", {}, async () => {
    opening = true;
    show();
    await store.request("open machine", { id: store.focused });
    opening = false;
    show();
    if (machine) machine.focus();
  });
  const close = button("Close", {}, () => {
    store.request("close machine");
    open.focus();
  });
  const space = h("div");
  const hint = h("small", { class: "tr-quiet" });
  let opening = false;
  let machine = null;
  let taken = null;

  function show() {
    const id = store.focused;
    enable(open, id && !opening && store.link.live, id ? null : `Select ${a} first`);
    text(hint, opening ? "Replaying …" : id ? `Step through what this ${line} did: its code, variables and commands.` : `Select ${a} to step through its past.`);
    const { order, recording, link } = model.get("machine") ?? {};
    close.hidden = !order;
    hint.hidden = Boolean(order) && !opening;
    if (!order && machine) {
      machine.end();
      machine.node.remove();
      machine = taken = null;
    }
    if (!order) return;
    if (!machine) {
      machine = timeMachine();
      space.append(machine.node);
    }
    if (recording !== taken) machine.take((taken = recording));
    machine.tell(link);
  }

  on(model, "change:machine", show);
  on(store, "focus", show);
  on(store, "link", show);
  show();
  return {
    node: h("section", { class: "tr-card tr-open-machine", "aria-label": `Time machine of the ${line} in focus` }, h("div", { class: "tr-bar" }, h("h3", {}, "Time machine"), open, close, hint), space),
    end: () => machine?.end(),
  };
}
