// The rules by which drafts are kept: pure functions, no page, no network. drafts.js follows them.

/** Seconds until the next try after this many failures in a row: 2, 4, 8 ... at most 60. */
export function waitAfter(failures) {
  return Math.min(60, 2 ** Math.max(1, failures));
}

/**
 * Which draft a reloaded page should show: "server", "browser", or "both" (the server's, with a notice about the other).
 *
 * browser: { fields, version, synced, attempts } as kept here, or null: version is the server's draft that it followed,
 * attempts is what was sent without an answer; server: { version, content }. The browser's draft is newer if the server has nothing
 * that this browser did not know.
 */
export function newerDraft(browser, server) {
  if (!browser || !browser.fields || browser.synced !== false) return "server";
  if (browser.version >= server.version || holdsOurs(server.content, browser.attempts ?? [])) return "browser";
  return "both";
}

/** Whether the server holds a draft that this page sent, but whose answer never came. */
export function holdsOurs(content, attempts) {
  return attempts.includes(content);
}

/** What the server's answer means for a draft. */
export function meaningOf(status) {
  if (status >= 200 && status < 300) return "saved";
  if (status === 401 || status === 403) return "signed out";
  if (status === 404 || status === 409 || status === 410) return "conflict";
  if (status === 413 || status === 422 || status === 400) return "refused";
  return status === 503 ? "busy" : "unreachable";
}

/**
 * Counts the seconds of work: the page is visible, and something was done in the last idleAfter seconds.
 * Call tick(now, visible) every second or so, and active(now) at each key, click or scroll; times in seconds.
 */
export class WorkClock {
  constructor(start = 0, idleAfter = 60) {
    this.seconds = start;
    this.idleAfter = idleAfter;
    this.lastActive = null;
    this.lastTick = null;
  }

  active(now) {
    this.lastActive = now;
  }

  tick(now, visible) {
    const before = this.lastTick;
    this.lastTick = now;
    if (before === null || !visible || this.lastActive === null) return this.seconds;
    // A gap of more than a few seconds means that the machine slept.
    if (now - before > 5 || now - this.lastActive > this.idleAfter) return this.seconds;
    this.seconds += Math.max(0, now - before);
    return this.seconds;
  }
}

/** "12:03:05" of a Date, in the labeler's own time. */
export function clockTime(date) {
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
}
