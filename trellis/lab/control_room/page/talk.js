// Talk to workflows: start one, and send signals, updates and queries to the one in focus, by forms from type hints.

import { h, text, set, button, isOn, enable } from "./dom.js";
import { formFields } from "./form_fields.js";

const ASKED_AGAIN = 16; // beats, which come four times a second. A flight may have been replaced by new code meanwhile.
const VERBS = { signal: "Send the signal", update: "Send the update", query: "Ask" };

export function talk({ store, on, prefix, options }) {
  const start = starting(store, `${prefix}-start`);
  const say = saying(store, `${prefix}-say`, options.kinds);
  const node = h("div", { class: "tr-talk" }, start.node, say.node);
  // The room folds a panel at its side by this property. This panel is two.
  Object.defineProperty(node, "open", { set: (open) => [start, say].forEach((one) => (one.node.open = open)) });
  let beats = 0;
  const refresh = () => {
    if (!store.link.live) return;
    if (start.node.open) start.refresh();
    if (say.node.open) say.refresh();
  };
  for (const one of [start, say]) one.node.addEventListener("toggle", refresh);
  on(store, "focus", refresh);
  on(store, "link", () => {
    refresh();
    start.show();
    say.show();
  });
  start.show();
  say.show();
  refresh();
  const beat = () => {
    beats += 1;
    if (beats % ASKED_AGAIN === 0) refresh();
  };
  return { node, beat, folds: () => store.order.length > 0 };
}

// A card with a form that is drawn anew for each choice: `draw` gives its fields, `send` its request.
function talkCard(title, label, verb, { before, send }) {
  const doc = h("p", { class: "tr-quiet tr-doc" });
  const holder = h("div");
  const whole = h("span", { class: "tr-wrong", role: "alert" });
  const done = h("span", { class: "tr-done", role: "status" });
  const shown = h("pre", { class: "tr-shown", hidden: true, tabindex: "0", "aria-label": "Answer" });
  const go = h("button", { type: "submit", class: "tr-go" }, verb);
  let fields = null;
  let waiting = false;
  let words = verb;
  const form = h("form", { novalidate: true, "aria-label": label }, before, doc, holder,
    h("div", { class: "tr-bar" }, go, done), whole, shown);
  const node = h("details", { class: "tr-card tr-fold" }, h("summary", {}, title), form);
  const card = {
    node,
    possible: true,
    answered({ errors = {}, done: sentence = "", shown: result = "", lost = false }) {
      const left = { ...errors };
      for (const [name, input] of Object.entries(card.inputs ?? {})) {
        text(input.wrong, left[name] ?? "");
        set(input.node, "aria-invalid", left[name] ? "true" : null);
        delete left[name];
      }
      fields?.mark(left);
      // What belongs to no field of this page is said below the form.
      text(whole, lost ? "The kernel is gone." : Object.values(left).join(" "));
      text(done, sentence);
      text(shown, result);
      shown.hidden = !result;
      card.show();
      // The first mistake gets the focus, so that nobody has to look for it.
      if (Object.keys(errors).length) form.querySelector('[aria-invalid="true"]')?.focus();
    },
    draw(prefix, described, verbNow = verb) {
      words = verbNow;
      fields = described ? formFields(prefix, described.fields, null) : null;
      holder.replaceChildren(...(fields ? [fields.node] : []));
      text(doc, described?.doc ?? "");
      doc.hidden = !doc.textContent;
      card.answered({});
    },
    show(live = card.live) {
      card.live = live;
      enable(go, !waiting && live && card.possible);
      text(go, waiting ? `${words} …` : words);
    },
    live: false,
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!isOn(go)) return;
    waiting = true;
    card.answered({});
    const answer = await send(fields ? fields.read() : {});
    waiting = false;
    card.answered(answer);
  });
  return card;
}

// A text field of the card itself, such as the workflow's id.
function talkInput(id, label, attributes = {}) {
  const wrong = h("span", { class: "tr-wrong", id: `${id}-wrong`, role: "alert" });
  const node = h("input", { type: "text", autocomplete: "off", id, "aria-describedby": wrong.id, ...attributes });
  return { node, wrong, row: h("div", { class: "tr-field" }, h("label", { for: id }, label), node, wrong) };
}

function starting(store, prefix) {
  const select = h("select", { id: `${prefix}-which` });
  const type = talkInput(`${prefix}-type`, "Workflow type");
  const queue = talkInput(`${prefix}-queue`, "Task queue");
  const id = talkInput(`${prefix}-id`, "Workflow id", { placeholder: "a new one" });
  const other = h("div", { class: "tr-fields" }, type.row, queue.row);
  let types = [];
  let any = null;
  let known = "";
  const card = talkCard("Start a workflow", "Start a workflow", "Start", {
    before: [h("div", { class: "tr-field" }, h("label", { for: select.id }, "Workflow"), select), other, id.row],
    send: async (raw) => {
      const chosen = types[select.value];
      const answer = await store.request("talk start", {
        type: chosen ? chosen.type : type.node.value, queue: chosen ? chosen.queue : queue.node.value, id: id.node.value, raw,
      });
      if (answer.started) {
        id.node.value = "";
        if (!store.selected.size) store.choose(answer.started);
      }
      return answer;
    },
  });
  card.inputs = { "@type": type, "@queue": queue, "@id": id };
  const choose = () => {
    const chosen = types[select.value];
    other.hidden = Boolean(chosen);
    card.draw(prefix, chosen ? chosen.run : any);
  };
  select.addEventListener("change", choose);
  async function refresh() {
    const answer = await store.request("talk types");
    const now = JSON.stringify(answer.types);
    if (answer.lost || !answer.types || now === known) return;
    const before = types[select.value]?.type;
    known = now;
    ({ types, any } = answer);
    const twice = (one) => types.filter((each) => each.type === one.type).length > 1;
    select.replaceChildren(
      ...types.map((one, number) => h("option", { value: number, selected: one.type === before }, twice(one) ? `${one.type} on ${one.queue}` : one.type)),
      h("option", { value: "" }, "another type …"));
    choose();
  }
  return { node: card.node, refresh, show: () => card.show(store.link.live) };
}

function saying(store, prefix, kinds) {
  const whom = h("p", { class: "tr-doc", "aria-live": "polite" });
  const note = h("p", { class: "tr-quiet tr-doc", hidden: true });
  const select = h("select", { id: `${prefix}-which` });
  const name = talkInput(`${prefix}-name`, "Name");
  const which = h("div", { class: "tr-field" }, h("label", { for: select.id }, "What to say"), select);
  let told = {};
  let known = "";
  const entry = () => {
    const [kind, number] = select.value.split(" ");
    return { kind, handler: told[kind]?.[number] };
  };
  const card = talkCard("Signals, updates, queries", "Say something to the workflow", "Send", {
    before: [whom, note, which, name.row],
    send: (raw) => {
      const { kind, handler } = entry();
      return store.request(`talk ${kind}`, {
        workflow_id: told.workflow_id, run_id: told.run_id, type: told.type, name: handler.name ?? name.node.value, raw,
      });
    },
  });
  card.inputs = { "@name": name };
  const choose = () => {
    const { kind, handler } = entry();
    card.possible = Boolean(handler);
    name.row.hidden = !handler || handler.name !== null;
    card.draw(prefix, handler, VERBS[kind]);
  };
  select.addEventListener("change", choose);
  async function refresh() {
    const answer = await store.request("talk forms");
    const now = JSON.stringify(answer, (key, value) => (key === "answer" ? undefined : value));
    if (answer.lost || now === known) return;
    const same = answer.type === told.type ? select.value : "";
    known = now;
    told = answer;
    const there = Boolean(told.workflow_id);
    const found = kinds.map((kind) => h("optgroup", { label: { signal: "Signals", update: "Updates", query: "Queries" }[kind] },
      (told[kind] ?? []).map((one, number) => h("option", { value: `${kind} ${number}`, selected: same === `${kind} ${number}` }, one.name ?? `another ${kind} …`))))
      .filter((group) => group.children.length);
    text(whom, !there ? "Choose a workflow on the board." : found.length ? `${told.type} ${told.workflow_id}` : `${told.type} takes no signal, update or query.`);
    text(note, told.note ?? "");
    note.hidden = !told.note;
    select.replaceChildren(...found);
    which.hidden = !found.length;
    choose();
  }
  return { node: card.node, refresh, show: () => card.show(store.link.live) };
}
