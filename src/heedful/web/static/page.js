// What every page gets: times in the reader's own zone, buttons that copy, a question before what cannot be undone;
// and kept.js, which lets go of what this browser no longer needs to keep.

import "./kept.js";

export function say(message) {
  const region = document.getElementById("live");
  region.textContent = "";
  // A screen reader notices a change, so the same message twice must change twice.
  requestAnimationFrame(() => { region.textContent = message; });
}

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime*='T']")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    time.title = time.textContent;
    time.textContent = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  }
}

async function copy(button) {
  const input = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(input.value);
    say("Copied.");
    button.textContent = "Copied";
  } catch {
    input.select(); // no permission, or no TLS: select it, and Ctrl-C does the rest
    say("Selected: press Ctrl-C to copy.");
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;
showLocalTimes(document);
document.addEventListener("htmx:afterSwap", (event) => showLocalTimes(event.target));
