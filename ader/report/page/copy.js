// What is shown, as text for a paper, a note or a spreadsheet: as ader.report.renderers has it.

const LATEX_RANKS = ["", "\\textbf", "\\underline", "\\textit"];
const MARKDOWN_RANKS = [["", ""], ["**", "**"], ["<u>", "</u>"], ["*", "*"]];
const SIGNS = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "`": "\\textasciigrave{}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "{": "\\{", "}": "\\}" };

/** Columns and cells in words: `{columns, ranks, sections, lines(sign): [[text]], raw: [[text]]}`. */
function shownTable() {
  const { columns, list } = view();
  const sets = new Set(list.map((row) => row.board)).size > 1 && state.grouped === "1";
  const own = sets ? [columns[0], ...COLUMNS.filter((column) => ["dataset", "setting"].includes(column.key)), ...columns.slice(1)] : columns;
  const rank = ranks(list, columns);
  const withDeviation = (column) => column.deviation && list.some((row) => column.deviation(row) !== null);
  return {
    columns: own.map((column) => ({ heading: column.heading, group: column.group ?? "", right: column.kind !== "text", deviation: withDeviation(column) })),
    ranks: list.map((row) => own.map((column) => rank.get(row)[column.key]?.place ?? 0)),
    sections: list.map((row, place) => sets && place > 0 && list[place - 1].board !== row.board),
    lines: (sign) => list.map((row) => own.map((column) => {
      const deviation = column.deviation?.(row) ?? null;
      return column.text(row) + (deviation === null ? "" : ` ${sign} ${percent(deviation)}`);
    })),
    raw: list.map((row) => own.flatMap((column) => {
      const value = column.value(row);
      const deviation = column.deviation?.(row);
      return [value === null ? "" : String(value), ...(withDeviation(column) ? [deviation === null ? "" : String(deviation)] : [])];
    })),
  };
}

const escapedLatex = (text) => [...text].map((sign) => SIGNS[sign] ?? sign).join("").replaceAll("±", "$\\pm$").replaceAll("--", "-{}-").replaceAll("--", "-{}-");

function asLatex(table) {
  const cell = (text) => (/^[[*]/.test(text) ? `{${escapedLatex(text)}}` : escapedLatex(text));
  const marked = (text, rank) => (LATEX_RANKS[rank] ? `${LATEX_RANKS[rank]}{${cell(text)}}` : cell(text));
  const row = (texts, own = []) => `${texts.map((text, place) => marked(text, own[place])).join(" & ")} \\\\`;
  const spans = [];
  for (const { group } of table.columns) {
    const last = spans[spans.length - 1];
    if (last && group && last.group === group) last.count += 1;
    else spans.push({ group, count: 1 });
  }
  const lines = [`\\begin{tabular}{${table.columns.map((column) => (column.right ? "r" : "l")).join("")}}`, "\\toprule"];
  if (spans.some(({ group }) => group)) {
    lines.push(`${spans.map(({ group, count }) => (group ? `\\multicolumn{${count}}{c}{${escapedLatex(group)}}` : "{}")).join(" & ")} \\\\`);
    let first = 1;
    for (const { group, count } of spans) {
      if (group) lines.push(`\\cmidrule(lr){${first}-${first + count - 1}}`);
      first += count;
    }
  }
  lines.push(row(table.columns.map((column) => column.heading)), "\\midrule");
  table.lines("±").forEach((texts, place) => {
    if (table.sections[place]) lines.push("\\midrule");
    lines.push(row(texts, table.ranks[place]));
  });
  return [...lines, "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

const escapedMarkdown = (text) => text
  .replace(/[\\`*|[\]]|(?<![\p{L}\p{N}])_|_(?![\p{L}\p{N}])/gu, (sign) => `\\${sign}`)
  .replace(/&(?=#?\w+;)/g, "&amp;").replaceAll("<", "&lt;").replaceAll("\n", "<br>");

const joined = (column) => `${column.group} ${column.heading}`.trim();

function asMarkdown(table) {
  const cells = table.lines("+-").map((texts, line) => texts.map((text, place) => {
    const [begin, end] = MARKDOWN_RANKS[table.ranks[line][place]] ?? MARKDOWN_RANKS[0];
    return begin + escapedMarkdown(text) + end;
  }));
  const lines = [table.columns.map((column) => escapedMarkdown(joined(column))), ...cells];
  const length = (text) => [...text].length;
  const widths = table.columns.map((_, place) => Math.max(3, ...lines.map((texts) => length(texts[place]))));
  const padded = lines.map((texts) => texts.map((text, place) => {
    const room = " ".repeat(widths[place] - length(text));
    return table.columns[place].right ? room + text : text + room;
  }));
  const rule = widths.map((width, place) => (table.columns[place].right ? `${"-".repeat(width - 1)}:` : "-".repeat(width)));
  return `${[padded[0], rule, ...padded.slice(1)].map((cells) => `| ${cells.join(" | ")} |`).join("\n")}\n`;
}

function asCsv(table) {
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const head = table.columns.flatMap((column) => [joined(column), ...(column.deviation ? [`${joined(column)} deviation`] : [])]);
  return `${[head, ...table.raw].map((texts) => texts.map(quoted).join(",")).join("\n")}\n`;
}

const FORMS = { latex: asLatex, markdown: asMarkdown, csv: asCsv };

/** Without a permission, or a page that is a file, the old way. */
async function toClipboard(content) {
  try {
    await navigator.clipboard.writeText(content);
  } catch {
    const area = el("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = content;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) throw new Error("refused");
  }
}

function setUpCopy() {
  for (const button of document.querySelectorAll("[data-copy]"))
    button.addEventListener("click", async () => {
      const table = shownTable();
      $("copy").open = false;
      $("copy").querySelector("summary").focus();
      try {
        await toClipboard(FORMS[button.dataset.copy](table));
        say(`Copied ${plural(table.raw.length, "row")}: ${button.textContent}`);
      } catch {
        say("The browser does not let this page copy.");
      }
    });
}
