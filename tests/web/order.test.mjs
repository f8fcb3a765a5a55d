import assert from "node:assert/strict";
import test from "node:test";
import * as order from "./order.js";

const ABCDE = { groups: [["A"], ["B", "C"], ["D"]], unplaced: ["E"] };

test("select boxes to order: gaps are closed, nonsense has no place", () => {
  assert.deepEqual(order.fromSelects({ A: "7", B: "2", C: "7", D: "", E: "x", F: "0" }), {
    groups: [["B"], ["A", "C"]],
    unplaced: ["D", "E", "F"],
  });
});

test("an order goes to select boxes and back", () => {
  assert.deepEqual(order.toSelects(ABCDE), { A: "1", B: "2", C: "2", D: "3", E: "" });
  assert.deepEqual(order.fromSelects(order.toSelects(ABCDE)), ABCDE);
});

test("up: out of a tie, past the group above, stays at the top", () => {
  assert.equal(order.inSigns(order.moveUp(ABCDE, "C")), "A > C > B > D");
  assert.equal(order.inSigns(order.moveUp(ABCDE, "D")), "A > D > B = C");
  assert.equal(order.inSigns(order.moveUp(ABCDE, "A")), "A > B = C > D");
  assert.equal(order.inSigns(order.moveUp(ABCDE, "E")), "A > B = C > D > E");
});

test("down: out of a tie, past the group below, stays at the bottom", () => {
  assert.equal(order.inSigns(order.moveDown(ABCDE, "B")), "A > C > B > D");
  assert.equal(order.inSigns(order.moveDown(ABCDE, "A")), "B = C > A > D");
  assert.equal(order.inSigns(order.moveDown(ABCDE, "D")), "A > B = C > D");
});

test("tie with the one above", () => {
  assert.equal(order.inSigns(order.tieUp(ABCDE, "D")), "A > B = C = D");
  assert.equal(order.inSigns(order.tieUp(ABCDE, "B")), "A = B > C > D");
  assert.equal(order.inSigns(order.tieUp(ABCDE, "A")), "A > B = C > D");
  assert.equal(order.inSigns(order.tieUp(ABCDE, "E")), "A > B = C > D = E");
  assert.equal(order.inSigns(order.tieUp({ groups: [], unplaced: ["A", "B"] }, "B")), "B");
});

test("own group, a given place, out of the order", () => {
  assert.equal(order.inSigns(order.makeOwn(ABCDE, "B")), "A > C > B > D");
  assert.equal(order.inSigns(order.makeOwn(ABCDE, "A")), "A > B = C > D");
  assert.equal(order.inSigns(order.placeIn(ABCDE, "A", 2)), "B = C > A = D");
  assert.equal(order.inSigns(order.placeIn(ABCDE, "A", 9)), "A > B = C > D");
  assert.equal(order.inSigns(order.placeBefore(ABCDE, "D", 0)), "D > A > B = C");
  assert.equal(order.inSigns(order.placeBefore(ABCDE, "A", 3)), "B = C > D > A");
  assert.deepEqual(order.unplace(ABCDE, "A"), { groups: [["B", "C"], ["D"]], unplaced: ["A", "E"] });
});

test("no function changes its argument", () => {
  const before = JSON.stringify(ABCDE);
  for (const move of [order.moveUp, order.moveDown, order.tieUp, order.makeOwn, order.unplace]) {
    for (const letter of "ABCDE") move(ABCDE, letter);
  }
  for (const letter of "ABCDE") {
    order.placeIn(ABCDE, letter, 1);
    order.placeBefore(ABCDE, letter, 1);
  }
  assert.equal(JSON.stringify(ABCDE), before);
});

test("any moves in any order keep every output exactly once and no group empty", () => {
  let state = { groups: [], unplaced: [..."ABCDEFG"] };
  let seed = 7;
  const random = (n) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor((seed / 2147483648) * n);
  };
  const moves = [
    order.moveUp,
    order.moveDown,
    order.tieUp,
    order.makeOwn,
    order.unplace,
    (s, l) => order.placeIn(s, l, random(8)),
    (s, l) => order.placeBefore(s, l, random(8)),
  ];
  for (let i = 0; i < 3000; i += 1) {
    state = moves[random(moves.length)](state, "ABCDEFG"[random(7)]);
    assert.deepEqual([...state.groups.flat(), ...state.unplaced].sort(), [..."ABCDEFG"]);
    assert.ok(state.groups.every((group) => group.length > 0));
    assert.deepEqual(order.fromSelects(order.toSelects(state)), state);
  }
});

test("any order can be reached from any other by the keys alone", () => {
  const seen = new Set();
  const open = [{ groups: [], unplaced: [..."ABC"] }];
  while (open.length) {
    const state = open.pop();
    const key = JSON.stringify(state);
    if (seen.has(key)) continue;
    seen.add(key);
    for (const letter of "ABC") {
      for (const move of [order.moveUp, order.moveDown, order.tieUp, order.makeOwn, order.unplace]) open.push(move(state, letter));
    }
  }
  // Weak orders of 0, 1, 2, 3 of three outputs: 1 + 3*1 + 3*3 + 13.
  assert.equal(seen.size, 26);
});

test("in signs and in words", () => {
  const five = { groups: [["A", "C"], ["B"], ["D", "E", "F"]], unplaced: [] };
  assert.equal(order.inSigns(five), "A = C > B > D = E = F");
  assert.equal(order.inWords(five), "A and C tied, better than B, better than D, E and F tied");
  assert.equal(order.placeInWords(five, "C"), "C: group 1 of 3, best, tied with A.");
  assert.equal(order.placeInWords(five, "B"), "B: group 2 of 3.");
  assert.equal(order.placeInWords(ABCDE, "D"), "D: group 3 of 3, worst. 1 without a place.");
  assert.equal(order.placeInWords(ABCDE, "E"), "E has no place yet.");
});

test("a key is what is printed on it, or where it is", () => {
  assert.equal(order.keyOf({ key: "B", code: "KeyB" }), "b");
  assert.equal(order.keyOf({ key: "и", code: "KeyB" }), "b"); // Russian
  assert.equal(order.keyOf({ key: "a", code: "KeyQ" }), "a"); // French: the letter shown on the page
  assert.equal(order.keyOf({ key: "é", code: "Digit2" }), "2"); // French, without Shift
  assert.equal(order.keyOf({ key: "٣", code: "Digit3" }), "3"); // Arabic
  assert.equal(order.keyOf({ key: "ArrowUp", code: "ArrowUp" }), "ArrowUp");
  assert.equal(order.keyOf({ key: "=", code: "Equal" }), "=");
});

test("an order that the ratings contradict is noticed", () => {
  const given = { groups: [["B"], ["A", "C"]], unplaced: ["D"] };
  assert.deepEqual(order.contradictions(given, { A: "5", B: "3", C: "3", D: "7" }), [["B", "A"]]);
  assert.deepEqual(order.contradictions(given, { A: undefined, B: "3", C: "2" }), []);
  assert.equal(order.contradictionInWords(given, { A: "5", B: "3", C: "2" }), "B is above A, but you rated B 3 and A 5. Is that what you mean?");
  assert.match(order.contradictionInWords(given, { A: "5", B: "3", C: "4" }), /and A 5 \(and 1 more such pair\)/);
  assert.equal(order.contradictionInWords(given, { A: "1", B: "3", C: "2" }), "");
});
