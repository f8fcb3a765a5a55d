import assert from "node:assert/strict";
import test from "node:test";
import { WorkClock, clockTime, meaningOf, newerDraft, waitAfter } from "./draft-rules.js";

test("tries again after 2, 4, 8 ... at most 60 seconds", () => {
  assert.deepEqual([1, 2, 3, 4, 5, 6, 7, 50].map(waitAfter), [2, 4, 8, 16, 32, 60, 60, 60]);
});

test("the browser's draft is shown when the server has nothing that this browser did not know of", () => {
  const kept = { fields: { text: "x" }, version: 3, synced: false, attempts: ["sent"] };
  assert.equal(newerDraft(kept, { version: 3, content: "old" }), "browser");
  assert.equal(newerDraft(kept, { version: 4, content: "other" }), "both");
  assert.equal(newerDraft(kept, { version: 4, content: "sent" }), "browser");
  assert.equal(newerDraft({ ...kept, synced: true }, { version: 3, content: "old" }), "server");
  assert.equal(newerDraft(null, { version: 0, content: "" }), "server");
  assert.equal(newerDraft({ version: 9, synced: false }, { version: 0, content: "" }), "server");
  assert.equal(newerDraft({ fields: {}, version: 1, synced: false }, { version: 2, content: "" }), "both");
});

test("what an answer of the server means", () => {
  assert.deepEqual(
    [200, 401, 403, 404, 409, 422, 500, 502, 503, 429].map(meaningOf),
    ["saved", "signed out", "signed out", "conflict", "conflict", "refused", "unreachable", "unreachable", "busy", "unreachable"],
  );
});

test("seconds count only with the page in front and something done lately", () => {
  const clock = new WorkClock(10, 60);
  clock.tick(0, true);
  assert.equal(clock.tick(1, true), 10); // nothing was done yet
  clock.active(1);
  assert.equal(clock.tick(2, true), 11);
  assert.equal(clock.tick(3, false), 11); // another window is in front
  assert.equal(clock.tick(4, true), 12);
  assert.equal(clock.tick(3604, true), 12); // the machine slept
  clock.active(3604);
  for (let now = 3605; now <= 3700; now += 1) clock.tick(now, true);
  assert.equal(clock.seconds, 72); // idle after 60 seconds
});

test("clock time", () => {
  assert.equal(clockTime(new Date(2026, 1, 3, 4, 5, 6)), "04:05:06");
});
