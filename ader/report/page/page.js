// Start, theme, and which of both views an address means: #run=... is a run, all else the leaderboard.

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  try {
    localStorage.setItem("ader-theme", theme);
  } catch {
    // a page that is a file may have no storage
  }
}

function storedTheme() {
  try {
    return localStorage.getItem("ader-theme");
  } catch {
    return null;
  }
}

let place = 0; // where the leaderboard was scrolled to, and which run was opened from it
let opened = "";

/** Shows what the address says. */
function route() {
  const words = new URLSearchParams(location.hash.slice(1));
  const id = words.get("run");
  hideTip();
  if (id === null) {
    const back = !$("run").hidden;
    $("run").hidden = true;
    $("overview").hidden = $("site").hidden = false;
    restore(words);
    drawLeaderboard();
    document.title = title;
    if (back) {
      scrollTo(0, place);
      [...$("leaderboard").querySelectorAll("a")].find((link) => link.hash === opened)?.focus({ preventScroll: true });
    }
    return;
  }
  if (!$("overview").hidden) place = scrollY;
  opened = location.hash;
  $("overview").hidden = $("site").hidden = true;
  $("run").hidden = false;
  drawRun(id);
  scrollTo(0, 0);
  $("run").querySelector("h1")?.focus({ preventScroll: true });
}

const title = document.title;
setTheme(THEMES.includes(storedTheme()) ? storedTheme() : "auto");
$("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % 3]));
setUpFilters();
setUpCopy();
addEventListener("hashchange", route);
route();
