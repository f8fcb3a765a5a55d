// Unfinished answers that this browser keeps until the server has them: one entry per task in localStorage.
// { fields, version, changed, synced, attempts }: the form's fields; the server's draft that it follows; when it was changed
// (ms); whether the server has it; what was sent without an answer.

const PREFIX = "heedful.draft.";

export function load(assignment) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + assignment));
  } catch {
    return null; // storage is switched off, or holds something else
  }
}

/** Returns whether the browser could keep it. */
export function keep(assignment, entry) {
  try {
    localStorage.setItem(PREFIX + assignment, JSON.stringify(entry));
    return true;
  } catch {
    return false; // full, or switched off
  }
}

export function forget(assignment) {
  try {
    localStorage.removeItem(PREFIX + assignment);
  } catch {
    // Nothing was kept then.
  }
}

export function all() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).map((key) => key.slice(PREFIX.length));
  } catch {
    return [];
  }
}

// After a submit, the server's page names the task whose answer it has: this copy is no longer needed.
if (document.body.dataset.done) forget(document.body.dataset.done);

// After a logout, another person may use this browser.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || new URL(event.target.action, location.href).pathname !== "/logout") return;
  const unsent = all().filter((assignment) => load(assignment)?.synced === false);
  const question = "This browser holds work that the server does not have yet. Log out and lose it?";
  if (unsent.length && !window.confirm(question)) {
    event.preventDefault();
    return;
  }
  all().forEach(forget);
});
