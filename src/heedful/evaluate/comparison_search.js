"use strict";
const box = document.getElementById("search");
const said = document.getElementById("found");
const all = [...document.querySelectorAll("details.transcript")];
const texts = all.map((one) => one.textContent.toLowerCase());
function search() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  all.forEach((one, place) => {
    const fits = words.every((word) => texts[place].includes(word));
    one.hidden = !fits;
    count += fits;
  });
  said.textContent = words.length ? `${count} of ${all.length} prompts` : `${all.length} prompts`;
}
box.addEventListener("input", search);
search();
