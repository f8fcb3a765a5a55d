// A task's page: folds long texts, shows what is still to do, starts the board and the drafts.

import { startDrafts } from "./drafts.js";
import { forget } from "./kept.js";
import { startOutputs } from "./outputs.js";
import { say } from "./page.js";
import { startRanking } from "./ranking.js";

const form = document.getElementById("task");
const finished = form.dataset.finished === "yes";

/** Show the first lines of a long text, and a button for the rest; without JavaScript all of it is shown. */
function fold(box) {
  const lines = Number(box.dataset.fold);
  const height = lines * Number.parseFloat(getComputedStyle(box).lineHeight);
  if (box.scrollHeight < height * 1.25) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet small fold-button";
  box.id ||= `fold-${Math.random().toString(36).slice(2)}`;
  button.setAttribute("aria-controls", box.id);
  const count = box.textContent.trim().split(/\s+/).length;
  const name = box.dataset.output ? ` of output ${box.dataset.output}` : "";
  const show = (open) => {
    box.style.maxBlockSize = open ? "" : `${height}px`;
    box.classList.toggle("folded", !open);
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "Show less" : `Show all (${count} words)`;
    const hidden = document.createElement("span");
    hidden.className = "visually-hidden";
    hidden.textContent = name;
    button.append(hidden);
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-expanded") !== "true"));
  box.after(button);
  show(false);
}

/** Which outputs are rated (every scale has a choice) and placed. */
function stepsOf() {
  const nav = form.querySelector("[data-steps]");
  if (!nav) return () => {};
  const steps = [...nav.querySelectorAll("[data-step]")];
  return () => {
    let [rated, placed] = [0, 0];
    for (const step of steps) {
      const letter = step.dataset.step;
      const names = new Set([...form.querySelectorAll(`input[type=radio][name^="${letter}."]`)].map((input) => input.name));
      const isRated = [...names].every((name) => form.querySelector(`input[name="${name}"]:checked`));
      const select = form.querySelector(`select[data-place="${letter}"]`);
      const isPlaced = !select || select.value !== "";
      rated += isRated ? 1 : 0;
      placed += isPlaced ? 1 : 0;
      step.dataset.done = isRated && isPlaced ? "all" : isRated || (select && isPlaced) ? "part" : "none";
      const missing = [isRated ? "" : "not rated", isPlaced ? "" : "no place"].filter(Boolean).join(", ");
      step.querySelector(".step-state").textContent = missing ? "" : "✓";
      step.title = `Output ${letter}: ${missing || "done"}`;
      step.setAttribute("aria-label", `Output ${letter}: ${missing || "done"}`);
    }
    const count = nav.dataset.steps === "rated" ? `${rated} of ${steps.length} rated` : `${rated} of ${steps.length} rated, ${placed} placed`;
    nav.querySelector("[data-steps-count]").textContent = count;
  };
}

function countWords(line) {
  const box = document.getElementById(line.dataset.countWords);
  const text = box.value.trim();
  const count = text ? text.split(/\s+/).length : 0;
  line.textContent = count === 1 ? "1 word" : `${count} words`;
}

/** "One more example": a copy of the last pair, empty, with the next number. */
function addPair(button, list) {
  const last = list.lastElementChild;
  const next = Number(last.dataset.pair) + 1;
  const copy = last.cloneNode(true);
  copy.dataset.pair = String(next);
  copy.querySelector("legend").textContent = `Example ${next}`;
  for (const problem of copy.querySelectorAll(".problem")) problem.remove();
  for (const area of copy.querySelectorAll("textarea")) {
    const name = area.name.replace(/\d+/, String(next));
    copy.querySelector(`label[for="${area.id}"]`).htmlFor = `f-${name}`;
    area.id = `f-${name}`;
    area.name = name;
    area.value = "";
    area.removeAttribute("aria-describedby");
    area.removeAttribute("aria-invalid");
  }
  list.append(copy);
  button.hidden = next >= Number(list.dataset.most);
  return copy;
}

/** A draft may have more examples than the page shows. */
function makeRoom(fields) {
  if (!pairs) return;
  const numbers = Object.keys(fields).map((name) => Number(/^pair\.(\d+)\./.exec(name)?.[1] ?? 0));
  while (Number(pairs.lastElementChild.dataset.pair) < Math.min(Math.max(...numbers), Number(pairs.dataset.most))) {
    addPair(morePairs, pairs);
  }
}

for (const element of document.querySelectorAll("[data-without-script]")) element.hidden = true;
const layout = form.querySelector("[data-layout]");
// In a workspace each text scrolls by itself; elsewhere a long one is folded.
if (!layout.classList.contains("workspace")) document.querySelectorAll("[data-fold]").forEach(fold);
const section = form.querySelector("[data-board]");
const ranking = section ? startRanking(section, form) : null;
if (!finished) startOutputs(form, layout, ranking);
const showSteps = stepsOf();
const showProblems = takeBackProblems();
const words = [...form.querySelectorAll("[data-count-words]")];
const pairs = form.querySelector("[data-pairs]");
const morePairs = form.querySelector("[data-more-pairs]");
morePairs?.addEventListener("click", (event) => {
  event.preventDefault();
  addPair(morePairs, pairs).querySelector("textarea").focus();
});

/** Remove the message about a missing field, beside it and above, as soon as its content changes. */
function takeBackProblems() {
  const box = document.getElementById("problem");
  const all = [...(box?.querySelectorAll(".missing a") ?? [])].map((link) => ({ link, name: link.hash.slice("#f-".length) }));
  const valueOf = (name) => new FormData(form).get(name) ?? "";
  const before = new Map(all.map(({ name }) => [name, valueOf(name)]));
  return () => {
    const solved = all.filter(({ link, name }) => link.isConnected && valueOf(name).trim() && valueOf(name) !== before.get(name));
    for (const { link, name } of solved) {
      link.closest("li").remove();
      document.getElementById(`e-${name}`)?.remove();
      document.getElementById(`f-${name}`)?.removeAttribute("aria-invalid");
    }
    if (!solved.length) return;
    const count = all.filter(({ link }) => link.isConnected).length;
    box.removeAttribute("role"); // an alert would be read out again, whole, at each step
    box.querySelector("strong").textContent = count === 1 ? "One thing is missing." : `${count} things are missing.`;
    box.hidden = count === 0;
  };
}

function showAll() {
  ranking?.show();
  showSteps();
  words.forEach(countWords);
}

// The whole comparison would be too long for a screen reader: its first line gives the result.
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.target.id === "comparison") say(event.target.querySelector("p").textContent.trim());
});
document.addEventListener("htmx:sendError", () => say("Not connected: the outputs cannot be compared now."));
form.addEventListener("change", showSteps);
form.addEventListener("change", showProblems);
form.addEventListener("input", showProblems);
form.addEventListener("input", () => words.forEach(countWords));
if (finished) forget(form.dataset.assignment);
else startDrafts(form, { makeRoom, onFilled: showAll });
showAll();
// Read the problem aloud and move to it.
document.getElementById("problem")?.focus({ preventScroll: false });
