"use strict";
// Sorting: a click on a header, or Enter on its button. Cells may name their value in data-value.
function sortBy(button) {
  const header = button.closest("th");
  const body = header.closest("table").tBodies[0];
  const column = header.cellIndex;
  const down = header.getAttribute("aria-sort") === "ascending";
  const value = (row) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" || Number.isNaN(number) ? text.toLowerCase() : number;
  };
  const order = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a < b ? -1 : a > b ? 1 : 0;
  };
  const rows = [...body.rows].map((row) => [value(row), row]);
  rows.sort((a, b) => (down ? -1 : 1) * order(a[0], b[0]));
  body.append(...rows.map(([, row]) => row));
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
}
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button));
}

// The ledger's filters.
const filters = document.querySelector(".filters");
function applyFilters() {
  const verdicts = new Set(
    [...filters.querySelectorAll("input:checked")].map((input) => input.value)
  );
  const source = filters.querySelector("select").value;
  let shown = 0;
  for (const row of document.querySelectorAll("#ledger tbody tr")) {
    row.hidden = !verdicts.has(row.dataset.verdict) || (source && row.dataset.source !== source);
    shown += !row.hidden;
  }
  filters.querySelector("output").textContent = `${shown} shown`;
}
if (filters) {
  filters.addEventListener("change", applyFilters);
  applyFilters();
}

// A printed page shows all numbers.
window.addEventListener("beforeprint", () => {
  for (const element of document.querySelectorAll("details:not(#ledger *)")) element.open = true;
});
