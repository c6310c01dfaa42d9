// A page in a file of its own: the data that is in the file, light and dark (see trellis/pages/file.py).

import { h, text, set } from "./dom.js";

const OLD = "This browser is too old to unpack the data in this file. Open the file in a newer one.";

async function dataOfFile() {
  const { textContent: packed, dataset } = document.getElementById("tr-data");
  if (dataset.form !== "gzip") return JSON.parse(packed);
  if (!globalThis.DecompressionStream) throw new Error(OLD);
  const bytes = Uint8Array.from(atob(packed.trim()), (char) => char.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
}

// `make(data)` returns { node, focus }.
export async function openFile(make) {
  const root = document.getElementById("tr-root");
  const page = document.documentElement;
  const isDark = () => (page.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const theme = h("button", { type: "button", onclick: () => {
    page.dataset.theme = isDark() ? "light" : "dark";
    name();
  } });
  const name = () => text(theme, isDark() ? "Light" : "Dark");
  name();
  try {
    const made = make(await dataOfFile());
    root.replaceChildren(h("header", { class: "tr-bar" }, h("h2", {}, document.title), theme), made.node);
    made.focus?.();
    set(root, "data-ready", true);
  } catch (error) {
    root.replaceChildren(h("p", { role: "alert" }, error.message));
  }
}
