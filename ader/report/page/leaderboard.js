// The leaderboard: which runs are shown, as what, in which order; and the runs without a result.

const data = JSON.parse($("data").textContent);
const done = data.runs.filter((run) => run.state === "done");
const missing = data.runs.filter((run) => run.state !== "done");
const metrics = data.metrics.map((metric, place) => ({ ...metric, place, label: [metric.group, metric.heading].filter(Boolean).join(" ") }));

const DEFAULTS = { q: "", dataset: "", setting: "", method: "", seeds: "each", grouped: "1", heat: "", sort: "", columns: "" };
const state = { ...DEFAULTS };

/** Mean and sample deviation (divisor S - 1), both null where a value is missing. */
function spread(values) {
  if (values.some((value) => value === null || value === undefined)) return { value: null, deviation: null };
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { value: mean, deviation: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null };
}

const text = (key, heading, value, more = {}) => ({ key, heading, kind: "text", value, text: value, ...more });

function cost(key, heading, show, title) {
  const value = (row) => spread(row.runs.map((run) => run.cost[key] ?? null)).value;
  const shown = (row) => (value(row) === null ? "-" : show(value(row)));
  const exact = (row) => (value(row) === null ? "maps of another program: no cost is known" : `${value(row).toLocaleString("en-US", { maximumFractionDigits: 3 })}${title.unit}`);
  return { key, heading, group: "cost", kind: "cost", value, text: shown, exact, title: title.text, chosen: title.chosen ?? true };
}

function metric({ slug, heading, group, description, higher, place, chosen, label }) {
  const found = (row) => (row.found[place] ??= spread(row.runs.map((run) => run.mean[place])));
  return {
    key: slug, heading, group, kind: "percent", higher, chosen, label,
    title: `${description}${higher ? "" : " (lower is better)"}`,
    value: (row) => found(row).value,
    deviation: (row) => found(row).deviation,
    text: (row) => (found(row).value === null ? "-" : percent(found(row).value)),
    exact: (row) => exactOf(label, row, slug, found(row)),
  };
}

function exactOf(label, row, slug, { value, deviation }) {
  if (value === null) {
    const gap = row.runs.find((run) => run.why[slug]);
    return `${label}: ${gap ? gap.why[slug] : "no value"}${row.runs.length > 1 && gap ? ` (seed ${gap.seed})` : ""}`;
  }
  const mean = `${label}: ${100 * value} %`;
  return deviation === null ? mean : `${mean}\n± ${100 * deviation}, sample deviation of ${row.runs.length} seeds`;
}

const COLUMNS = [
  text("method", "method", (row) => row.method, { fixed: true }),
  text("dataset", "dataset", (row) => row.dataset, { chosen: true }),
  text("setting", "setting", (row) => row.setting, { chosen: false }),
  text("run", "run", (row) => (row.runs.length > 1 ? plural(row.runs.length, "run") : row.runs[0].run), { chosen: true, title: "folder of the run" }),
  { key: "seed", heading: "seed", kind: "count", chosen: true, value: (row) => (row.runs.length > 1 ? row.runs.length : row.runs[0].seed ?? null), text: (row) => seedsOf(row), title: "seed, or how many of them" },
  { key: "epochs", heading: "epochs", kind: "count", chosen: false, value: (row) => row.runs[0].epochs ?? null, text: (row) => String(row.runs[0].epochs ?? "-") },
  text("backbone", "backbone", (row) => row.runs[0].backbone ?? "-", { chosen: false }),
  text("profile", "evaluation", (row) => row.runs[0].profile ?? "-", { chosen: false, title: "how metrics were computed" }),
  ...metrics.map(metric),
  cost("params", "params", short, { text: "parameters of one network", unit: " parameters" }),
  cost("macs", "MACs", short, { text: "multiply-accumulates for one image", unit: " multiply-accumulates" }),
  cost("train_seconds", "train", duration, { text: "training time, all models together", unit: " s" }),
  cost("test_rate", "images/s", (value) => fixed(value, 1), { text: "test images per second", unit: " images/s" }),
  cost("train_bytes", "train mem.", bytes, { text: "peak memory of training", unit: " bytes" }),
  cost("test_bytes", "test mem.", bytes, { text: "peak memory of testing", unit: " bytes", chosen: false }),
];

const seedsOf = (row) => (row.runs.length > 1 ? `${row.runs.length}` : String(row.runs[0].seed ?? "-"));

function chosenColumns() {
  const names = state.columns ? new Set(state.columns.split(",")) : null;
  const inSets = state.grouped === "1";
  return COLUMNS.filter((column) => column.fixed || (names ? names.has(column.key) : column.chosen))
    .filter((column) => !(inSets && ["dataset", "setting"].includes(column.key)) && !(state.seeds === "mean" && column.key === "run"))
    .map((column) => (state.seeds === "mean" && column.key === "seed" ? { ...column, heading: "seeds" } : column));
}

/** What a search looks at. */
function wordsOf(run) {
  run.words ??= [run.dataset, run.setting, run.method, run.run, run.state, run.backbone, run.profile, run.recipe, run.trainer, `seed=${run.seed}`, `epochs=${run.epochs}`, run.reason, ...(run.cautions ?? [])].join(" ").toLowerCase();
  return run.words;
}

function isShown(run) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return ["dataset", "setting", "method"].every((key) => !state[key] || run[key] === state[key])
    && words.every((word) => wordsOf(run).includes(word));
}

/** One row per run, or per runs that differ only in their seed. */
function rows() {
  const shown = done.filter(isShown);
  const groups = new Map();
  for (const run of shown) {
    const key = state.seeds === "mean" ? `group ${run.group}` : run.id;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(run);
  }
  return [...groups.values()].map((runs) => ({ runs, found: [], dataset: runs[0].dataset, setting: runs[0].setting, method: runs[0].method, board: runs[0].board }));
}

function sorting(columns) {
  const [key, order] = state.sort.split(":");
  const column = columns.find((each) => each.key === key) ?? columns.find((each) => each.key === "mad") ?? columns[0];
  const down = order ? order === "down" : column.kind === "percent" && column.higher;
  return { key: column.key, column, down };
}

/** Gaps last, whichever way. */
function sort(list, { column, down }) {
  const sign = down ? -1 : 1;
  return list
    .map((row, place) => ({ row, place, value: column.value(row) }))
    .sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
      const order = typeof a.value === "string" ? compare(a.value, b.value) : a.value - b.value;
      return sign * order || a.place - b.place;
    })
    .map(({ row }) => row);
}

/** For each row and metric its place (1, 2, 3) and shade (0 to 6) among rows of the same board; equal values share. */
function ranks(list, columns) {
  const found = new Map(list.map((row) => [row, {}]));
  for (const board of new Set(list.map((row) => row.board))) {
    const rivals = list.filter((row) => row.board === board);
    for (const column of columns.filter((each) => each.kind === "percent")) {
      const values = rivals.map(column.value).filter((value) => value !== null);
      if (new Set(values).size < 2) continue;
      const [low, high] = [Math.min(...values), Math.max(...values)];
      for (const row of rivals) {
        const value = column.value(row);
        if (value === null) continue;
        const place = 1 + values.filter((other) => (column.higher ? other > value : other < value)).length;
        const share = (value - low) / (high - low);
        found.get(row)[column.key] = { place, shade: Math.round(6 * (column.higher ? share : 1 - share)) };
      }
    }
  }
  return found;
}

const PLACES = { 1: "best", 2: "second", 3: "third" };

function metricCell(row, column, rank) {
  const place = rank?.place <= 3 ? rank.place : 0;
  const shade = state.heat && rank?.shade ? ` h${rank.shade}` : "";
  const value = column.value(row);
  const deviation = column.deviation?.(row);
  const number = el("span", { class: place ? `rank${place}` : null, text: column.text(row) });
  const cell = el("td", { class: `num${shade}${value === null ? " gap" : ""}` }, number,
    deviation === null || deviation === undefined ? null : el("span", { class: "deviation", text: `± ${percent(deviation)}` }),
    place ? el("span", { class: "hidden", text: ` ${PLACES[place]}` }) : null);
  return explain(cell, column.exact(row));
}

function cellOf(row, column, place, rank) {
  if (place === 0) return firstCell(row);
  if (column.kind === "percent") return metricCell(row, column, rank);
  if (column.kind === "cost") return explain(el("td", { class: "num", text: column.text(row) }), column.exact(row));
  if (column.key === "run") return explain(el("td", { class: "col-run", text: column.text(row) }), row.runs.map((run) => run.run).join("\n"));
  return el("td", { class: `${column.kind === "text" ? "text" : "num"} ${narrow(column)}`.trim(), text: column.text(row) });
}

function firstCell(row) {
  const [run] = row.runs;
  const cautions = [...new Set(row.runs.flatMap((each) => each.cautions))];
  const label = `${row.method}, ${row.dataset}, ${row.setting}, ${row.runs.map((each) => each.run).join(", ")}`;
  const link = el("a", { href: `#run=${encodeURIComponent(run.id)}`, text: row.method, "aria-label": label });
  const flag = cautions.length ? explain(el("span", { class: "flag", role: "img", "aria-label": `Caution: ${cautions.join("; ")}`, text: "!" }), cautions.join("\n")) : null;
  const small = el("small", { "aria-hidden": "true", text: row.runs.length > 1 ? plural(row.runs.length, "seed") : run.run }); // on a phone, in place of columns
  return el("th", { scope: "row", class: "first" }, link, flag ? " " : null, flag, small);
}

function bodies(list, columns, rank) {
  const line = (row) => el("tr", {}, ...columns.map((column, place) => cellOf(row, column, place, rank.get(row)[column.key])));
  if (state.grouped !== "1") return [el("tbody", {}, ...list.map(line))];
  return data.boards
    .map((board, number) => ({ board, own: list.filter((row) => row.board === number) }))
    .filter(({ own }) => own.length)
    .map(({ board, own }) => {
      const name = el("span", { class: "name" }, el("strong", { text: `${board.dataset} / ${board.setting}` }), el("span", { class: "quiet", text: board.note }));
      return el("tbody", {}, el("tr", { class: "set" }, el("th", { scope: "rowgroup", colspan: columns.length }, name)), ...own.map(line));
    });
}

/** What is shown: columns, rows in their order and sets. Copies are made of the same. */
function view() {
  const columns = chosenColumns();
  const sorted = sorting(columns);
  const ordered = sort(rows(), sorted);
  const list = state.grouped === "1" ? data.boards.flatMap((_, number) => ordered.filter((row) => row.board === number)) : ordered;
  return { columns, sorted, list };
}

function drawLeaderboard() {
  const { columns, sorted, list } = view();
  const table = $("leaderboard");
  const focused = document.activeElement?.dataset?.sort;
  const caption = el("caption", { class: "hidden", text: `Results, sorted by ${sorted.column.label ?? sorted.column.heading}` });
  const content = list.length ? bodies(list, columns, ranks(list, columns)) : [el("tbody", {}, el("tr", {}, el("td", { class: "empty", colspan: columns.length, text: done.length ? "No result matches. Clear the search or a filter." : "There is no finished run yet." })))];
  table.replaceChildren(caption, heads(columns, sorted, sortBy), ...content);
  if (focused) table.querySelector(`[data-sort="${focused}"]`)?.focus();
  walkable(table);
  const runs = list.reduce((sum, row) => sum + row.runs.length, 0);
  $("shown").textContent = `${plural(runs, "run")} of ${done.length}${state.seeds === "mean" ? `, in ${plural(list.length, "row")}` : ""}`;
  for (const figure of document.querySelectorAll("#overview figure")) figure.hidden = Boolean(state.dataset && figure.dataset.dataset && figure.dataset.dataset !== state.dataset);
  drawUnfinished();
}

function sortBy(column) {
  const { sorted } = view();
  const natural = column.kind === "percent" && column.higher;
  const down = sorted.key === column.key ? !sorted.down : natural;
  change({ sort: `${column.key}:${down ? "down" : "up"}` });
}

function drawUnfinished() {
  const shown = missing.filter(isShown);
  $("unfinished-section").hidden = !missing.length;
  const names = ["method", "dataset", "setting", "run", "state", "reason"].map((key) => ({ key, heading: key, kind: "text" }));
  const lines = shown.map((run) => el("tr", {},
    el("th", { scope: "row", class: "first", text: run.method }),
    ...["dataset", "setting", "run"].map((key) => el("td", { class: "text", text: run[key] })),
    el("td", {}, el("span", { class: `state ${run.state}`, text: run.state })),
    el("td", { class: "text reason", text: run.reason })));
  if (!lines.length) lines.push(el("tr", {}, el("td", { class: "empty", colspan: 6, text: "None of these matches." })));
  $("unfinished").replaceChildren(el("caption", { class: "hidden", text: "Runs without a result, and why" }), heads(names), el("tbody", {}, ...lines));
}

// --- Filters

function change(values) {
  Object.assign(state, values);
  history.replaceState(null, "", boardHash() || location.pathname + location.search);
  drawLeaderboard();
}

function boardHash() {
  const given = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
  return given.length ? `#${new URLSearchParams(given)}` : "";
}

/** Sets filters as an address has them; what is no filter or no choice is left out. */
function restore(words) {
  Object.assign(state, DEFAULTS);
  for (const [key, value] of words) if (key in DEFAULTS) state[key] = value;
  if (state.seeds !== "mean") state.seeds = "each";
  for (const key of ["q", "dataset", "setting", "method", "seeds"]) $(key).value = state[key];
  for (const key of ["dataset", "setting", "method"]) if ($(key).value !== state[key]) state[key] = $(key).value = "";
  for (const key of ["grouped", "heat"]) $(key).checked = state[key] === "1";
  const shown = new Set(state.columns ? state.columns.split(",") : COLUMNS.filter((column) => column.chosen).map((column) => column.key));
  for (const box of document.querySelectorAll("#column-list input")) box.checked = shown.has(box.value);
}

function setUpFilters() {
  for (const key of ["dataset", "setting", "method"]) {
    const names = [...new Set(data.runs.map((run) => run[key]))].sort(compare);
    $(key).append(el("option", { value: "", text: "all" }), ...names.map((name) => el("option", { value: name, text: name })));
    $(key).addEventListener("change", (event) => change({ [key]: event.target.value }));
  }
  $("q").addEventListener("input", (event) => change({ q: event.target.value }));
  $("seeds").addEventListener("change", (event) => change({ seeds: event.target.value }));
  for (const key of ["grouped", "heat"]) $(key).addEventListener("change", (event) => change({ [key]: event.target.checked ? "1" : key === "heat" ? "" : "0" }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  const kinds = [["what it is", (column) => column.kind === "text" || column.kind === "count"], ["metrics", (column) => column.kind === "percent"], ["cost", (column) => column.kind === "cost"]];
  for (const [name, belongs] of kinds) {
    const boxes = COLUMNS.filter((column) => !column.fixed && belongs(column)).map((column) =>
      el("label", { title: column.title }, el("input", { type: "checkbox", value: column.key }), column.label ?? column.heading));
    $("column-list").append(el("fieldset", {}, el("legend", { text: name }), ...boxes));
  }
  $("column-list").addEventListener("change", () => {
    const boxes = [...document.querySelectorAll("#column-list input:checked")].map((box) => box.value);
    change({ columns: boxes.join(",") || "none" });
  });
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    const menu = document.querySelector("details.menu[open]");
    if (event.key === "Escape" && menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
}
