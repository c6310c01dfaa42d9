// The form for new orders.

import { h, text, set, button, isOn, enable } from "./dom.js";

export function newOrders({ store, on, prefix, options }) {
  const wrongs = new Map();
  const field = (name, label, input) => {
    const wrong = h("span", { class: "tr-wrong", id: `${prefix}-${name}-wrong`, role: "alert" });
    input.id = `${prefix}-${name}`;
    input.setAttribute("aria-describedby", wrong.id);
    wrongs.set(name, { wrong, input });
    return h("div", { class: "tr-field" }, h("label", { for: input.id }, label), input, wrong);
  };
  const items = h("div", { class: "tr-items" });
  let made = 0;
  const input = (attributes) => h("input", { type: "text", autocomplete: "off", ...attributes });
  const addItem = (sku = "", quantity = "1", price = "") => {
    const row = h("div", { class: "tr-item" },
      input({ value: sku, "aria-label": "SKU", placeholder: "sku", name: "sku" }),
      input({ value: quantity, "aria-label": "Quantity", inputmode: "numeric", name: "quantity" }),
      input({ value: price, "aria-label": "Unit price", inputmode: "decimal", placeholder: "0.00", name: "price" }),
      h("button", { type: "button", class: "tr-icon", "aria-label": "Remove this item", onclick: () => {
        row.remove();
        more.focus();
      } }, "×"));
    made += 1;
    const wrong = h("span", { class: "tr-wrong", role: "alert", id: `${prefix}-item-${made}-wrong` });
    for (const one of row.querySelectorAll("input")) one.setAttribute("aria-describedby", wrong.id);
    row.append(wrong);
    items.append(row);
    return row;
  };
  const more = button("+ add an item", { class: "tr-link" }, () => addItem().firstChild.focus());
  addItem("book", "2", "12.50");
  const line1 = input({ value: "1 Main Street" });
  const city = input({ value: "Springfield" });
  const policy = h("select", {}, Object.keys(options.policies).map((name) => h("option", { value: name, selected: name === options.default }, name)));
  const explained = h("small", { class: "tr-quiet" });
  const tries = input({ inputmode: "numeric", title: "In each round of shipping" });
  const explain = () => {
    text(explained, options.policies[policy.value]);
    tries.value = options.dispatch_tries[policy.value];
  };
  policy.addEventListener("change", explain);
  explain();
  const count = input({ value: "1", inputmode: "numeric" });
  const done = h("span", { class: "tr-done", role: "status" });
  const whole = h("span", { class: "tr-wrong", role: "alert" });
  const start = h("button", { type: "submit", class: "tr-go" }, "Start");
  let waiting = false;
  const form = h("form", { novalidate: true, "aria-label": "New order" },
    h("div", { class: "tr-field" }, h("span", { class: "tr-label" }, "Items: sku, quantity, unit price"), items, more),
    field("address", "Street and number", line1), field("city", "City", city),
    h("div", { class: "tr-pair" }, field("policy", "Policy", policy), field("count", "How many", count)),
    field("dispatch_tries", "Tries of a dispatch (0: no limit)", tries), explained,
    h("div", { class: "tr-bar" }, start, done), whole);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!isOn(start)) return;
    waiting = true;
    answered({});
    const answer = await store.request("start", {
      items: [...items.children].map((row) => Object.fromEntries([...row.querySelectorAll("input")].map((one) => [one.name, one.value]))),
      address: { line1: line1.value, city: city.value }, policy: policy.value, dispatch_tries: tries.value, count: count.value,
    });
    waiting = false;
    answered(answer);
    if (answer.started && !store.selected.size) store.choose(answer.started);
  });
  function answered({ errors = {}, done: sentence = "" }) {
    for (const [name, { wrong, input: one }] of wrongs) {
      text(wrong, errors[name] ?? "");
      set(one, "aria-invalid", Boolean(errors[name]));
    }
    [...items.children].forEach((row, index) => {
      const error = errors[`item ${index}`] ?? "";
      text(row.lastChild, error);
      // The sentence names the field that is wrong.
      for (const one of row.querySelectorAll("input")) set(one, "aria-invalid", error.includes(one.name));
    });
    text(whole, errors.form ?? "");
    text(done, sentence);
    show();
  }
  function show() {
    enable(start, !waiting && store.link.live);
    text(start, waiting ? "Starting …" : "Start");
  }
  on(store, "link", show);
  show();
  const node = h("details", { class: "tr-card tr-fold" }, h("summary", {}, "New order"), form);
  // While the board is empty, a person needs this form first, so it stays open.
  return { node, folds: () => store.order.length > 0 };
}
