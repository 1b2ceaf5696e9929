// What all parts of the page use: elements, numbers in words, the tip, keyboard in tables.
// Names come from data: they are only ever set as text, never as markup.

const $ = (id) => document.getElementById(id);

/** An element: attributes, then children (texts or elements). `class`, `text` and `on*` are what one expects. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** As Python's format: what lies exactly between two decimals goes to the even one. */
function fixed(value, digits) {
  const step = 2 ** digits;
  const tie = Number.isInteger(value * 2 * step) && !Number.isInteger(value * step);
  if (!tie) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below % 2 === 0 ? below : below + 1) / 10 ** digits).toFixed(digits);
}

const percent = (value, digits = 1) => fixed(100 * value, digits);
const grouped = (value) => Math.round(value).toLocaleString("en-US");

/** A large number with a prefix: 94.7 M. */
function short(value) {
  for (const [size, sign] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (value >= size) return `${fixed(value / size, 1)} ${sign}`;
  return String(value);
}

function bytes(value) {
  for (const [size, sign] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (value >= size) return `${fixed(value / size, 1)} ${sign}`;
  return `${value} B`;
}

function duration(seconds) {
  if (seconds < 60) return `${fixed(seconds, 1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

const plural = (count, name, names = `${name}s`) => `${count} ${count === 1 ? name : names}`;
const compare = (a, b) => a.localeCompare(b, "en", { numeric: true });

// --- The tip: exact values and reasons, on hover, focus or tap

const tip = $("tip");

/** Gives a cell a tip; it can be reached with the arrow keys. */
function explain(cell, text) {
  cell.exact = text;
  cell.tabIndex = -1;
  return cell;
}

function showTip(cell) {
  tip.textContent = cell.exact;
  tip.hidden = false;
  const box = cell.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.right - tip.offsetWidth), innerWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 6}px`;
  cell.setAttribute("aria-describedby", "tip");
}

function hideTip() {
  tip.hidden = true;
}

function explained(target) {
  for (let each = target; each instanceof Element; each = each.parentElement) if (each.exact) return each;
  return null;
}

for (const kind of ["pointerover", "focusin", "click"])
  document.addEventListener(kind, (event) => {
    const cell = explained(event.target);
    if (cell) showTip(cell);
    else hideTip();
  });
document.addEventListener("scroll", hideTip, { capture: true, passive: true });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});

/** One cell of a table can be reached with Tab, the others from there with the arrow keys. */
function walkable(table) {
  const lines = [...table.tBodies].flatMap((body) => [...body.rows]).map((row) => [...row.cells].filter((cell) => cell.exact));
  const kept = lines.filter((line) => line.length);
  if (kept.length) kept[0][0].tabIndex = 0;
  table.onkeydown = (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const cell = event.target;
    if (!moves[event.key] || !cell.exact) return;
    const row = kept.findIndex((line) => line.includes(cell));
    const [down, right] = moves[event.key];
    const next = kept[row + down]?.[Math.min(kept[row].indexOf(cell) + right, kept[row + down].length - 1)];
    if (!next) return;
    event.preventDefault();
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
    showTip(next);
  };
}

function say(text) {
  const toast = $("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (toast.hidden = true), 4000);
}

/** What a phone hides: the first column says it there. */
const narrow = (column) => (["run", "seed"].includes(column.key) && column.chosen ? `col-${column.key}` : "");

/** Heads of a table: shared headings over their columns; a heading that can be sorted by is a button. */
function heads(columns, sorted, sortBy) {
  const two = columns.some((column) => column.group);
  const spans = [];
  for (const column of columns) {
    const last = spans[spans.length - 1];
    if (last && column.group && last.group === column.group) last.count += 1;
    else spans.push({ group: column.group, count: 1, column });
  }
  const above = spans.map(({ group, count, column }, place) =>
    group
      ? el("th", { class: "span", scope: "colgroup", colspan: count, text: group })
      : el("td", { class: place === 0 ? "first" : narrow(column) || null, colspan: count }),
  );
  const own = columns.map((column, place) => {
    const order = sorted?.key === column.key ? (sorted.down ? "descending" : "ascending") : "none";
    const label = [column.group, column.heading].filter(Boolean).join(" ");
    const content = sortBy
      ? el("button", { type: "button", class: "sort", title: column.title, text: column.heading, "aria-label": label, "data-sort": column.key, onclick: () => sortBy(column) })
      : el("span", { title: column.title, text: column.heading });
    const kinds = [place === 0 ? "first" : "", column.kind === "text" ? "" : "num", narrow(column)].join(" ").trim();
    return el("th", { scope: "col", class: kinds || null, "aria-sort": sortBy ? order : null }, content);
  });
  return el("thead", {}, two ? el("tr", { class: "groups" }, ...above) : null, el("tr", {}, ...own));
}
