// A sentence in which names stand between backquotes, as `this`.

import { h, text } from "./dom.js";

export function say(node, sentence) {
  if (node.dataset.sentence === sentence) return;
  node.dataset.sentence = sentence;
  const parts = sentence.split("`");
  // Without a pair for each, a backquote is part of a value.
  if (parts.length % 2 === 0) text(node, sentence);
  else node.replaceChildren(...parts.map((part, i) => (i % 2 ? h("code", {}, part) : part)));
}
