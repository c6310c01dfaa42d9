// The path of an order as a small picture, and its state as a coloured word.

import { h, text, set } from "./dom.js";
import { words } from "./words.js";

export function pathPicture(setup) {
  const step = 17;
  const size = setup.path.length;
  const svg = h("svg", { class: "tr-path", viewBox: `0 0 ${step * size} 18`, role: "img" });
  const lines = setup.path.slice(1).map((_, i) => h("line", { x1: step * i + 9, x2: step * i + 26, y1: 9, y2: 9 }));
  const dots = setup.path.map((_, i) => h("circle", { cx: step * i + 9, cy: 9, r: 3.5 }));
  const cross = h("path", { class: "tr-cross" });
  svg.append(...lines, ...dots, cross);
  return {
    node: svg,
    show(row) {
      const broken = setup.ended.includes(row.state) && row.state !== setup.path[size - 1][0];
      const colour = row.state ? setup.colours[row.state][0] : null;
      dots.forEach((dot, i) => {
        const here = i === row.reached && !broken;
        set(dot, "r", here ? 6 : 3.5);
        set(dot, "class", i <= row.reached ? "tr-on" : "tr-off");
        // Without a colour here, the style sheet sets it, which follows the theme.
        dot.style.fill = i <= row.reached && colour ? colour : "";
        dot.style.stroke = dot.style.fill;
      });
      lines.forEach((line, i) => {
        set(line, "class", i < row.reached ? "tr-on" : "tr-off");
        line.style.stroke = i < row.reached && colour ? colour : "";
      });
      const x = step * Math.min(row.reached + 1, size - 1) + 9;
      set(cross, "d", broken ? `M${x - 4.5} 4.5 l9 9 m0 -9 l-9 9` : "M0 0");
      cross.style.stroke = broken ? "currentColor" : "none";
      const where = setup.path[Math.max(row.reached, 0)][1];
      set(svg, "aria-label", broken ? `${words(row.state)} after ${where}` : `${words(row.state)}, ${row.reached + 1} of ${size}`);
    },
  };
}

export function pill(setup, state) {
  const node = h("span", { class: "tr-pill" });
  paint(setup, node, state);
  return node;
}
export function paint(setup, node, state) {
  text(node, words(state));
  const [back, fore] = setup.colours[state] ?? ["", ""];
  node.style.background = back;
  node.style.color = fore;
}
