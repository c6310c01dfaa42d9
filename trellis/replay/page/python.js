// Python source in colours: comments, texts, keywords. It is a help for the eye, and no parser.

import { h } from "./dom.js";

const KEYWORDS = new Set(("False None True and as assert async await break case class continue def del elif else except finally for from global if " +
  "import in is lambda match nonlocal not or pass raise return try while with yield self").split(" "));
const TOKEN = /(#.*)|([rbfRBF]{0,2}(?:"""|'''))|([rbfRBF]{0,2}(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))|([A-Za-z_]\w*)|([^A-Za-z_#"']+|.)/g;

// One list of texts and nodes for each line. A text with three quotes may go over many lines.
export function coloured(code) {
  let open = "";
  const piece = (kind, words) => h("span", { class: `tr-py-${kind}` }, words);
  return code.split("\n").map((line) => {
    const parts = [];
    let at = 0;
    const closeText = () => {
      const end = line.indexOf(open, at);
      const to = end < 0 ? line.length : end + open.length;
      parts.push(piece("text", line.slice(at, to)));
      at = to;
      if (end >= 0) open = "";
    };
    if (open && line) closeText();
    while (at < line.length) {
      TOKEN.lastIndex = at;
      const [all, comment, triple, quoted, word] = TOKEN.exec(line);
      at += all.length;
      if (comment) parts.push(piece("comment", all));
      else if (triple) {
        open = triple.slice(-3);
        parts.push(piece("text", all));
        if (at < line.length) closeText();
      } else if (quoted) parts.push(piece("text", all));
      else if (word && KEYWORDS.has(word)) parts.push(piece("word", all));
      else parts.push(all);
    }
    return parts;
  });
}
