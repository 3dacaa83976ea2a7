// Asks the server twice a second what was called and what ran, and shows it.
// Every text goes into the page as text: nothing that a task or a visitor wrote becomes HTML.

const EVERY_MS = 500;
const WINDOW_S = 30;
const ROWS = 40;
const LETTERS = 3;
const OUTCOMES = {
  ok: "✓ done",
  retry: "↻ tries again",
  failed: "✗ dead",
  running: "● running",
  waiting: "… waiting",
};

const $ = (id) => document.getElementById(id);
const stories = new Map([...document.querySelectorAll("[data-story]")].map((li) => [li.dataset.story, li]));
let newest = 0;
let older = false;

// --- small helpers ------------------------------------------------------------------------------

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, kind) {
  if (node.dataset.kind !== kind) node.dataset.kind = kind;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const ms = Math.max(0, seconds * 1000);
  if (ms < 1) return "< 1 ms";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

// Lists keep the nodes they have: focus, open details and selections stay where they are.
function keep(list, items, keyOf, build, update) {
  const known = new Map([...list.children].map((node) => [node.dataset.key, node]));
  const wanted = items.map((item) => {
    const key = String(keyOf(item));
    const node = known.get(key) ?? build(item);
    node.dataset.key = key;
    known.delete(key);
    update?.(node, item);
    return node;
  });
  known.forEach((node) => node.remove());
  wanted.forEach((node, place) => {
    if (list.children[place] !== node) list.insertBefore(node, list.children[place] ?? null);
  });
}

// --- asking and telling -------------------------------------------------------------------------

async function look() {
  const answer = await fetch("/state", { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.json();
}

async function press(button, path, form = {}) {
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(path, { method: "POST", body: new URLSearchParams(form) });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    await refresh();
  } catch (error) {
    complain(error);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

function complain(error) {
  mark($("server"), "failed");
  write($("server-text"), `No answer: is the demo still running? (${error.message})`);
}

let current = null;
async function refresh() {
  const mine = (current = {});
  const state = await look();
  if (mine === current) show(state);  // a later question may have been answered first
}

async function watch() {
  try {
    if (!document.hidden) await refresh();
  } catch (error) {
    complain(error);
  }
  setTimeout(watch, EVERY_MS);
}

// --- showing ------------------------------------------------------------------------------------

function show(state) {
  const runs = state.runs.map((run) => ({ ...run, kind: kindOf(run) }));
  showServer(state.server);
  showRuns(runs, state.now);
  showLanes(runs, state.server, state.now);
  showStories(runs, state);
  showDead(state.dead);
  showMail(state.mail, state.server.folder);
}

function kindOf(run) {
  if (run.outcome) return run.outcome;
  return run.started ? "running" : "waiting";
}

function showServer(server) {
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  mark($("server"), server.paused ? "paused" : "ok");
  write(
    $("server-text"),
    server.paused
      ? `Stopping: nothing new is taken, ${server.busy} in hand`
      : `uWSGI ${server.master} · ${count(server.workers.length, "worker")} · ` +
        `${count(server.spoolers.length, "spooler")} · 1 mule · ${server.busy} in hand`,
  );
  document.querySelectorAll(".folder").forEach((node) => write(node, server.folder));
}

function showRuns(runs, now) {
  const body = $("runs").tBodies[0];
  $("runs-empty").hidden = runs.length > 0;
  $("runs").hidden = runs.length === 0;
  const shown = older ? runs : runs.slice(-ROWS);
  $("older").hidden = shown.length === runs.length;
  keep(body, [...shown].reverse(), (run) => run.key, buildRow, (row, run) => updateRow(row, run, now));
  const last = runs.filter((run) => run.finished).reduce((a, b) => (b.finished > (a?.finished ?? 0) ? b : a), null);
  if (last && last.finished > newest) {
    if (newest) write($("news"), `${last.task}: ${OUTCOMES[last.kind].slice(2)}, try ${last.attempt}`);
    newest = last.finished;
  }
}

function buildRow() {
  const row = make("tr", "fresh");
  row.setAttribute("role", "row");
  for (const name of ["at", "task", "executor", "process", "try number", "waited number", "ran number", "outcome"]) {
    const cell = make("td", name);
    cell.setAttribute("role", "cell");
    row.append(cell);
  }
  row.cells[1].append(make("b"), make("small"));
  [["try", 4], ["waited", 5], ["ran", 6]].forEach(([label, place]) => (row.cells[place].dataset.label = label));
  return row;
}

function updateRow(row, run, now) {
  const [at, task, executor, process, attempt, waited, ran, outcome] = row.cells;
  write(at, clock(run.started ?? run.called));
  write(task.firstChild, run.task);
  write(task.lastChild, run.error ?? run.note ?? "");
  write(executor, run.executor);
  write(process, run.pid ? `${run.process} · ${run.pid}` : "–");
  write(attempt, String(run.attempt ?? "–"));
  write(waited, run.called ? duration((run.started ?? now) - run.called) : "–");
  write(ran, run.started ? duration((run.finished ?? now) - run.started) : "–");
  const due = run.kind === "waiting" && run.due > now ? `… in ${(run.due - now).toFixed(1)} s` : null;
  write(outcome, due ?? OUTCOMES[run.kind] ?? run.kind);
  mark(outcome, run.kind);
}

function showLanes(runs, server, now) {
  const names = new Map(server.spoolers.map((pid) => [`spooler ${pid}`, ["spooler", pid]]));
  const mule = runs.findLast((run) => run.process?.startsWith("mule"));
  names.set(`mule ${mule?.pid ?? ""}`, [mule?.process ?? "mule", mule?.pid ?? ""]);
  const recent = runs.filter((run) => run.started && (run.finished ?? now) > now - WINDOW_S);
  for (const run of recent) {
    const [kind] = run.process.split(" ");
    const key = `${kind} ${run.pid}`;
    if (!names.has(key)) names.set(key, [run.process, run.pid]);
  }
  keep($("lanes"), [...names], ([key]) => key, buildLane, (lane, [key]) => {
    const here = recent.filter((run) => `${run.process.split(" ")[0]} ${run.pid}` === key);
    keep(lane.lastChild, here, (run) => run.run, () => make("span", "block"), (block, run) => {
      const start = Math.max(run.started, now - WINDOW_S);
      block.style.left = `${(100 * (start - now + WINDOW_S)) / WINDOW_S}%`;
      block.style.width = `${(100 * ((run.finished ?? now) - start)) / WINDOW_S}%`;
      block.title = `${run.task}, ${duration((run.finished ?? now) - run.started)}`;
      mark(block, run.kind);
    });
  });
}

function buildLane([, [name, pid]]) {
  const lane = make("div", "lane");
  const label = make("span", "lane-name");
  label.append(make("b", "", name), ` ${pid}`);
  lane.append(label, make("div", "track"));
  return lane;
}

function showStories(runs, state) {
  for (const [story, li] of stories) {
    const last = runs.findLast((run) => run.story === story);
    const line = li.querySelector(".last");
    if (last) {
      const took = last.finished ? ` in ${duration(last.finished - last.started)}` : "";
      const where = last.pid ? ` · ${last.process}, pid ${last.pid}` : "";
      const attempt = last.attempt > 1 ? ` · try ${last.attempt}` : "";
      write(line, `${OUTCOMES[last.kind] ?? last.kind}${took}${attempt}${where}`);
      mark(line, last.kind);
    }
  }
  write($("service"), state.repaired ? "The service works." : "The service is out of order.");
  write($("toggle"), state.repaired ? "Break it" : "Repair it");
  $("toggle").dataset.post = state.repaired ? "/service/break" : "/service/repair";
  $("cron-switch").hidden = !state.cron;
  const wait = Math.ceil(60 - (state.now % 60));
  write($("next-minute"), `At the start of each minute, in the mule${state.cron ? `: next in ${wait} s.` : "."}`);
}

function showDead(letters) {
  $("dead-panel").hidden = letters.length === 0;
  keep($("dead"), letters, (letter) => `${letter.id} ${letter.dead_at}`, buildLetter);
}

function buildLetter(letter) {
  const item = make("li");
  const tries = `${letter.attempts} ${letter.attempts === 1 ? "try" : "tries"}`;
  const button = make("button", "quiet", "Retry");
  button.type = "button";
  button.setAttribute("aria-label", `Retry ${letter.task}`);
  button.dataset.post = `/dead/${encodeURIComponent(letter.id)}/retry`;
  const details = make("details");
  details.append(make("summary", "", "Traceback"), make("pre", "", letter.traceback));
  item.append(make("b", "", letter.task), make("small", "", `${letter.error} · ${letter.reason} · ${tries}`), button);
  if (letter.traceback) item.append(details);
  return item;
}

function showMail(mail, folder) {
  $("mail-panel").hidden = mail.length === 0;
  const more = mail.length - LETTERS;
  write($("mail-more"), more > 0 ? `and ${more} more in ${folder}/mailbox` : "");
  keep($("mail"), mail.slice(0, LETTERS), (letter) => letter.file, (letter) => {
    const item = make("li");
    item.append(make("b", "", letter.subject), make("small", "", `to ${letter.to}`), make("p", "", letter.text.trim()));
    return item;
  });
}

// --- buttons ------------------------------------------------------------------------------------

for (const [story, li] of stories) {
  const button = make("button", "play", "Run");
  button.type = "button";
  button.dataset.post = `/stories/${story}`;
  button.setAttribute("aria-label", `Run: ${li.querySelector("h3").textContent}`);
  li.querySelector("h3").after(button);
  li.append(make("p", "last"));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  const form = button.dataset.post === "/stories/welcome" ? { name: $("name").value } : {};
  press(button, button.dataset.post, form);
});

$("older").addEventListener("click", () => {
  older = true;
  refresh().catch(complain);
});

$("name").addEventListener("keydown", (event) => {
  if (event.key === "Enter") stories.get("welcome").querySelector(".play").click();
});

document.addEventListener("visibilitychange", () => document.hidden || refresh().catch(complain));
watch();
