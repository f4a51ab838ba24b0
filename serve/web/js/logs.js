// Which logs: a list of boxes, with a field to find one where there are many.

import { element } from "./dom.js";
import { go } from "./state.js";

const MOST = 200;
const FEW = 12;
let sought = "";

export function logPicker(state, logList) {
  const place = element("div", { class: "logs" });
  const legend = element("legend", {}, "Logs");
  if (logList.status !== "fulfilled") {
    place.append(element("span", { class: "small" }, "Logs cannot be counted just now."));
    return element("fieldset", {}, legend, place);
  }
  const { logs, is_cut: isCut } = logList.value;
  const show = () => {
    const fit = logs.filter((log) => state.log.includes(log.log_id) || log.log_id.toLowerCase().includes(sought.toLowerCase()));
    fit.sort((a, b) => state.log.includes(b.log_id) - state.log.includes(a.log_id));
    place.replaceChildren(...fit.slice(0, MOST).map((log) => choice(state, log)));
    if (!fit.length) place.append(element("span", { class: "small soft" }, logs.length ? "No log is called so." : "No log passes."));
    if (isCut || fit.length > MOST) place.append(element("span", { class: "small soft" }, "There are more logs than are listed: narrow by tag or time."));
  };
  show();
  return element("fieldset", {}, legend, logs.length > FEW && element("input", { type: "text", value: sought, placeholder: "Find a log",
    "aria-label": "Find a log", "data-focus": "find-log", autocomplete: "off", oninput: (event) => { sought = event.target.value; show(); } }), place);
}

function choice(state, log) {
  const change = (event) => go({ log: event.target.checked
    ? [...state.log, log.log_id] : state.log.filter((id) => id !== log.log_id) });
  return element("label", {},
    element("input", { type: "checkbox", checked: state.log.includes(log.log_id), "data-focus": `log ${log.log_id}`, onchange: change }),
    element("span", {}, log.log_id), element("span", { class: "soft count" }, String(log.count)));
}
