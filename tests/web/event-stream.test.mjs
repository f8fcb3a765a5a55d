import assert from "node:assert/strict";
import { test } from "node:test";
import { parser } from "./event-stream.js";

test("events cut anywhere are put together", () => {
  const whole = 'data: {"text": "a\\n b"}\n\ndata: {"text": "é🐋"}\n\n: a comment\n\ndata: {"state": "finished"}\n\n';
  for (let cut = 0; cut <= whole.length; cut += 1) {
    const parse = parser();
    const events = [...parse(whole.slice(0, cut)), ...parse(whole.slice(cut))];
    assert.deepEqual(events, [{ text: "a\n b" }, { text: "é🐋" }, { state: "finished" }]);
  }
});
