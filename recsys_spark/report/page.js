"use strict";
const cellValue = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;

// A click on a heading sorts by it; a second click turns the order round. Cells without a value come last.
for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
  const up = head.ariaSort === "descending" || (!head.ariaSort && head.dataset.first === "up");
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const order = head.classList.contains("text")
    ? (a, b) => a.localeCompare(b, undefined, { numeric: true }) : (a, b) => Number(a) - Number(b);
  const compare = (one, other) => {
    const a = cellValue(one, column), b = cellValue(other, column);
    return a === "" || b === "" ? (a === "") - (b === "") : order(a, b) * (up ? 1 : -1);
  };
  body.append(...[...body.rows].sort(compare));
});

// TSV: full digits, the ends of an interval in columns of their own. Markdown: as it is read.
const read = (cell, head) => {
  if (head.classList.contains("text")) return cell.dataset.v ?? cell.textContent;
  const notes = [...cell.querySelectorAll("small")], text = [...cell.childNodes].filter(node => !notes.includes(node));
  const written = nodes => nodes.map(node => node.textContent.trim());
  return written(text).join(" ").trim() + (notes.length ? ` (${written(notes).join("; ")})` : "");
};
const parts = head => (head.dataset.parts ?? "").split(" ").filter(Boolean);
function asTsv(table) {
  const heads = [...table.tHead.rows[0].cells];
  const lines = [heads.flatMap(head => [head.textContent, ...parts(head).map(part => `${head.textContent} ${part}`)])];
  for (const row of table.tBodies[0].rows) {
    lines.push(heads.flatMap((head, n) => [cellValue(row, n), ...parts(head).map(part => row.cells[n].getAttribute(`data-${part}`) ?? "")]));
  }
  return lines.map(line => line.map(field => field.replace(/\s+/g, " ")).join("\t")).join("\n") + "\n";
}
function asMarkdown(table) {
  const heads = [...table.tHead.rows[0].cells], line = fields => `| ${fields.map(f => f.replace(/\|/g, "\\|")).join(" | ")} |`;
  const rule = heads.map(head => head.classList.contains("text") ? "---" : "---:");
  return [line(heads.map(head => head.textContent)), line(rule),
    ...[...table.tBodies[0].rows].map(row => line(heads.map((head, n) => read(row.cells[n], head))))].join("\n") + "\n";
}
function put(text) { // a page opened from disk has no clipboard interface in some browsers
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.body.appendChild(document.createElement("textarea"));
  area.value = text;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done ? Promise.resolve() : Promise.reject(new Error("copy"));
}
for (const line of document.querySelectorAll(".copy")) line.hidden = false;
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => {
  const table = button.closest(".table").querySelector("table"), label = button.textContent;
  const say = text => { button.textContent = text; setTimeout(() => { button.textContent = label; }, 1500); };
  put(button.dataset.copy === "tsv" ? asTsv(table) : asMarkdown(table)).then(() => say("copied"), () => say("could not copy"));
});
