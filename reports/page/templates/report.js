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
