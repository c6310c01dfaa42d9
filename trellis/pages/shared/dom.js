// Functions that make and change nodes of the page. Text reaches the page only as text nodes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "circle", "line", "path", "rect", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== ""));
  return node;
}

// Setting an equal value again would make the browser compute the layout again, 25 times a second.
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}
export function set(node, name, value) {
  if (value == null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// Nodes are kept by their keys. A new node would be read out again, its tooltip would close, and it would lose the focus.
export function keep(parent, kept, entries, make, show) {
  const wanted = new Map(entries);
  for (const [key, node] of kept) {
    if (!wanted.has(key)) {
      node.remove();
      kept.delete(key);
    }
  }
  let place = 0;
  for (const [key, value] of wanted) {
    if (!kept.has(key)) kept.set(key, make(value));
    const node = kept.get(key);
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
    show(node, value);
    place += 1;
  }
}

// A disabled button loses the focus. A button that `enable` turns off keeps it, does nothing, and says why.
export function button(label, attributes, work) {
  const node = h("button", { type: "button", ...attributes, onclick: () => isOn(node) && work() }, label);
  return node;
}
export const isOn = (node) => node.getAttribute("aria-disabled") !== "true";
export function enable(node, on, why = null) {
  set(node, "aria-disabled", on ? null : "true");
  set(node, "title", on ? null : why);
}
