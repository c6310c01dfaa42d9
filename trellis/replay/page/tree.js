// Values as a tree. Nodes stay while the cursor moves, so what a person opened stays open.

import { h, text, set, keep } from "./dom.js";
import { TYPE } from "./recorded.js";

const PREVIEW = 70;
const isBranch = (value) => value !== null && typeof value === "object";
const keysOf = (value) => Object.keys(value).filter((key) => key !== TYPE);

function scalar(value) {
  if (value === undefined) return "";
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "string" && !/^<.*>$/.test(value) ? `“${value}”` : String(value);
}

// A value in one line, cut off when it is long. `named`: with the name of its own class, not only of its parts.
export function preview(value, room = PREVIEW, named = true) {
  let out = "";
  const add = (words) => {
    out += words;
    return out.length <= room;
  };
  const write = (one) => {
    if (!isBranch(one)) return add(scalar(one));
    const list = Array.isArray(one);
    if (!add(list ? "[" : `${(named || one !== value) && one[TYPE] ? one[TYPE] : ""}{`)) return false;
    return keysOf(one).every((key, i) => add((i ? ", " : "") + (list ? "" : `${key}: `)) && write(one[key])) && add(list ? "]" : "}");
  };
  return write(value) && out.length <= room ? out : `${out.slice(0, room - 1)}…`;
}

// What changed in one step as a tree of marks: { own, kids }.
export function marksOf(changes) {
  const root = { own: false, kids: new Map() };
  for (const [path] of changes) {
    let at = root;
    for (const key of path) {
      const name = String(key);
      if (!at.kids.has(name)) at.kids.set(name, { own: false, kids: new Map() });
      at = at.kids.get(name);
    }
    at.own = true;
  }
  return root;
}

function entry(name, value) {
  const branch = isBranch(value);
  const key = h("span", { class: "tr-key" }, name);
  const kind = h("span", { class: "tr-kind" });
  const words = h("span", { class: "tr-value" });
  const was = h("span", { class: "tr-was" });
  const row = [key, kind, words, was];
  const body = h("div", { class: "tr-twigs" });
  const node = branch ? h("details", { class: "tr-branch" }, h("summary", {}, row), body) : h("div", { class: "tr-leaf" }, row);
  const grown = twigs(body);
  const self = { node, branch, value: undefined, marks: undefined };
  let now = [];
  if (branch) node.addEventListener("toggle", () => node.open && grown.show(...now));
  self.show = (next, marks, before) => {
    if (next === self.value && marks === undefined && self.marks === undefined) return;
    const moved = next !== self.value;
    self.value = next;
    self.marks = marks;
    now = [next, marks, before];
    set(node, "data-changed", !marks ? null : marks.own ? "own" : "inside");
    if (branch) {
      const list = Array.isArray(next);
      if (moved) {
        text(kind, list ? `list of ${next.length}` : next[TYPE] ?? `dict of ${keysOf(next).length}`);
        text(words, preview(next, PREVIEW, false));
      }
      text(was, marks ? (marks.own ? "changed" : "changed inside") : "");
      if (node.open) grown.show(...now);
      return;
    }
    if (moved) {
      text(words, scalar(next));
      set(words, "data-kind", next === null ? "none" : typeof next);
    }
    text(was, !marks ? "" : before === undefined ? "new" : `was ${preview(before, 40)}`);
  };
  return self;
}

// The parts of one value.
function twigs(body) {
  const made = new Map();
  const kept = new Map();
  return {
    show(value, marks, before) {
      const keys = isBranch(value) ? keysOf(value) : [];
      for (const key of keys) {
        // A value that became an object needs another node.
        if (made.has(key) && made.get(key).branch !== isBranch(value[key])) {
          kept.get(key)?.remove();
          kept.delete(key);
          made.delete(key);
        }
        if (!made.has(key)) made.set(key, entry(key, value[key]));
        made.get(key).show(value[key], marks?.kids.get(key) ?? (marks?.own ? marks : undefined), isBranch(before) ? before[key] : undefined);
      }
      for (const key of [...made.keys()]) if (!keys.includes(key)) made.delete(key);
      keep(body, kept, keys.map((key) => [key, key]), (key) => made.get(key).node, () => {});
    },
  };
}

export function tree(attributes = {}) {
  const body = h("div", { class: "tr-tree", ...attributes });
  return { node: body, show: twigs(body).show };
}
