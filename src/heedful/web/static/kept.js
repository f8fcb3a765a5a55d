// What this browser keeps of unfinished answers until the server has them: one entry per task in localStorage.
// { fields, version, changed, synced, attempts }: what is in the form; the server's draft it follows; when it was changed (ms);
// whether the server has it; what was sent without an answer coming back.

const PREFIX = "heedful.draft.";

export function load(assignment) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + assignment));
  } catch {
    return null; // storage is switched off, or holds something else
  }
}

/** Whether it could be kept. */
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

// After a submit, the server's page names the task whose answer it has: the copy here is no longer needed.
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
