// How figures and times are said.

export const words = (name) => name.replaceAll("_", " ");
export function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  // A danger that is small is not none.
  const least = 10 ** -digits;
  return value > 0 && value < least / 2 ? `<${least.toFixed(digits)}` : value.toFixed(digits);
}

export const count = (value, one, many = `${one}s`) => `${value.toLocaleString("en")} ${value === 1 ? one : many}`;

export function riskClass(risk) {
  if (risk === null || risk === undefined) return "risk-none";
  return risk >= 0.6 ? "risk-high" : risk >= 0.3 ? "risk-mid" : "risk-low";
}

// Logs without a clock begin at 1970; of them only the time into the log means something.
export const hasClock = (ns) => new Date(ns / 1e6).getUTCFullYear() >= 1990;

export function moment(ns) {
  const date = new Date(ns / 1e6);
  if (!hasClock(ns)) return `${(ns / 1e9).toFixed(1)} s`;
  return date.toISOString().slice(0, 19).replace("T", " ");
}

export const seconds = (from, to) => `${((to - from) / 1e9).toFixed(1)} s`;
