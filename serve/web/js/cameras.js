// Cameras in the order in which they look around the car: front row from left to right, sides, back row, then others.

// The first that fits: what sees heat stands apart, wherever it looks.
const ROWS = [[/(^|[^a-z])(ir|infrared|thermal|lwir)([^a-z]|$)/i, 4], [/back|rear/i, 2], [/front/i, 0], [/side|left|right/i, 1]];
const OTHERS = 3;

function place(camera) {
  const row = ROWS.find(([words]) => words.test(camera))?.[1] ?? OTHERS;
  const column = /left/i.test(camera) ? 0 : /right/i.test(camera) ? 2 : 1;
  return row * 3 + column;
}

export function inOrder(cameras) {
  return [...cameras].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}
