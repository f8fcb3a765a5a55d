// Keeps what is typed: in this browser at once, on the server a moment later, with retries until the server has it.
// The rules are in draft-rules.js, the entries in kept.js. The form works without any of this ("Save now" is a plain button).

import { forget, keep, load } from "./kept.js";
import { WorkClock, clockTime, holdsOurs, meaningOf, newerDraft, waitAfter } from "./draft-rules.js";
import { say } from "./page.js";

const SAVE_AFTER = 2000; // ms after a change
const ANSWER_WITHIN = 15000; // ms, then the server counts as out of reach
const MOST_ATTEMPTS = 12; // sent without a reply: more than fit into the time in which a late one may still be stored

/** What the form holds, as drafts are stored: names that begin with _ belong to the page, empty fields are left out. */
export function fieldsOf(form) {
  const fields = {};
  for (const [name, value] of new FormData(form)) {
    if (typeof value === "string" && value !== "" && !name.startsWith("_") && name !== "csrf") fields[name] = value;
  }
  return fields;
}

/** The same text for the same content, however it was typed; the time spent does not count as content. */
export function contentOf(fields) {
  const entries = Object.entries(fields).filter(([name]) => name !== "seconds_spent");
  return JSON.stringify(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Put fields into the form; empty the others. */
export function fill(form, fields) {
  for (const element of form.elements) {
    if (!element.name || element.name.startsWith("_") || element.name === "csrf") continue;
    if (element.type === "checkbox" || element.type === "radio") {
      element.checked = fields[element.name] === element.value;
    } else if (element.tagName === "TEXTAREA" || element.tagName === "SELECT" || element.type === "hidden") {
      element.value = fields[element.name] ?? "";
    }
  }
}

/** Start keeping drafts of a task's form. makeRoom: called with fields before they are filled in; onFilled: called after. */
export function startDrafts(form, { makeRoom, onFilled }) {
  const assignment = form.dataset.assignment;
  const line = document.getElementById("saved");
  const clock = new WorkClock(Number.parseFloat(form.elements.seconds_spent.value) || 0);
  let version = Number.parseInt(form.dataset.version, 10);
  let synced = contentOf(fieldsOf(form)); // content that the server has
  let attempts = [];
  let failures = 0;
  let timer = null;
  let running = null;
  let stopped = false;
  let loggedOut = false;
  let stored = true;

  function show(state, text) {
    if (line.dataset.state !== state && (state === "waiting" || line.dataset.state === "waiting" || state === "lost")) say(text);
    line.dataset.state = state;
    line.textContent = text;
  }

  function tell(text, button, action) {
    const box = document.getElementById("kept");
    const [paragraph, other] = [box.querySelector("p"), box.querySelector("button")];
    paragraph.textContent = text;
    other.hidden = !button;
    other.textContent = button ?? "";
    other.onclick = action ?? null;
    box.hidden = false;
  }

  const tick = () => clock.tick(performance.now() / 1000, document.visibilityState === "visible");

  function current() {
    tick();
    form.elements.seconds_spent.value = clock.seconds ? clock.seconds.toFixed(1) : "";
    return fieldsOf(form);
  }

  function keepHere(fields = current()) {
    const isSynced = contentOf(fields) === synced;
    if (isSynced) forget(assignment);
    else stored = keep(assignment, { fields, version, changed: Date.now(), synced: false, attempts });
    return isSynced;
  }

  function plan(wait) {
    if (stopped || timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      save();
    }, wait);
  }

  function retry(why = "Not connected") {
    failures += 1;
    show("waiting", `${why}: ${stored ? "kept in this browser" : "keep this page open"}, trying again`);
    plan(waitAfter(failures) * 1000);
  }

  function stop(state, text) {
    stopped = true;
    clearTimeout(timer);
    timer = null;
    show(state, text);
  }

  /** Save now; resolves to "saved", "unreachable", "conflict", "refused" or "signed out". */
  function save(options = {}) {
    // One at a time: what changes in the meantime goes with the next request.
    running ??= send(options).finally(() => { running = null; });
    return running;
  }

  async function send({ keepalive = false }) {
    clearTimeout(timer);
    timer = null;
    const fields = current();
    const content = contentOf(fields);
    if (content === synced) {
      keepHere(fields);
      if (line.dataset.state === "waiting" || line.dataset.state === "saving") show("saved", `Saved ${clockTime(new Date())}`);
      return "saved";
    }
    attempts = [...attempts.filter((one) => one !== content), content].slice(-MOST_ATTEMPTS);
    keepHere(fields);
    if (line.dataset.state !== "waiting") show("saving", "Saving …");
    const body = new FormData(form);
    body.set("_version", String(version));
    let response = null;
    let answer = null;
    try {
      const headers = { Accept: "application/json" };
      const signal = AbortSignal.timeout(ANSWER_WITHIN);
      response = await fetch(form.dataset.draft, { method: "POST", body: new URLSearchParams(body), headers, keepalive, signal });
      if (response.headers.get("content-type")?.includes("json")) answer = await response.json();
    } catch {
      response = null; // no network, or no answer in time
    }
    const meaning = response === null || response.redirected ? "unreachable" : meaningOf(response.status);
    return learn(meaning, answer, content);
  }

  function learn(meaning, answer, content) {
    if (meaning === "saved" && answer) {
      failures = 0;
      attempts = [];
      synced = content;
      version = answer.version;
      form.elements._version.value = String(version);
      const box = document.getElementById("kept");
      if (box.querySelector("button").hidden) box.hidden = true; // what it told is over; an offer stays
      show("saved", `Saved ${clockTime(new Date(answer.saved * 1000))}`);
      if (!keepHere()) plan(SAVE_AFTER);
      return "saved";
    }
    if (meaning === "conflict") {
      if (answer?.fields && answer.state !== "answered" && holdsOurs(contentOf(answer.fields), attempts)) {
        // It arrived; only the answer was lost.
        version = answer.version;
        synced = contentOf(answer.fields);
        attempts = [];
        plan(0);
        return "unreachable";
      }
      stop("lost", "Not saved: this task is open, or was answered, in another tab");
      tell(
        answer?.message
          ? `${answer.message[0].toUpperCase()}${answer.message.slice(1)}. What you typed here stays in this browser until you decide: copy it, submit it, or load the page again.`
          : "This task is no longer yours to change. What you typed stays in this browser: copy what you need.",
      );
      return "conflict";
    }
    if (meaning === "signed out") {
      loggedOut = true;
      stop("lost", "Logged out: kept in this browser");
      tell("You were logged out, or logged in again. What you typed is kept in this browser: log in in another tab, then load this page again.");
      return "signed out";
    }
    if (meaning === "refused") {
      show("lost", "The server cannot store this text: kept in this browser");
      const why = answer?.expected ? `: it expects ${answer.expected}, and got ${answer.got}` : "";
      tell(`The server cannot store what you typed${why}. Change it, and it is saved again.`);
      return "refused";
    }
    retry(meaning === "busy" ? "The server is busy" : "Not connected");
    return "unreachable";
  }

  function changed() {
    if (!keepHere()) plan(SAVE_AFTER);
  }

  // ---- what the page shows at first: the server's draft, or one that only this browser has

  const before = load(assignment);
  if (form.dataset.refilled === "yes") {
    synced = null; // the form that was sent came back: it is newer than both
    history.replaceState(history.state, "", `/tasks/${assignment}`); // a reload then asks for the task and does not send the form again
    plan(SAVE_AFTER);
  } else if (before) {
    const here = fieldsOf(form);
    const mine = contentOf(before.fields ?? {});
    const choice = mine === contentOf(here) ? "same" : newerDraft(before, { version, content: contentOf(here) });
    if (choice === "browser") {
      makeRoom(before.fields);
      fill(form, before.fields);
      clock.seconds = Math.max(clock.seconds, Number.parseFloat(before.fields.seconds_spent) || 0);
      onFilled();
      show("waiting", "From this browser: the server does not have it yet");
      plan(0);
    } else if (choice === "both") {
      tell(
        `This browser kept another draft, from ${clockTime(new Date(before.changed))}. The page shows the newer one from the server.`,
        "Show the one from this browser",
        () => {
          makeRoom(before.fields);
          fill(form, before.fields);
          onFilled();
          document.getElementById("kept").hidden = true;
          changed();
        },
      );
    }
  }
  if (form.dataset.saved && line.dataset.state === "saved") {
    show("saved", `Saved ${clockTime(new Date(Number.parseFloat(form.dataset.saved) * 1000))}`);
  }

  // ---- events

  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  for (const name of ["keydown", "pointerdown", "pointermove", "scroll", "wheel"]) {
    document.addEventListener(name, () => clock.active(performance.now() / 1000), { passive: true, capture: true });
  }
  setInterval(tick, 1000);
  window.addEventListener("online", () => {
    failures = 0;
    clearTimeout(timer);
    timer = null;
    plan(0);
  });
  window.addEventListener("offline", () => {
    if (stopped) return;
    keepHere();
    show("waiting", "Not connected: kept in this browser, trying again");
    plan(waitAfter(failures) * 1000);
  });
  const leaving = () => {
    if (submitting || stopped) return;
    if (!keepHere()) save({ keepalive: true });
  };
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden") leaving(); });
  window.addEventListener("pagehide", leaving);
  window.addEventListener("beforeunload", (event) => {
    if (!submitting && !stored && contentOf(current()) !== synced) event.preventDefault();
  });

  // ---- submitting: only after reaching the server, so that a lost network never shows the browser's own error page

  let submitting = false;
  form.addEventListener("submit", async (event) => {
    if (submitting || event.defaultPrevented) return;
    event.preventDefault();
    const submitter = event.submitter;
    const action = submitter?.getAttribute("formaction") ?? form.getAttribute("action");
    keepHere();
    await new Promise((resolve) => setTimeout(resolve)); // a form cannot be submitted from within its own submit event
    if (running) await running;
    if (action === form.dataset.draft && submitter?.name !== "_more") {
      stopped = loggedOut = false;
      document.getElementById("kept").hidden = true;
      if (contentOf(current()) === synced) show("saved", `Saved ${clockTime(new Date())}`);
      else await save();
      return;
    }
    if (contentOf(current()) !== synced && !stopped) {
      await save();
      if (running) await running;
    } else if (!navigator.onLine) {
      retry();
    }
    if (line.dataset.state === "waiting") {
      tell("The server does not answer, so nothing was sent. What you typed is kept in this browser. When the line above says “Saved”, press the button again.");
    }
    if (line.dataset.state === "waiting" || loggedOut) {
      document.getElementById("kept").scrollIntoView({ block: "center" });
      return;
    }
    submitting = true;
    current();
    form.requestSubmit(submitter ?? undefined);
    // Make a page that came back from the browser's cache work again.
    window.addEventListener("pageshow", () => { submitting = false; }, { once: true });
  });

  return { changed, save };
}
