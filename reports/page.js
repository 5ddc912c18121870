"use strict";

// A column's button sorts its table: numbers descending first, text ascending first, then the other way round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const column = head.cellIndex;
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const rows = [...body.rows];
    const numeric = rows.every((row) => key(row) === "" || Number.isFinite(Number(key(row))));
    const current = head.getAttribute("aria-sort");
    const ascending = current ? current === "descending" : !numeric;
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
      return ascending ? order : -order;
    });
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...rows);
  });
}

// Pictures open in their own size.
const dialog = document.querySelector("dialog");
const large = dialog.querySelector("img");
for (const picture of document.querySelectorAll("figure img")) {
  const open = () => {
    large.src = picture.currentSrc || picture.src;
    large.alt = picture.alt;
    dialog.showModal();
  };
  picture.tabIndex = 0;
  picture.addEventListener("click", open);
  picture.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open();
    }
  });
}
dialog.addEventListener("click", () => dialog.close());
