// The playground: answers arrive piece by piece as server-sent events, and are only ever set as text, never as HTML.

import { eventsIn } from "./event-stream.js";
import { say } from "./page.js";

const csrf = document.querySelector("meta[name=csrf-token]").content;
let writing = 0;

function nameOf(card) {
  return card.querySelector("h3").textContent.trim();
}

async function write(card) {
  const text = card.querySelector("[data-answer-text]");
  const ask = card.querySelector("[data-ask]");
  const row = card.querySelector("[data-writing]");
  const control = new AbortController();
  const leave = () => control.abort();
  row.querySelector("[data-stop]").addEventListener("click", leave, { once: true });
  ask.hidden = true;
  row.hidden = false;
  text.textContent = "";
  let last = { state: "failed", message: "The connection broke." };
  try {
    const response = await fetch(ask.action, {
      method: "POST",
      headers: { Accept: "text/event-stream", "X-CSRF-Token": csrf },
      signal: control.signal,
    });
    if (!response.ok) throw new Error(response.status === 409 ? "This answer is being written on another page." : "The server refused.");
    for await (const event of eventsIn(response.body)) {
      if (event.text !== undefined) {
        const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 8;
        text.append(event.text);
        if (atEnd) text.scrollTop = text.scrollHeight;
      } else last = event;
    }
  } catch (error) {
    if (control.signal.aborted) last = { state: "stopped" };
    else if (error instanceof Error && error.message) last = { state: "failed", message: error.message };
  }
  row.hidden = true;
  if (last.state === "failed") {
    ask.hidden = false;
    ask.querySelector("button").firstChild.textContent = "Try again";
    const problem = document.createElement("span");
    problem.className = "problem";
    problem.textContent = last.message ?? "The answer failed.";
    ask.prepend(problem);
    say(`${nameOf(card)}: ${problem.textContent}`);
  } else say(`${nameOf(card)}: ${last.state}.`);
  return last.state;
}

/** Ask for all answers at once; when they have ended, reload the page, which then has the feedback forms. */
async function writeAll() {
  const cards = [...document.querySelectorAll("[data-stream]")];
  if (!cards.length) return;
  writing += cards.length;
  const states = await Promise.all(cards.map((card) => write(card).finally(() => { writing -= 1; })));
  const typed = document.querySelector("[data-composer] textarea");
  // Keep what was typed in the meantime. A stopped answer needs a moment until the server has stored it.
  if (states.every((state) => state !== "failed") && !typed?.value) {
    if (states.includes("stopped")) await new Promise((wait) => { setTimeout(wait, 400); });
    location.hash = "last";
    location.reload();
  } else if (states.every((state) => state !== "failed")) {
    for (const button of document.querySelectorAll("[data-not-yet] button")) button.disabled = false;
  }
}

for (const ask of document.querySelectorAll("[data-ask]")) {
  ask.addEventListener("submit", (event) => {
    event.preventDefault();
    ask.querySelector(".problem")?.remove();
    const card = ask.closest("article");
    card.dataset.stream = ask.action;
    write(card).then((state) => { if (state !== "failed" && writing === 0) location.reload(); });
  });
}

// Ctrl+Enter sends, in every text box of a form.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.repeat) return;
  const form = event.target.closest?.("form");
  if (event.target.tagName === "TEXTAREA" && form) {
    event.preventDefault();
    form.requestSubmit();
  }
});

writeAll();
