// Without this script the page is complete; with it the columns of long tables can be sorted.
"use strict";

function value(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = Number.parseFloat(text.replaceAll(",", "").replace("−", "-"));
  return Number.isNaN(number) ? text : number;
}

function compare(one, other) {
  const numbers = [one, other].filter((value) => typeof value === "number").length;
  if (numbers === 2) return one - other;
  if (numbers === 1) return typeof one === "number" ? -1 : 1;
  return one.localeCompare(other);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") === "ascending";
      for (const each of headers) each.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((a, b) => compare(value(a, column), value(b, column)) * (descending ? -1 : 1));
      body.append(...rows);
    });
  });
}
