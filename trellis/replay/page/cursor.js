// The one cursor: which run is shown, and after which of its steps.

const SLOWEST = 700; // ms for a step while it plays
const WHOLE = 60000; // ms for a whole recording, if that is faster
const FASTEST = 60;

export class Cursor extends EventTarget {
  constructor() {
    super();
    this.sides = [];
    this.run = null;
    this.step = 0;
    this.playing = 0;
    this.moment = 0;
  }
  // How many steps there are. Two recordings that are compared move together, as long as the longer one goes on.
  get count() {
    const shown = this.sides.length > 1 ? this.sides.map((side) => side[0]) : [this.run];
    return Math.max(0, ...shown.map((run) => run?.steps.length ?? 0));
  }
  tell(what) {
    this.dispatchEvent(new Event(what));
  }
  // New data. The cursor stays where it was, unless it was at the end: then it follows.
  take(sides) {
    const known = this.run;
    const atEnd = !known || this.step >= this.count - 1;
    this.sides = sides;
    this.run = (known && sides[0]?.find((run) => run.id === known.id && run.run === known.run)) ?? sides[0]?.[0] ?? null;
    const last = Math.max(0, this.count - 1);
    this.step = atEnd && known ? last : Math.min(this.step, last);
    this.tell("runs");
    this.tell("step");
  }
  go(step) {
    const wanted = Math.min(Math.max(step, 0), this.count - 1);
    if (wanted === this.step || wanted < 0) return;
    this.step = wanted;
    this.tell("step");
  }
  // Another run at the same moment.
  choose(run) {
    if (run === this.run) return;
    // A run that was not replayed has no moments. The next one continues where the cursor was before it.
    this.moment = this.run?.steps[this.step]?.at ?? this.moment;
    this.run = run;
    this.step = run.at(this.moment);
    this.tell("runs");
    this.tell("step");
  }
  play() {
    if (this.playing) return this.pause();
    if (this.step >= this.count - 1) this.go(0);
    const pace = Math.max(FASTEST, Math.min(SLOWEST, WHOLE / Math.max(1, this.count)));
    this.playing = setInterval(() => {
      if (this.step >= this.count - 1) this.pause();
      else this.go(this.step + 1);
    }, pace);
    this.tell("play");
    return undefined;
  }
  pause() {
    clearInterval(this.playing);
    this.playing = 0;
    this.tell("play");
  }
}
