// The board on which outputs are ordered: by dragging (mouse, pen, finger), by keys and by buttons.
// The select boxes under the outputs hold the order; the board only shows and changes them.

import { contradictionInWords, fromSelects, groupOf, inSigns, inWords, keyOf, makeOwn, moveDown, moveUp, placeBefore, placeIn, placeInWords, sameOrder, tieUp, toSelects, unplace } from "./order.js";
import { say } from "./page.js";

const DRAG_FROM = 6; // px: less is a click
const EDGE = 0.3; // share of a group's height at which an output goes between groups
const SCROLL_WITHIN = 70; // px from the window's edge
const BEGINNING = 160; // characters shown on a card

export function startRanking(section, form) {
  const board = section.querySelector(".board");
  const selects = [...form.querySelectorAll("select[data-place]")];
  const letters = selects.map((select) => select.dataset.place);
  const cards = new Map(letters.map((letter) => [letter, makeCard(letter)]));
  const disabled = form.dataset.finished === "yes";
  const undone = [];
  let chosen = letters[0];

  function read() {
    return fromSelects(Object.fromEntries(selects.map((select) => [select.dataset.place, select.value])));
  }

  function write(order) {
    const values = toSelects(order);
    for (const select of selects) select.value = values[select.dataset.place];
  }

  function makeCard(letter) {
    const card = document.createElement("div");
    card.className = "board-card";
    card.id = `card-${letter}`;
    card.setAttribute("role", "option");
    card.dataset.letter = letter;
    const [prefix, name, rating, text] = ["span", "strong", "span", "span"].map((tag) => document.createElement(tag));
    prefix.className = "visually-hidden";
    prefix.textContent = "Output ";
    name.textContent = letter;
    name.className = "letter";
    rating.className = "board-rating";
    text.className = "board-text";
    text.dir = "auto";
    const whole = form.querySelector(`[data-output="${letter}"]`)?.textContent.trim().replace(/\s+/g, " ") ?? "";
    text.textContent = whole.length > BEGINNING ? `${whole.slice(0, BEGINNING)} …` : whole;
    card.append(prefix, name, rating, text);
    return card;
  }

  function ratingOf(letter) {
    return form.querySelector(`input[name="${letter}.overall"]:checked`)?.value;
  }

  function row(index, of, group) {
    const element = document.createElement("div");
    element.className = "board-group";
    element.setAttribute("role", "group");
    element.dataset.index = String(index);
    const label = document.createElement("span");
    label.className = "board-label";
    label.setAttribute("aria-hidden", "true");
    const words = of === 1 ? "" : index === 0 ? "best" : index === of - 1 ? "worst" : "";
    label.textContent = words ? `${index + 1} · ${words}` : String(index + 1);
    element.setAttribute("aria-label", `Group ${index + 1} of ${of}${words ? `, ${words}` : ""}${group.length > 1 ? ", tied" : ""}`);
    element.append(label, ...group.map((letter) => cards.get(letter)));
    return element;
  }

  function show() {
    const order = read();
    const active = document.activeElement;
    const rows = order.groups.map((group, index) => row(index, order.groups.length, group));
    if (order.unplaced.length) {
      const rest = document.createElement("div");
      rest.className = "board-group board-rest";
      rest.setAttribute("role", "group");
      rest.setAttribute("aria-label", "No place yet");
      const label = document.createElement("span");
      label.className = "board-label";
      label.setAttribute("aria-hidden", "true");
      label.textContent = "no place yet";
      rest.append(label, ...order.unplaced.map((letter) => cards.get(letter)));
      rows.push(rest);
    }
    board.replaceChildren(...rows);
    for (const letter of letters) {
      const card = cards.get(letter);
      const rating = ratingOf(letter);
      card.tabIndex = letter === chosen && !disabled ? 0 : -1;
      card.setAttribute("aria-selected", String(letter === chosen));
      card.querySelector(".board-rating").textContent = rating ? `${rating}/7` : "";
    }
    // A moved card loses the focus.
    if (active?.classList.contains("board-card") && document.activeElement !== active) active.focus({ preventScroll: true });
    section.querySelector("[data-chosen]").textContent = chosen;
    section.querySelector("[data-move=undo]").disabled = undone.length === 0;
    const output = document.querySelector("[data-order]");
    const missing = order.unplaced.length ? `${order.groups.length ? "; " : ""}no place yet: ${order.unplaced.join(", ")}` : "";
    output.textContent = inSigns(order) + missing;
    const hint = section.querySelector("[data-contradiction]");
    hint.textContent = contradictionInWords(order, Object.fromEntries(letters.map((letter) => [letter, ratingOf(letter)])));
    hint.hidden = hint.textContent === "";
    output.setAttribute("aria-label", inWords(order) + missing);
  }

  function choose(letter, { focus = true } = {}) {
    chosen = letter;
    show();
    if (focus) {
      cards.get(letter).focus({ preventScroll: true });
      cards.get(letter).scrollIntoView({ block: "nearest" });
    }
  }

  function apply(order, letter) {
    const before = read();
    if (sameOrder(before, order)) {
      say(`${placeInWords(before, letter)} Nothing moved.`);
      return;
    }
    undone.push(before);
    write(order);
    show();
    say(placeInWords(order, letter));
    cards.get(letter).scrollIntoView({ block: "nearest" });
    form.dispatchEvent(new Event("change", { bubbles: true }));
  }

  function undo() {
    const before = undone.pop();
    if (!before) return;
    write(before);
    show();
    say(`Undone. ${inWords(before)}`);
    form.dispatchEvent(new Event("change", { bubbles: true }));
  }

  const moves = { up: moveUp, down: moveDown, tie: tieUp, own: makeOwn, out: unplace };

  function move(name) {
    if (disabled) return;
    if (name === "undo") undo();
    else apply(moves[name](read(), chosen), chosen);
  }

  function step(by) {
    const order = read();
    const row = [...order.groups.flat(), ...order.unplaced];
    choose(row[Math.min(row.length - 1, Math.max(0, row.indexOf(chosen) + by))]);
  }

  const keys = {
    ArrowUp: () => move("up"),
    ArrowDown: () => move("down"),
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    t: () => move("tie"),
    "=": () => move("tie"),
    o: () => move("own"),
    Delete: () => move("out"),
    Backspace: () => move("out"),
    u: () => move("undo"),
    Home: () => apply(placeBefore(read(), chosen, 0), chosen),
    End: () => apply(placeBefore(read(), chosen, read().groups.length), chosen),
  };

  board.addEventListener("keydown", (event) => {
    if (disabled || event.altKey || event.ctrlKey || event.metaKey) return;
    const key = keyOf(event);
    if (keys[key]) {
      keys[key]();
    } else if (letters.includes(key.toUpperCase()) && key.length === 1) {
      choose(key.toUpperCase());
      say(placeInWords(read(), chosen));
    } else if (key === "Escape" && !drag) {
      document.getElementById(`body-${chosen}`)?.focus();
    } else if (/^[1-9]$/.test(key)) {
      const order = read();
      const index = Number(key) - 1;
      apply(index < order.groups.length ? placeIn(order, chosen, index) : placeBefore(order, chosen, order.groups.length), chosen);
    } else {
      return;
    }
    event.preventDefault();
  });
  board.addEventListener("focusin", (event) => {
    const letter = event.target.dataset?.letter;
    if (letter && letter !== chosen) choose(letter, { focus: false });
  });
  for (const button of section.querySelectorAll("[data-move]")) {
    button.disabled = disabled;
    button.addEventListener("click", () => move(button.dataset.move));
  }
  for (const select of selects) {
    select.addEventListener("change", () => {
      // The browser has changed the box already and the old order is gone, so undo starts again.
      undone.length = 0;
      choose(select.dataset.place, { focus: false });
      say(placeInWords(read(), select.dataset.place));
    });
  }
  form.addEventListener("change", (event) => {
    if (event.target.name?.endsWith(".overall")) show();
  });

  // ---- dragging

  let drag = null; // { letter, card, ghost, x, y, target }

  function targetAt(x, y) {
    const groups = [...board.querySelectorAll(".board-group")];
    const box = board.getBoundingClientRect();
    if (x < box.left - 40 || x > box.right + 40 || y < box.top - 40 || y > box.bottom + 40) return null;
    const placed = groups.filter((group) => !group.classList.contains("board-rest"));
    if (!placed.length) {
      const rest = groups[0].getBoundingClientRect();
      return y < rest.top + rest.height / 2 || drag.started ? { kind: "before", index: 0, row: groups[0] } : null;
    }
    for (const [index, row] of placed.entries()) {
      const { top, bottom, height } = row.getBoundingClientRect();
      if (y < top + height * EDGE) return { kind: "before", index, row };
      if (y <= bottom - height * EDGE) return { kind: "in", index, row };
      if (y <= bottom + 4) return { kind: "before", index: index + 1, row, after: true };
    }
    const rest = groups.at(-1);
    if (rest.classList.contains("board-rest") && y > rest.getBoundingClientRect().top + 8) return { kind: "out", row: rest };
    return { kind: "before", index: placed.length, row: placed.at(-1), after: true };
  }

  function mark(target) {
    for (const row of board.querySelectorAll(".board-group")) row.classList.remove("drop-in", "drop-before", "drop-after");
    if (!target) return;
    target.row.classList.add(target.kind === "before" ? (target.after ? "drop-after" : "drop-before") : "drop-in");
  }

  function begin() {
    const box = drag.card.getBoundingClientRect();
    drag.started = true;
    drag.ghost = drag.card.cloneNode(true);
    drag.ghost.removeAttribute("id");
    drag.ghost.classList.add("board-ghost");
    drag.ghost.setAttribute("aria-hidden", "true");
    drag.ghost.style.inlineSize = `${box.width}px`;
    document.body.append(drag.ghost);
    drag.card.classList.add("dragged");
    board.classList.add("dragging");
    scrollAtEdges();
  }

  function follow(x, y) {
    drag.lastX = x;
    drag.lastY = y;
    drag.ghost.style.transform = `translate(${x - 24}px, ${y - 24}px)`;
    drag.target = targetAt(x, y);
    mark(drag.target);
  }

  function scrollAtEdges() {
    if (!drag?.started) return;
    const over = drag.lastY - (window.innerHeight - SCROLL_WITHIN);
    const under = SCROLL_WITHIN - drag.lastY;
    if (over > 0 || under > 0) {
      window.scrollBy(0, over > 0 ? Math.min(12, over / 4) : -Math.min(12, under / 4));
      follow(drag.lastX, drag.lastY);
    }
    requestAnimationFrame(scrollAtEdges);
  }

  function end(drop) {
    if (!drag) return;
    const { letter, card, ghost, target, started } = drag;
    drag = null;
    ghost?.remove();
    card.classList.remove("dragged");
    board.classList.remove("dragging");
    mark(null);
    if (!started || !drop || !target) return;
    const order = read();
    if (target.kind === "out") apply(unplace(order, letter), letter);
    else if (target.kind === "in") apply(placeIn(order, letter, target.index), letter);
    else apply(placeBefore(order, letter, target.index), letter);
  }

  board.addEventListener("pointerdown", (event) => {
    const card = event.target.closest(".board-card");
    if (!card || disabled || event.button !== 0 || drag) return;
    event.preventDefault(); // no text selection, no native drag
    choose(card.dataset.letter);
    drag = { letter: card.dataset.letter, card, x: event.clientX, y: event.clientY, lastX: event.clientX, lastY: event.clientY, id: event.pointerId };
    board.setPointerCapture(event.pointerId);
  });
  board.addEventListener("pointermove", (event) => {
    if (!drag || event.pointerId !== drag.id) return;
    if (!drag.started && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < DRAG_FROM) return;
    if (!drag.started) begin();
    follow(event.clientX, event.clientY);
  });
  board.addEventListener("pointerup", (event) => { if (drag?.id === event.pointerId) end(true); });
  board.addEventListener("pointercancel", () => end(false));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") end(false); });

  show();
  return { show, focus: () => choose(chosen), groupOf: (letter) => groupOf(read(), letter) };
}
