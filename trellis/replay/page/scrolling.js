// A box that is scrolled by the page, without asking the browser where it is.
// To ask after a change makes the browser compute the whole layout at once: several times for each step.

export function scrolling(box) {
  const at = { top: 0, height: 0 };
  box.addEventListener("scroll", () => {
    at.top = box.scrollTop;
  });
  return {
    at,
    // Called when the size may have changed, and not in the middle of a change.
    measure() {
      at.top = box.scrollTop;
      at.height = box.clientHeight;
    },
    // Bring a row into view. Only this box scrolls, and not the page around it.
    show(top, row) {
      if (top >= at.top + row && top <= at.top + at.height - 3 * row) return;
      const wanted = Math.max(0, Math.round(top - at.height / 2));
      if (wanted === at.top) return;
      at.top = wanted;
      box.scrollTop = wanted;
    },
  };
}
