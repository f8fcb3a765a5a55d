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

// The page after a submit says whose answer the server has: its copy here is no longer needed.
const done = new URLSearchParams(location.search).get("done");
if (done !== null) {
  forget(done);
  // A reload or a bookmark need not say it again.
  history.replaceState(history.state, "", location.pathname + location.hash);
}

// Who logs out may leave the machine to somebody else.
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
