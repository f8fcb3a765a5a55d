// The order of outputs in groups, best first: pure functions, no page. ranking.js shows their results.
//
// An order is { groups: [["B"], ["A", "C"]], unplaced: ["D"] }: letters name outputs; letters in one group are tied.
// Every function returns a new order and does not change its argument; an impossible move returns an equal order.

/** The order in the select boxes: { A: "2", B: "1", C: "2", D: "" }. Gaps between numbers are closed. */
export function fromSelects(values) {
  const byNumber = new Map();
  const unplaced = [];
  for (const letter of Object.keys(values).sort()) {
    const number = Number.parseInt(values[letter], 10);
    if (!Number.isInteger(number) || number < 1) {
      unplaced.push(letter);
    } else if (byNumber.has(number)) {
      byNumber.get(number).push(letter);
    } else {
      byNumber.set(number, [letter]);
    }
  }
  const numbers = [...byNumber.keys()].sort((a, b) => a - b);
  return { groups: numbers.map((number) => byNumber.get(number)), unplaced };
}

/** The values for the select boxes: the number of each output's group, 1 for the best; "" if it has no place yet. */
export function toSelects(order) {
  const values = {};
  order.groups.forEach((group, index) => {
    for (const letter of group) values[letter] = String(index + 1);
  });
  for (const letter of order.unplaced) values[letter] = "";
  return values;
}

/** Index of the output's group, or -1 if it has no place yet. */
export function groupOf(order, letter) {
  return order.groups.findIndex((group) => group.includes(letter));
}

function without(order, letter) {
  return {
    groups: order.groups.map((group) => group.filter((other) => other !== letter)),
    unplaced: order.unplaced.filter((other) => other !== letter),
  };
}

function tidy(order) {
  return {
    groups: order.groups.filter((group) => group.length > 0).map((group) => [...group].sort()),
    unplaced: [...order.unplaced].sort(),
  };
}

function insertAlone(order, letter, index) {
  const rest = without(order, letter);
  rest.groups.splice(index, 0, [letter]);
  return tidy(rest);
}

/** One step better: out of a tie to just above it, else past the group above. Without a place: a place at the end. */
export function moveUp(order, letter) {
  const index = groupOf(order, letter);
  if (index < 0) return insertAlone(order, letter, order.groups.length);
  if (order.groups[index].length > 1) return insertAlone(order, letter, index);
  return insertAlone(order, letter, Math.max(index - 1, 0));
}

/** One step worse: out of a tie to just below it, else past the group below. Without a place: a place at the end. */
export function moveDown(order, letter) {
  const index = groupOf(order, letter);
  if (index < 0) return insertAlone(order, letter, order.groups.length);
  if (order.groups[index].length > 1) return insertAlone(order, letter, index + 1);
  return insertAlone(order, letter, index + 2);
}

/** Tied with the group above; without a place: with the last group. */
export function tieUp(order, letter) {
  const index = groupOf(order, letter);
  if (index < 0) {
    return order.groups.length ? placeIn(order, letter, order.groups.length - 1) : insertAlone(order, letter, 0);
  }
  return index === 0 ? tidy(order) : placeIn(order, letter, index - 1);
}

/** Out of its tie, on its own just below it. */
export function makeOwn(order, letter) {
  const index = groupOf(order, letter);
  if (index < 0) return insertAlone(order, letter, order.groups.length);
  return order.groups[index].length > 1 ? insertAlone(order, letter, index + 1) : tidy(order);
}

/** Tied with the group at this index (as the groups stand now). */
export function placeIn(order, letter, index) {
  if (!order.groups[index]) return tidy(order);
  const rest = without(order, letter);
  rest.groups[index].push(letter);
  return tidy(rest);
}

/** On its own before the group at this index (as the groups stand now); their number: after the last. */
export function placeBefore(order, letter, index) {
  return insertAlone(order, letter, index);
}

/** Taken out of the order. */
export function unplace(order, letter) {
  const rest = without(order, letter);
  rest.unplaced.push(letter);
  return tidy(rest);
}

/**
 * The intended key, whatever the keyboard layout: a Latin letter or digit as printed, else by its position
 * (on a Russian keyboard the key at B is "b", on a French one the top row gives digits without Shift).
 */
export function keyOf(event) {
  if (event.key.length > 1 || /^[a-z0-9=]$/i.test(event.key)) return event.key.length > 1 ? event.key : event.key.toLowerCase();
  const place = /^(?:Key([A-Z])|Digit(\d)|Numpad(\d))$/.exec(event.code ?? "");
  return place ? (place[1]?.toLowerCase() ?? place[2] ?? place[3]) : event.key;
}

/** Pairs on which the order and the ratings disagree: [better in the order, better in the ratings]. */
export function contradictions(order, ratings) {
  const pairs = [];
  order.groups.forEach((group, index) => {
    for (const better of group) {
      for (const worse of order.groups.slice(index + 1).flat()) {
        if (ratings[better] && ratings[worse] && Number(ratings[better]) < Number(ratings[worse])) pairs.push([better, worse]);
      }
    }
  });
  return pairs;
}

/** The page's message about them, or "". */
export function contradictionInWords(order, ratings) {
  const pairs = contradictions(order, ratings);
  if (!pairs.length) return "";
  const [better, worse] = pairs[0];
  const more = pairs.length > 1 ? ` (and ${pairs.length - 1} more such ${pairs.length > 2 ? "pairs" : "pair"})` : "";
  return `${better} is above ${worse}, but you rated ${better} ${ratings[better]} and ${worse} ${ratings[worse]}${more}. Is that what you mean?`;
}

export function sameOrder(a, b) {
  return JSON.stringify(tidy(a)) === JSON.stringify(tidy(b));
}

/** "A = C > B": best first, = tied, > better than. */
export function inSigns(order) {
  return order.groups.map((group) => group.join(" = ")).join(" > ");
}

function list(letters) {
  if (letters.length < 2) return letters.join("");
  return `${letters.slice(0, -1).join(", ")} and ${letters[letters.length - 1]}`;
}

/** For screen readers: "A and C tied, better than B". */
export function inWords(order) {
  return order.groups.map((group) => (group.length > 1 ? `${list(group)} tied` : group[0])).join(", better than ");
}

/** What a screen reader says about an output's place after a move. */
export function placeInWords(order, letter) {
  const index = groupOf(order, letter);
  if (index < 0) return `${letter} has no place yet.`;
  const others = order.groups[index].filter((other) => other !== letter);
  const end = index === 0 ? ", best" : index === order.groups.length - 1 ? ", worst" : "";
  const tied = others.length ? `, tied with ${list(others)}` : "";
  const left = order.unplaced.length ? ` ${order.unplaced.length} without a place.` : "";
  return `${letter}: group ${index + 1} of ${order.groups.length}${end}${tied}.${left}`;
}
