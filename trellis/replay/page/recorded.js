// A recording as the page draws it, decoded from its JSON (trellis/replay/saving.py).

export const TYPE = "\u0000"; // the key under which an object carries the name of its class
const EVERY = 50; // steps between two whole copies of the variables

function put(copy, key, value) {
  // Plain assignment to this name would change the object's prototype.
  if (key === "__proto__") Object.defineProperty(copy, key, { value, enumerable: true, configurable: true, writable: true });
  else copy[key] = value;
}

// A new value with the change. Parts that did not change stay the same objects, so the page can tell that cheaply.
function patched(value, change, at = 0) {
  const [path, wanted] = change;
  if (at === path.length) return wanted;
  const copy = Array.isArray(value) ? [...value] : { ...value };
  if (change.length === 1 && at === path.length - 1) {
    // A list gets shorter, an object loses a field.
    if (Array.isArray(copy)) copy.length = Math.min(copy.length, path[at]);
    else delete copy[path[at]];
  } else put(copy, path[at], patched(copy[path[at]], change, at + 1));
  return copy;
}

// One run of one workflow. Steps are counted from 0 here, and from 1 in words.
class Run {
  constructor(json, lines) {
    Object.assign(this, json);
    this.lines = lines;
    this.copies = [{}];
    this.last = [0, {}];
    // The file with the workflow's class. Under another name than its class, the one in which the run method waits first.
    const frames = json.steps.flatMap((step) => step.waits)[0]?.[1] ?? [];
    const own = lines.find(([file, , name]) => name.startsWith(`${json.type}.`) && file in json.files) ?? lines[frames.at(-1)];
    this.ownFile = own?.[0] ?? Object.keys(json.files)[0];
  }
  // The variables after so many steps. The page moves mostly by one step, so the last answer is kept.
  after(count) {
    let [from, value] = this.last;
    const copy = Math.min(Math.floor(count / EVERY), this.copies.length - 1);
    if (from > count || from < copy * EVERY) [from, value] = [copy * EVERY, this.copies[copy]];
    while (from < count) {
      for (const change of this.steps[from].changed) value = patched(value, change);
      from += 1;
      if (from === this.copies.length * EVERY) this.copies.push(value);
    }
    this.last = [from, value];
    return value;
  }
  // The last step that began by this moment; the first one if none had begun.
  at(moment) {
    let [low, high] = [0, this.steps.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.steps[middle].at <= moment) low = middle;
      else high = middle - 1;
    }
    return Math.max(low, 0);
  }
  place(index) {
    return index == null ? null : this.lines[index];
  }
}

// sides: one list of runs, or two for recordings that are compared. The first run of a side is the one that was asked for.
export function recorded(json) {
  const runs = (json.runs ?? []).map((run) => new Run(run, json.lines));
  return { sides: (json.sides ?? []).map((side) => side.map((index) => runs[index])), books: json.books ?? [], parted: json.parted ?? null };
}

export const shortFile = (file) => file.split(/[\\/]/).pop();
export const shortPlace = ([file, line]) => `${shortFile(file)}:${line}`;
