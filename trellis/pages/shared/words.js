// States, numbers and times in words.

export const words = (state) => (state ? state.toLowerCase().replaceAll("_", " ") : "starting");
export const capital = (word) => word[0].toUpperCase() + word.slice(1);
export const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

export function duration(ms) {
  const s = Math.max(0, ms / 1000);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.floor(s)} s`;
  if (s < 6000) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

export function countdown(ms) {
  const s = Math.ceil(ms / 1000);
  return s > 0 ? `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")} left` : "time is up";
}

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
