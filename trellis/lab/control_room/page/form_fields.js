// The fields of a form as trellis/lab/flights/forms describes them, and what a person gave, as plain values.

import { h, text, set, button } from "./dom.js";

const EXAMPLES = {
  datetime: "2026-01-31T12:30:00+00:00",
  time: "12:30",
  duration: "90 s, 1h 30m",
  json: "JSON",
};
const LIMITS = { least: "at least", above: "more than", most: "at most", below: "less than" };

let fieldsMade = 0;

// Each part returns { node, read, mark }. `mark` shows the sentences of `errors` that belong to the part or to what is
// in it, by their paths, and takes them out of `errors`.
export function formFields(prefix, fields, raw) {
  const parts = fields.map((field) => [field.name, row(prefix, field, raw?.[field.name] ?? field.raw)]);
  return {
    node: h("div", { class: "tr-fields" }, parts.map(([, part]) => part.node)),
    read: () => Object.fromEntries(parts.map(([name, part]) => [name, part.read()])),
    mark: (errors) => parts.forEach(([name, part]) => part.mark(name, errors)),
  };
}

function taken(errors, path) {
  const found = errors[path] ?? "";
  delete errors[path];
  return found;
}

// A field with its label, its explanation and its sentence.
function row(prefix, field, raw) {
  fieldsMade += 1;
  const id = `${prefix}-${fieldsMade}`;
  const limits = Object.entries(field.limits ?? {}).map(([name, bound]) => `${LIMITS[name]} ${bound}`);
  const says = h("small", {}, [field.says, ...limits].filter(Boolean).join(", "));
  const help = field.help ? h("small", { class: "tr-quiet", id: `${id}-help` }, field.help) : null;
  const wrong = h("span", { class: "tr-wrong", id: `${id}-wrong`, role: "alert" });
  const described = [help?.id, wrong.id].filter(Boolean).join(" ");
  const single = SINGLE[field.kind];
  if (single) {
    const input = single(field, raw);
    input.id = id;
    input.setAttribute("aria-describedby", described);
    const label = h("label", { for: id }, field.label || field.says, " ", field.label ? says : null);
    return {
      node: h("div", { class: "tr-field" }, label, help, input, wrong),
      read: () => (input.type === "checkbox" ? input.checked : input.value),
      mark: (path, errors) => {
        text(wrong, taken(errors, path));
        set(input, "aria-invalid", wrong.textContent ? "true" : null);
      },
    };
  }
  const part = COMBINED[field.kind](id, field, raw);
  const legend = h("legend", {}, field.label || field.says, " ", field.label ? says : null);
  return {
    node: h("fieldset", { class: "tr-sub", "aria-describedby": described }, legend, help, part.node, wrong),
    read: part.read,
    mark: (path, errors) => {
      part.mark(path, errors);
      text(wrong, taken(errors, path));
    },
  };
}

const typed = (type, more = {}) => (field, raw) =>
  h("input", { type, autocomplete: "off", value: raw ?? "", placeholder: EXAMPLES[field.kind], ...more });
const area = (field, raw) => {
  const node = h("textarea", { rows: 2, spellcheck: "false", placeholder: EXAMPLES[field.kind] });
  node.value = raw ?? "";
  return node;
};

const SINGLE = {
  // An input of one line would drop the line breaks of a default.
  text: (field, raw) => (String(raw ?? "").includes("\n") ? area(field, raw) : typed("text")(field, raw)),
  integer: typed("text", { inputmode: "numeric" }),
  number: typed("text", { inputmode: "decimal" }),
  date: typed("date"),
  time: typed("text"),
  datetime: typed("text"),
  duration: typed("text"),
  bytes: typed("text"),
  json: area,
  boolean: (field, raw) => h("input", { type: "checkbox", checked: raw === true }),
  choice: (field, raw) => {
    const options = field.choices.map((name, number) => h("option", { value: String(number), selected: raw === String(number) }, name));
    if (raw === "") options.unshift(h("option", { value: "", selected: true }, "choose …"));
    return h("select", {}, options);
  },
};

const COMBINED = {
  nothing: () => ({ node: null, read: () => null, mark: () => {} }),

  optional: (id, field, raw) => {
    let inside = null;
    const holder = h("div", { class: "tr-fields" });
    const given = h("input", { type: "checkbox", checked: raw !== null });
    const show = (value) => {
      inside = given.checked ? bare(id, field.inside, value) : null;
      holder.replaceChildren(...(inside ? [inside.node] : []));
    };
    given.addEventListener("change", () => show(field.inside.raw));
    show(raw);
    const label = h("label", { class: "tr-given" }, given, field.left === "out" ? " give one, in place of the default" : " give one");
    return {
      node: h("div", { class: "tr-fields" }, label, holder),
      read: () => (inside ? inside.read() : null),
      mark: (path, errors) => inside?.mark(path, errors),
    };
  },

  union: (id, field, raw) => {
    let inside = null;
    const holder = h("div", { class: "tr-fields" });
    const which = h("select", { "aria-label": "Which one" },
      field.cases.map((one, number) => h("option", { value: number, selected: number === raw.case }, one.label || one.says)));
    const show = (value) => {
      inside = bare(id, field.cases[which.value], value);
      holder.replaceChildren(inside.node);
    };
    which.addEventListener("change", () => show(field.cases[which.value].raw));
    show(raw.value);
    return {
      node: h("div", { class: "tr-fields" }, which, holder),
      read: () => ({ case: Number(which.value), value: inside.read() }),
      mark: (path, errors) => inside.mark(path, errors),
    };
  },

  list: (id, field, raw) => entries(raw, field.item.raw, "an entry", (value) => {
    const part = bare(id, field.item, value);
    return { nodes: [part.node], read: part.read, mark: part.mark };
  }),

  mapping: (id, field, raw) => entries(raw, [field.key.raw, field.value.raw], "an entry", ([first, second]) => {
    const key = row(id, { ...field.key, label: "key" }, first);
    const value = row(id, { ...field.value, label: "value" }, second);
    return {
      nodes: [key.node, value.node],
      read: () => [key.read(), value.read()],
      mark: (path, errors) => {
        key.mark(`${path}.key`, errors);
        value.mark(`${path}.value`, errors);
      },
    };
  }),

  group: (id, field, raw) => {
    const parts = field.fields.map((one) => [one.name, row(id, one, raw?.[one.name] === undefined ? one.raw : raw[one.name])]);
    return {
      node: h("div", { class: "tr-fields" }, parts.map(([, part]) => part.node)),
      read: () => Object.fromEntries(parts.map(([name, part]) => [name, part.read()])),
      mark: (path, errors) => parts.forEach(([name, part]) => part.mark(`${path}.${name}`, errors)),
    };
  },
};

// What is inside an optional field, a union or a list. Its label would repeat that of the field around it.
function bare(id, field, raw) {
  return row(id, { ...field, label: "" }, raw);
}

function entries(raw, fresh, what, make) {
  const held = [];
  const list = h("div", { class: "tr-fields" });
  const add = (value) => {
    const one = make(value);
    const node = h("div", { class: "tr-entry" }, one.nodes,
      h("button", { type: "button", class: "tr-icon", "aria-label": `Remove ${what}`, onclick: () => {
        held.splice(held.findIndex((other) => other.node === node), 1);
        node.remove();
        more.focus();
      } }, "×"));
    held.push({ node, read: one.read, mark: one.mark });
    list.append(node);
    return node;
  };
  const more = button(`+ add ${what}`, { class: "tr-link" }, () => add(fresh).querySelector("input, select, textarea, button").focus());
  for (const value of raw ?? []) add(value);
  return {
    node: h("div", { class: "tr-fields" }, list, more),
    read: () => held.map((one) => one.read()),
    mark: (path, errors) => held.forEach((one, number) => one.mark(`${path}.${number}`, errors)),
  };
}
