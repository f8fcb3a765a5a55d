// For every page: times in the reader's time zone, copy buttons, a question before what cannot be undone;
// and kept.js, which removes what this browser no longer needs to keep.

import "./kept.js";

export function say(message) {
  const region = document.getElementById("live");
  region.textContent = "";
  // Screen readers notice only changes, so a repeated message must change twice.
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
