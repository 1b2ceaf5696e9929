// One run: its table per category, curves, gallery, and where every number comes from.

let details = null;

/** Parsed when the first run is opened: most of the page's size is here. */
function detailOf(number) {
  details ??= JSON.parse($("details").textContent);
  return details.runs[number];
}

function drawRun(id) {
  const number = data.runs.findIndex((run) => run.id === id);
  const run = data.runs[number];
  const target = $("run");
  if (!run) {
    target.replaceChildren(crumbs(null), el("h1", { id: "run-title", tabindex: -1, text: "No such run" }), el("p", { text: `This page has no run ${id}.` }));
    return;
  }
  document.title = `${run.method} on ${run.dataset}`;
  const heading = el("h1", { id: "run-title", tabindex: -1, text: `${run.method} on ${run.dataset}` });
  const place = el("p", { class: "quiet" }, el("code", { text: id }));
  const detail = detailOf(number);
  if (!detail) {
    target.replaceChildren(crumbs(run), heading, place, el("p", { class: "notice", text: `${run.state}: ${run.reason}` }));
    return;
  }
  const parts = [crumbs(run), heading, place, cautions(run), tiles(run), categoryTable(detail), gaps(detail), plots(detail), figures(detail), gallery(detail), el("h2", { text: "Where these numbers come from" }), provenance(run, detail)];
  target.replaceChildren(...parts.filter(Boolean));
  target.querySelectorAll("table").forEach(walkable);
}

function crumbs(run) {
  const list = view().list.flatMap((row) => row.runs);
  const at = run ? list.findIndex((each) => each.id === run.id) : -1;
  const to = (other, text) => (other ? el("a", { href: `#run=${encodeURIComponent(other.id)}`, text, title: other.id }) : null);
  const back = el("a", { href: boardHash() || "#", text: "← All results" });
  return el("nav", { class: "crumbs", "aria-label": "Runs" }, back, at < 0 ? null : el("span", {}, to(list[at - 1], "Previous"), to(list[at + 1], "Next")));
}

function cautions(run) {
  if (!run.cautions.length) return null;
  return el("div", { class: "notice", role: "note" }, el("strong", { text: "Cautions" }), el("ul", {}, ...run.cautions.map((text) => el("li", { text }))));
}

/** The means that the leaderboard shows at first. */
function tiles(run) {
  const shown = metrics.filter((metric) => metric.chosen);
  return el("ul", { class: "tiles", "aria-label": "Means over categories" }, ...shown.map(({ place, slug, label }) => {
    const value = run.mean[place];
    const tile = el("li", {}, el("span", { text: label }), el("b", { text: value === null ? "-" : percent(value) }));
    return explain(tile, value === null ? run.why[slug] ?? "no value" : `${label}: ${100 * value} %`);
  }));
}

// --- Per category

function exactCell(detail, row, metric, reasons) {
  const value = detail.values[row][metric.place];
  const bound = detail.bounds?.[row]?.[metric.place] ?? null;
  const name = `${detail.rows[row]}, ${metric.label}`;
  if (value === null) return `${name}: ${reasons.get(`${row} ${metric.place}`) ?? "no value"}`;
  return `${name}: ${100 * value} %${bound === null ? "" : `\nexact to within ± ${Number((100 * bound).toPrecision(2))} points`}`;
}

function categoryTable(detail) {
  const reasons = new Map(detail.gaps.map(([row, place, text]) => [`${row} ${place}`, details.texts[text]]));
  const shown = metrics.filter((metric) => detail.values.some((values) => values[metric.place] !== null));
  const absent = metrics.filter((metric) => !shown.includes(metric));
  const table = el("table", { id: "categories" });
  let sorted = { key: "", down: false };
  const columns = [{ key: "category", heading: "category", kind: "text" }, ...shown.map((metric) => ({ ...metric, key: metric.slug, kind: "percent", title: metric.description }))];
  const draw = () => {
    const order = [...detail.rows.keys()].slice(0, -1);
    const column = columns.find((each) => each.key === sorted.key);
    if (column) {
      const value = (row) => (column.kind === "text" ? detail.rows[row] : detail.values[row][column.place]);
      order.sort((a, b) => {
        if (value(a) === null || value(b) === null) return (value(a) === null) - (value(b) === null);
        return (sorted.down ? -1 : 1) * (column.kind === "text" ? compare(value(a), value(b)) : value(a) - value(b));
      });
    }
    const line = (row) => el("tr", { class: row === detail.rows.length - 1 ? "mean" : null },
      el("th", { scope: "row", class: "first", text: detail.rows[row] }),
      ...shown.map((metric) => {
        const value = detail.values[row][metric.place];
        return explain(el("td", { class: value === null ? "num gap" : "num", text: value === null ? "-" : percent(value) }), exactCell(detail, row, metric, reasons));
      }));
    const focused = document.activeElement?.dataset?.sort;
    table.replaceChildren(el("caption", { class: "hidden", text: "All metrics by category, in percent" }),
      heads(columns, sorted, (chosen) => {
        sorted = { key: chosen.key, down: sorted.key === chosen.key ? !sorted.down : chosen.kind === "percent" && chosen.higher };
        draw();
      }),
      el("tbody", {}, ...order.map(line)), el("tbody", {}, line(detail.rows.length - 1)));
    if (focused) table.querySelector(`[data-sort="${focused}"]`)?.focus();
    walkable(table);
  };
  draw();
  const certified = certainty(detail);
  const without = absent.length ? `Undefined everywhere and left out: ${absent.map((metric) => metric.label).join(", ")}.` : "";
  return el("section", { "aria-labelledby": "categories-title" }, el("h2", { id: "categories-title", text: "By category" }),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "categories-title" }, table),
    el("p", { class: "quiet", text: `Percent. ${certified}${without}` }));
}

/** How many values have a bound, and the widest, in words. */
function certainty(detail) {
  const known = detail.values.flatMap((values, row) => values.map((value, place) => [value, detail.bounds?.[row]?.[place] ?? null])).filter(([value]) => value !== null);
  const bounds = known.map(([, bound]) => bound).filter((bound) => bound !== null);
  if (!bounds.length) return "";
  const which = bounds.length === known.length ? "Every value is" : `${bounds.length} of ${known.length} values are`;
  return `${which} certified to lie within ± ${Number((100 * Math.max(...bounds)).toPrecision(2))} points of the exact one; each cell says how near. `;
}

function gaps(detail) {
  if (!detail.why.length) return null;
  const most = 8;
  const where = (names) => names.slice(0, most).join(", ") + (names.length > most ? ` and ${names.length - most} more` : "");
  return el("details", { class: "more" }, el("summary", { text: "Why values are missing" }),
    el("dl", {}, ...detail.why.flatMap(([reason, names]) => [el("dt", { text: where(names) }), el("dd", { text: reason })])));
}

// --- Curves of the image scores

const WIDTH = 340, HEIGHT = 240, LEFT = 44, BOTTOM = 34, TOP = 8;
const X = (share) => LEFT + share * (WIDTH - LEFT - 8);
const Y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);

function frame(label, bottom, side, marks, ...content) {
  const words = [
    svg("text", { x: X(0.5), y: HEIGHT - 4, "text-anchor": "middle" }, bottom),
    svg("text", { x: -Y(0.5), y: 11, transform: "rotate(-90)", "text-anchor": "middle" }, side),
    ...marks.map(([x, y, text]) => svg("text", { x, y, "text-anchor": y > Y(0) ? "middle" : "end" }, text)),
  ];
  const axes = svg("path", { class: "axis", d: `M${X(0)} ${Y(1)}V${Y(0)}H${X(1)}` });
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, ...content, axes, ...words);
}

function rocPlot({ roc }, label) {
  const points = [];
  for (let at = 0; at < roc.length; at += 2) points.push(`${X(roc[at] / 1000)} ${Y(roc[at + 1] / 1000)}`);
  const ticks = [0, 0.5, 1].flatMap((share) => [[X(share), Y(0) + 14, percent(share, 0)], [X(0) - 5, Y(share) + 4, percent(share, 0)]]);
  return frame(label, "false positive rate (%)", "true positive rate (%)", ticks,
    svg("path", { class: "area", d: `M${points.join("L")}L${X(1)} ${Y(0)}Z` }),
    svg("path", { class: "chance", d: `M${X(0)} ${Y(0)}L${X(1)} ${Y(1)}` }),
    svg("path", { class: "curve", d: `M${points.join("L")}` }));
}

function histogramPlot({ good, bad, low, high }, label) {
  const sums = [good, bad].map((bars) => bars.reduce((sum, count) => sum + count, 0));
  const shares = [good, bad].map((bars, kind) => bars.map((count) => (sums[kind] ? count / sums[kind] : 0)));
  const most = Math.max(...shares.flat(), 1e-9);
  const step = (X(1) - X(0)) / good.length;
  const bars = shares.flatMap((values, kind) => values.map((share, place) =>
    svg("rect", { class: kind ? "bar-bad" : "bar-good", x: X(0) + (place + (kind ? 0.5 : 0.04)) * step, width: 0.46 * step, y: Y(share / most), height: Y(0) - Y(share / most) })));
  const number = (value) => String(Number(value.toPrecision(3)));
  const marks = [[X(0) + 4, Y(0) + 14, number(low)], [X(1) - 8, Y(0) + 14, number(high)], [X(0) - 5, Y(1) + 8, percent(most, 0)], [X(0) - 5, Y(0) + 4, "0"]];
  return frame(label, "anomaly score of the image", "share of images (%)", marks, ...bars);
}

function plots(detail) {
  const names = detail.rows.filter((name) => detail.curves[name]);
  if (!names.length) return null;
  const select = el("select", { id: "curve-category" }, ...names.map((name) => el("option", { value: name, text: name })));
  const target = el("div", { class: "plots" });
  const auroc = metrics.find((metric) => metric.slug === "image_auroc");
  const draw = () => {
    const name = select.value;
    const curves = detail.curves[name];
    const [good, bad] = [curves.good, curves.bad].map((bars) => bars.reduce((sum, count) => sum + count, 0));
    const value = detail.values[detail.rows.indexOf(name)][auroc.place];
    const shown = value === null ? "undefined" : `${percent(value)} %`;
    const counts = `${grouped(good)} normal and ${grouped(bad)} defective images`;
    const histogram = el("figure", {}, histogramPlot(curves, `Histogram of the scores of ${counts} of ${name}`),
      el("figcaption", {}, el("span", { class: "key good" }), `normal (${grouped(good)})`, el("span", { class: "key bad" }), `defective (${grouped(bad)})`));
    const roc = curves.roc.length ? el("figure", {}, rocPlot(curves, `ROC curve of ${name}, AUROC ${shown}`), el("figcaption", { text: `ROC of the image scores, AUROC ${shown}` })) : null;
    target.replaceChildren(...[roc, histogram].filter(Boolean));
  };
  const worst = names.filter((name) => detail.values[detail.rows.indexOf(name)][auroc.place] !== null)
    .sort((a, b) => detail.values[detail.rows.indexOf(a)][auroc.place] - detail.values[detail.rows.indexOf(b)][auroc.place]);
  select.value = worst[0] ?? names[0];
  select.addEventListener("change", draw);
  draw();
  return el("section", { "aria-labelledby": "curves-title" }, el("h2", { id: "curves-title", text: "Image scores" }),
    el("p", {}, el("label", { class: "field" }, "Category (the one with the lowest image AUROC stands first)", select)), target);
}

/** Those of ader figure that are made of this run alone. */
function figures(detail) {
  if (!detail.figures.length) return null;
  return el("section", { "aria-labelledby": "run-figures-title" }, el("h2", { id: "run-figures-title", text: "Figures" }),
    el("div", { class: "figures" }, ...detail.figures.map(({ title, src }) => el("figure", {}, el("img", { src, alt: title, loading: "lazy" }), el("figcaption", { text: title })))));
}

// --- Gallery

function gallery(detail) {
  if (!detail.gallery) return null;
  const { entries, fault, rule, left_out: left } = detail.gallery;
  const told = fault ? el("p", { class: "notice", text: fault }) : null;
  if (!entries.length) return told;
  const choice = (label, key) => {
    const names = [...new Set(entries.map((entry) => entry[key]))];
    return el("label", { class: "field" }, label, el("select", { "data-key": key }, el("option", { value: "", text: "all" }), ...names.map((name) => el("option", { value: name, text: name }))));
  };
  const list = el("ul", { class: "gallery" });
  const choices = el("div", { class: "filters" }, choice("Why", "why"), choice("Category", "category"));
  const draw = () => {
    const wanted = [...choices.querySelectorAll("select")].map((select) => [select.dataset.key, select.value]);
    const shown = entries.filter((entry) => wanted.every(([key, value]) => !value || entry[key] === value));
    list.replaceChildren(...shown.map(picture));
  };
  choices.addEventListener("change", draw);
  draw();
  return el("section", { "aria-labelledby": "gallery-title" }, el("h2", { id: "gallery-title", text: "Gallery" }),
    told, el("p", { class: "quiet", text: "Input, outline of the ground truth, anomaly map; one color scale per category." }), choices, list,
    el("p", { class: "quiet", text: [rule && `Colors: ${rule}.`, left && `${left} more pictures would have been too many.`].filter(Boolean).join(" ") }));
}

function picture({ src, category, defect, image, label, score, why }) {
  const kind = label ? `defective (${defect})` : "normal";
  const alt = `${category}, ${kind}, ${image}: input, ground truth outline and anomaly map`;
  return el("li", {}, el("figure", {}, el("img", { src, alt, loading: "lazy", decoding: "async" }),
    el("figcaption", {}, el("span", { class: "why", text: why }), ` ${category}, ${kind}, score ${score === null ? "-" : Number(score.toPrecision(4))} `, el("code", { text: image }))));
}

// --- Provenance

function terms(title, pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const shown = (value) => (value instanceof Node ? value : el("span", { text: String(value) }));
  return el("section", { class: "panel" }, el("h3", { text: title }), el("dl", {}, ...known.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", {}, shown(value))])));
}

const code = (text) => (text ? el("code", { text }) : null);
const spaced = (values) => Object.entries(values).map(([name, value]) => `${name} ${value ?? "-"}`).join(", ");

function commitOf(commit) {
  return commit ? el("span", {}, code(commit.sha), commit.dirty ? " with changes that are in no commit" : "") : "an installed package, no clone";
}

function provenance(run, detail) {
  const { commit, versions, hardware } = details.environments[detail.environment];
  const from = detail.evaluated_from;
  const { cost } = run;
  const panels = [
    terms("Made", [
      ["when", detail.time.replace("T", " ").replace("+00:00", " UTC")],
      ["command", code(`ader ${detail.command.join(" ")}`)],
      ["code", commitOf(commit)],
      ["versions", spaced(versions)],
      ["machine", [hardware.cpu, hardware.cores && plural(hardware.cores, "core"), ...hardware.gpus, hardware.cuda && `CUDA ${hardware.cuda}`, hardware.platform].filter(Boolean).join(", ")],
      ["seed", run.seed],
      ["evaluated from", from && el("span", {}, code(from.run), ` of ${from.time}, code ${from.commit?.sha ?? "installed"}`)],
    ]),
    terms("Data and configuration", [
      ["folder", code(detail.data_root)],
      ["images", spaced(detail.images)],
      ["content", code(detail.data_hash)],
      ["index", code(detail.index_hash)],
      ["configuration", code(detail.config_hash)],
      ["masks", detail.masks && `${grouped(detail.masks.files)} files, levels: ${detail.masks.rule} (asked for: ${detail.masks.wanted}), ${grouped(detail.masks.soft)} with soft edges`],
      ["maps of", detail.source && el("span", {}, `${detail.source.kind} `, code(detail.source.path), `, ${grouped(detail.source.files)} files, SHA-256 `, code(detail.source.sha256), ` over ${detail.source.sha256_of}`)],
    ]),
  ];
  if (cost.models) panels.push(terms("Cost", [
    ["networks", cost.models > 1 ? `${cost.models}; parameters and operations are of the largest` : null],
    ["parameters", `${grouped(cost.params)}, of which ${grouped(cost.trainable)} are trained`],
    ["MACs per image", grouped(cost.macs)],
    ["training", `${duration(cost.train_seconds)}, peak memory ${bytes(cost.train_bytes)}`],
    ["test", `${fixed(cost.test_rate, 1)} images per second, peak memory ${bytes(cost.test_bytes)}`],
  ]));
  for (const model of detail.models) panels.push(modelPanel(model));
  return el("div", {}, el("div", { class: "columns" }, ...panels), configuration(detail));
}

function modelPanel(model) {
  const weights = model.network.weights.map((each) => el("div", {}, `${each.name} from `, code(each.source), each.sha256 ? ", SHA-256 " : ", no checksum", code(each.sha256) ?? ""));
  const stages = Object.entries(model.training.stages).map(([name, stage]) => `${name} ${duration(stage.seconds)} (${fixed(stage.images_per_second, 1)} images/s)`);
  return terms(model.name === "all" ? "Model" : `Model: ${model.name}`, [
    ["weights before training", weights.length ? el("div", {}, ...weights) : "none"],
    ["checkpoint", el("span", {}, code(model.checkpoint.file), ", SHA-256 ", code(model.checkpoint.sha256))],
    ["stages", stages.join(", ")],
    ["processes", model.training.processes > 1 ? model.training.processes : null],
    ["evaluation", duration(model.prediction.evaluate_seconds)],
  ]);
}

function configuration(detail) {
  const pairs = [];
  for (let at = 0; at < detail.config.length; at += 2) pairs.push([details.texts[detail.config[at]], details.texts[detail.config[at + 1]]]);
  return el("details", { class: "more" }, el("summary", { text: `The whole configuration (${pairs.length} keys)` }),
    el("dl", {}, ...pairs.flatMap(([key, value]) => [el("dt", {}, el("code", { text: key })), el("dd", {}, el("code", { text: value }))])));
}
