"use strict";

const form = document.getElementById("filters");
const tables = [...document.querySelectorAll("#results section:not(#provenance) table")].map((table) => ({
  table,
  heads: [...table.tHead.rows[0].cells],
  names: [...table.tHead.rows[0].cells].map((cell) => cell.textContent),
}));
const collator = new Intl.Collator("en", { numeric: true });

function chosen() {
  return [...form.querySelectorAll("select")].filter((select) => select.value);
}

/* A row stays if it has every chosen value; a column headed by a method that was not chosen goes. */
function filter() {
  const selects = chosen();
  let shown = 0;
  let all = 0;
  for (const { table, heads, names } of tables) {
    const wanted = selects.map((s) => [names.indexOf(s.name), s.value]).filter(([column]) => column >= 0);
    for (const row of table.tBodies[0].rows) {
      row.hidden = !wanted.every(([column, value]) => row.cells[column].textContent === value);
      shown += !row.hidden;
      all += 1;
    }
    const method = form.elements.namedItem("method");
    const methods = [...method.options].map((option) => option.value);
    heads.forEach((head, column) => {
      const hide = method.value !== "" && methods.includes(names[column]) && names[column] !== method.value;
      for (const row of table.rows) row.cells[column].hidden = hide;
      head.hidden = hide;
    });
  }
  document.getElementById("shown").value = selects.length ? `${shown} of ${all} rows shown` : "";
}

/* Numbers by value, whatever deviation follows them; words by the alphabet; a dash comes last. */
function value(text) {
  const number = Number.parseFloat(text.replaceAll(",", "").replace("−", "-"));
  return Number.isNaN(number) ? null : number;
}

function compare(a, b, sign) {
  if (a === "–" || b === "–") return (a === "–") - (b === "–");
  const [x, y] = [value(a), value(b)];
  return sign * (x === null || y === null || x === y ? collator.compare(a, b) : x - y);
}

function sort({ table, heads }, column) {
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [row.cells[column].textContent, row]);
  rows.sort(([a], [b]) => compare(a, b, descending ? -1 : 1));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const entry of tables) {
  entry.heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(entry, column));
    head.replaceChildren(button);
  });
}
form.hidden = false;
form.addEventListener("change", filter);
form.addEventListener("reset", () => setTimeout(filter));

/* Points of figures: the nearest one to the pointer shows its networks, and how to export them; a click keeps it. */
const tip = document.getElementById("tip");
const exporting = JSON.parse(document.getElementById("exports").textContent);
const NEAR = 14;
const MOST_SHOWN = 4;
let kept = null;

function line(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function hide() {
  tip.hidden = true;
  kept = null;
  document.querySelectorAll(".plot .mark").forEach((mark) => mark.remove());
}

function point(plot, [across, down, text, cells]) {
  document.querySelectorAll(".plot .mark").forEach((mark) => mark.remove());
  const mark = line("span", "");
  mark.className = "mark";
  mark.style.left = `${100 * across}%`;
  mark.style.top = `${100 * down}%`;
  plot.append(mark);
  const shown = cells.slice(0, MOST_SHOWN).map(([run, cell]) => line("code", `${exporting[run]} ${cell} --format safetensors`));
  const more = cells.length - MOST_SHOWN;
  tip.replaceChildren(line("p", text), ...shown, ...(more > 0 ? [line("p", `and ${more} more`)] : []));
  tip.hidden = false;
  const place = plot.getBoundingClientRect();
  const left = place.left + across * place.width + 12;
  tip.style.left = `${window.scrollX + Math.max(4, Math.min(left, window.innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${window.scrollY + place.top + down * place.height + 12}px`;
}

for (const plot of document.querySelectorAll(".plot")) {
  const source = plot.querySelector("script");
  if (!source) continue;
  const points = JSON.parse(source.textContent);
  let current = -1;
  const nearest = (event) => {
    const place = plot.getBoundingClientRect();
    const far = ([across, down]) => Math.hypot(place.left + across * place.width - event.clientX, place.top + down * place.height - event.clientY);
    let best = -1;
    points.forEach((each, number) => {
      if (far(each) <= NEAR && (best < 0 || far(each) < far(points[best]))) best = number;
    });
    return best;
  };
  plot.addEventListener("mousemove", (event) => {
    if (kept) return;
    const best = nearest(event);
    if (best === current && !tip.hidden) return;
    current = best;
    if (best < 0) hide();
    else point(plot, points[best]);
  });
  plot.addEventListener("mouseleave", () => {
    if (!kept) hide();
  });
  plot.addEventListener("click", (event) => {
    current = nearest(event);
    hide();
    if (current < 0) return;
    point(plot, points[current]);
    kept = plot;
  });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    current = (current + step + points.length) % points.length;
    point(plot, points[current]);
    kept = plot;
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
});
document.addEventListener("click", (event) => {
  if (kept && !kept.contains(event.target) && !tip.contains(event.target)) hide();
});
