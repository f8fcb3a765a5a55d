// Keys for outputs: letters go to an output, digits rate it, X opens its flags, O goes to the order, Ctrl+Enter submits.
// Keys that are characters work only while the focus is in the workspace, and never in a text box.

import { keyOf } from "./order.js";
import { say } from "./page.js";

export function startOutputs(form, layout, ranking) {
  const bodies = [...layout.querySelectorAll("[data-body]")];
  const letters = bodies.map((body) => body.dataset.body);

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.repeat) return;
    event.preventDefault();
    form.requestSubmit(document.querySelector("button.primary[form=task]"));
  });
  if (!bodies.length) return;

  function goTo(letter) {
    const body = bodies[letters.indexOf(letter)];
    body.focus({ preventScroll: true });
    body.closest(".output").scrollIntoView({ block: "nearest" });
  }

  function rate(letter, digit) {
    const input = form.querySelector(`input[name="${letter}.overall"][value="${digit}"]`);
    if (!input) return false;
    input.checked = true;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    say(`Output ${letter}: ${input.closest("label").textContent.trim()}`);
    return true;
  }

  function openFlags(output) {
    const box = output?.querySelector(".flag-box");
    if (!box) return false;
    box.open = true;
    box.querySelector("input").focus();
    return true;
  }

  /** Handle a key; returns whether it had a meaning here. */
  function act(key, target) {
    const output = target.closest(".output");
    const letter = output?.querySelector("[data-body]").dataset.body;
    const place = letters.indexOf(letter);
    if (key.length === 1 && letters.includes(key.toUpperCase())) return goTo(key.toUpperCase()) ?? true;
    if (letter && /^\d$/.test(key)) return rate(letter, key);
    if (letter && key === "x") return openFlags(output);
    if (key === "o" && ranking) return ranking.focus() ?? true;
    if (key === "s") {
      document.querySelector("[data-show-source]").click();
      return true;
    }
    const box = target.closest(".flag-box[open]");
    if (key === "Escape" && box) {
      box.open = false;
      return goTo(letter) ?? true;
    }
    if (target.type === "radio") return false; // arrows choose there
    if (key === "ArrowRight" && place < letters.length - 1) return goTo(letters[place + 1]) ?? true;
    if (key === "ArrowLeft" && place > 0) return goTo(letters[place - 1]) ?? true;
    return false;
  }

  layout.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest("textarea, select, [data-board]")) return;
    if (act(keyOf(event), event.target)) event.preventDefault();
  });

  function countFlags() {
    for (const mark of form.querySelectorAll("[data-flag-count]")) {
      const count = form.querySelectorAll(`input[name^="${mark.dataset.flagCount}.flag."]:checked`).length;
      mark.textContent = count ? `(${count})` : "";
    }
  }
  form.addEventListener("change", countFlags);
  countFlags();

  // Reading begins at the prompt; from there one key leads to each output.
  if (!document.querySelector("#problem, details.instructions[open]")) {
    layout.querySelector(".prompt-body")?.focus({ preventScroll: true });
    if (getComputedStyle(layout).display === "grid") window.scrollTo(0, form.getBoundingClientRect().top + window.scrollY);
  }
}
