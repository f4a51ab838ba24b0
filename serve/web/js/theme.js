// Light or dark: as the system has it until somebody presses the button. The colours themselves are in style.css.

const KEY = "nightminer-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export function theme() {
  const button = document.getElementById("theme");
  const now = () => localStorage.getItem(KEY) ?? (system.matches ? "dark" : "light");
  const show = () => {
    const chosen = localStorage.getItem(KEY);
    if (chosen) document.documentElement.dataset.theme = chosen;
    const other = now() === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `${button.textContent}: switch to ${other} colours`);
  };
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, now() === "dark" ? "light" : "dark");
    show();
  });
  system.addEventListener("change", show);
  show();
}
