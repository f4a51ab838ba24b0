// Cameras in the order in which they look around the car: front row from left to right, sides, back row, then others.

const ROWS = [/front/i, /side|left|right/i, /back|rear/i];
const OTHERS = 3;

function place(camera) {
  const row = /back|rear/i.test(camera) ? 2 : ROWS.findIndex((words) => words.test(camera));
  const column = /left/i.test(camera) ? 0 : /right/i.test(camera) ? 2 : 1;
  return (row < 0 ? OTHERS : row) * 3 + column;
}

export function inOrder(cameras) {
  return [...cameras].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}
