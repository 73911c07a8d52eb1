// The state comes from the server and is drawn as it is; controls are sent as soon as they move.
import { Graph, drawQueues } from "./graphs.js";
import { Live } from "./live.js";
import { Drop } from "./drop.js";

export const $ = (id) => document.getElementById(id);

export function toast(text, bad = false) {
  const note = document.createElement("div");
  note.className = bad ? "toast bad" : "toast";
  note.textContent = text;
  $("toasts").append(note);
  setTimeout(() => note.remove(), bad ? 7000 : 3500);
}

export async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  if (answer.status === 401) location.reload();
  if (!answer.ok) {
    const content = await answer.json().catch(() => ({}));
    throw new Error(content.error || `the server answered ${answer.status}`);
  }
  return answer;
}

let state = null;
let socket = null;
let source = new URLSearchParams(location.search).get("source"); // the selected source; null = the first
const at = (path) => (source === null ? path : `${path}${path.includes("?") ? "&" : "?"}source=${encodeURIComponent(source)}`);
let palettes = {};
const touched = new Map();

const live = new Live({
  say: (message) => socket && socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message)),
  look: () => state && state.look,
  at,
});
const drop = new Drop({ look: () => state && state.look });
const graphs = {
  fps: new Graph($("graph-fps"), [["fps", "#62c6f2"], ["fps_in", "#4a5468"]]),
  latency: new Graph($("graph-latency"), [["latency_ms", "#ff9f5a"], ["latency_p95_ms", "#7a5138"]]),
  drops: new Graph($("graph-drops"), [["drops", "#ff6b6b"]], 1),
};

// Controls ---------------------------------------------------------------------------------------------------------

let pending = {};
let sending = false;

async function send() {
  if (sending || !Object.keys(pending).length) return;
  sending = true;
  const content = pending;
  pending = {};
  try {
    // The answer is not drawn: the socket reports this change and later ones in order.
    await ask(at("/v1/control"), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    });
  } catch (error) {
    toast(error.message, true);
    touched.clear();
    if (state) show(state);
  }
  sending = false;
  send();
}

function change(content) {
  // A control in use keeps its position until the server confirms it.
  for (const key of Object.keys(content)) touched.set(key, performance.now());
  Object.assign(pending, content);
  send();
}

const mine = (key) => performance.now() - (touched.get(key) || -1e9) < 400;

function segments(id, act) {
  $(id).addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    press(id, button.dataset.value);
    act(button.dataset.value);
  });
}

function press(id, value) {
  for (const button of $(id).children) button.setAttribute("aria-pressed", String(button.dataset.value === value));
}

function slide(id, value, text) {
  const input = $(id);
  input.value = value;
  input.style.setProperty("--at", `${(100 * (input.value - input.min)) / (input.max - input.min)}%`);
  $(`${id}-value`).textContent = text;
}

const percent = (value) => `${Math.round(value * 100)}%`;

segments("view", (view) => change({ view }));
segments("range", (mode) => {
  if (mode !== "fixed") return change({ range: mode });
  const ends = latest && latest.range;
  if (ends && ends[0] < ends[1]) change({ range: `fixed:${ends.map(short).join(",")}` });
  else {
    toast("There is no range to fix yet.", true);
    show(state);
  }
});
for (const id of ["range-lo", "range-hi"]) {
  $(id).addEventListener("change", () => {
    const ends = [$("range-lo").valueAsNumber, $("range-hi").valueAsNumber];
    if (ends.every(Number.isFinite)) change({ range: `fixed:${ends.join(",")}` });
  });
}
for (const id of ["alpha-near", "alpha-far"]) {
  $(id).addEventListener("input", () => {
    const alpha = [$("alpha-near").valueAsNumber, $("alpha-far").valueAsNumber];
    slide("alpha-near", alpha[0], percent(alpha[0]));
    slide("alpha-far", alpha[1], percent(alpha[1]));
    change({ alpha });
  });
}
$("contours").addEventListener("input", (event) => {
  const contours = event.target.valueAsNumber;
  slide("contours", contours, contours || "off");
  change({ contours });
});
$("stabilize").addEventListener("change", (event) => change({ stabilize: event.target.checked }));
$("reverse").addEventListener("change", (event) => change({ reverse: event.target.checked }));
$("bar").addEventListener("change", (event) => change({ bar: event.target.checked }));
$("edges").addEventListener("change", (event) => change({ edges: event.target.checked ? "guided" : "bilinear" }));
$("pause").addEventListener("click", () => change({ paused: !state.paused }));
$("snapshot").addEventListener("click", snapshot);

async function snapshot() {
  try {
    const held = await (await ask(at("/v1/live/snapshot"), { method: "POST" })).json();
    for (const url of [held.image, held.depth]) {
      const link = document.createElement("a");
      link.href = url;
      link.download = "";
      link.click();
      // One after the other: browsers drop the first of two downloads that start at once.
      await new Promise((go) => setTimeout(go, 250));
    }
    toast(`Frame ${held.frame}: image and ${held.depth_size.join("×")} depth saved`);
  } catch (error) {
    toast(error.message, true);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, button, a") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " ") $("pause").click();
  else if (event.key === "s") snapshot();
  else return;
  event.preventDefault();
});

// Palettes ---------------------------------------------------------------------------------------------------------

const gradient = (colors) => `linear-gradient(to right, ${colors.join(", ")})`;

function paintPalettes() {
  const list = $("palettes");
  list.replaceChildren(
    ...Object.entries(palettes).map(([name, colors]) => {
      const row = document.createElement("button");
      row.className = "palette";
      row.dataset.name = name;
      row.setAttribute("role", "option");
      const swatch = document.createElement("i");
      swatch.style.setProperty("--colors", gradient(colors));
      const text = document.createElement("span");
      text.textContent = name;
      row.append(swatch, text);
      return row;
    }),
  );
  list.addEventListener("click", (event) => {
    const row = event.target.closest(".palette");
    if (row) change({ style: row.dataset.name });
  });
}

$("palette-now").addEventListener("click", () => {
  const list = $("palette-list");
  list.hidden = !list.hidden;
  $("palette-now").setAttribute("aria-expanded", String(!list.hidden));
  if (list.hidden) return;
  const chosen = list.querySelector('[aria-selected="true"]');
  if (chosen) $("palettes").scrollTop = chosen.offsetTop - $("palettes").offsetTop - 120;
});
$("palette-filter").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const row of $("palettes").children) row.hidden = !row.dataset.name.includes(wanted);
});
$("palette-filter").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const first = [...$("palettes").children].find((row) => !row.hidden);
  const name = event.target.value.trim();
  // Any name of the catalogue is accepted; the list has the usual ones.
  change({ style: first ? first.dataset.name : name });
});

// Drawing ----------------------------------------------------------------------------------------------------------

const STATES = {
  live: ["good", ""],
  connecting: ["wait", "connecting"],
  waiting: ["wait", "reconnecting"],
  closed: ["bad", "closed"],
  idle: ["wait", "starting"],
};

function show(next) {
  state = next;
  const { look, source: shown } = next;
  press("view", look.view);
  if (!mine("alpha")) {
    slide("alpha-near", look.alpha[0], percent(look.alpha[0]));
    slide("alpha-far", look.alpha[1], percent(look.alpha[1]));
  }
  if (!mine("contours")) slide("contours", look.contours, look.contours || "off");
  $("reverse").checked = look.reverse;
  $("bar").checked = look.bar;
  $("edges").checked = look.edges === "guided";
  const name = typeof look.style === "string" ? look.style : "own stops";
  $("palette-name").textContent = name;
  const colors = palettes[look.style];
  $("palette-swatch").style.setProperty("--colors", colors ? gradient(colors) : "var(--line)");
  for (const row of $("palettes").children) row.setAttribute("aria-selected", String(row.dataset.name === look.style));

  const mode = next.range.mode;
  const fixed = mode && mode.startsWith("fixed:");
  press("range", fixed ? "fixed" : mode);
  for (const button of $("range").children) button.disabled = !next.range.switchable;
  $("stabilize").checked = next.stabilize.on;
  $("stabilize").disabled = !next.stabilize.switchable;
  $("ends").hidden = !fixed;
  if (fixed && !$("ends").contains(document.activeElement)) {
    [$("range-lo").value, $("range-hi").value] = mode.slice(6).split(",");
  }
  $("pause").setAttribute("aria-pressed", String(next.paused));
  $("pause-text").textContent = next.paused ? "Resume" : "Pause";
  $("pause-icon").setAttribute("d", next.paused ? "M6 4l10 6-10 6z" : "M6 4h3v12H6zM11 4h3v12h-3z");
  $("held").hidden = !next.paused;

  const status = shown && shown.status;
  const [light, word] = shown ? STATES[(status && status.state) || "live"] || ["wait", status.state] : ["", "no live source"];
  $("source-dot").className = `dot ${light}`;
  const size = shown && shown.width ? `${shown.width}×${shown.height}` : "";
  $("source-text").textContent = [shown && shown.id, word || size].filter(Boolean).join(" · ");
  $("source").title = [shown && shown.id, size, shown && shown.note, status && status.last_error].filter(Boolean).join("\n");
  $("empty-text").textContent = shown
    ? (status && status.last_error) || "Waiting for the first frame"
    : "There is no live source. Drop a video or an image below.";
  announce(shown, status);
  listSources(next.sources || []);
  $("about").textContent = [next.model && `Model ${next.model}`, next.sense && next.sense.replace("_", " "), `streamdepth ${next.version}`]
    .filter(Boolean)
    .join(" · ");
  drop.show(next);
  live.show(next);
}

// An outage of the source is announced when it happens, and its end too.
let outage = "";

function announce(shown, status) {
  const error = status && status.state === "waiting" ? status.last_error : "";
  if (error && error !== outage) toast(`${shown.id}: ${error}; next attempt ${status.next_attempt || "soon"}`, true);
  if (outage && status && status.state === "live") toast(`${shown.id}: connected again`);
  if (error || !status || status.state === "live") outage = error;
}

// Sources ----------------------------------------------------------------------------------------------------------

const THUMBNAIL_MS = 1000;

function listSources(sources) {
  const list = $("sources");
  list.hidden = sources.length < 2;
  if (list.hidden) return;
  const known = JSON.stringify(sources);
  if (list.dataset.known !== known) {
    list.dataset.known = known;
    list.replaceChildren(
      ...sources.map(({ id: name, shown }) => {
        const button = document.createElement("button");
        button.className = "source";
        button.dataset.name = name;
        button.dataset.shown = shown ? "yes" : "";
        const image = document.createElement("img");
        image.alt = "";
        const text = document.createElement("span");
        text.textContent = name;
        image.hidden = !shown;
        button.append(image, text);
        button.addEventListener("click", () => select(name));
        return button;
      }),
    );
    thumbnails();
  }
  const selected = source === null ? sources[0].id : source;
  for (const button of list.children) button.setAttribute("aria-pressed", String(button.dataset.name === selected));
}

function thumbnails() {
  if (document.visibilityState !== "visible") return;
  for (const button of $("sources").children) {
    if (!button.dataset.shown) continue; // there is no frame yet
    button.firstChild.src = `/v1/live.jpg?source=${encodeURIComponent(button.dataset.name)}&${Date.now()}`;
  }
}

setInterval(thumbnails, THUMBNAIL_MS);

function select(name) {
  if (name === source) return;
  source = name;
  outage = "";
  touched.clear();
  live.stop();
  socket.close(); // reconnects at once, to the selected source
  wait = 0;
}

let latest = null;
const short = (value) => Number(value.toPrecision(4));
const plain = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

function count(sample) {
  latest = sample;
  $("fps").textContent = plain(sample.fps);
  $("fps-in").textContent = `of ${plain(sample.fps_in)} captured`;
  $("latency").textContent = sample.latency_ms === null ? "–" : `${Math.round(sample.latency_ms)} ms`;
  $("latency-p95").textContent = sample.latency_p95_ms === null ? "" : `p95 ${Math.round(sample.latency_p95_ms)} ms`;
  const causes = Object.entries(sample.dropped);
  $("drops").textContent = causes.reduce((sum, [, many]) => sum + many, 0).toLocaleString("en");
  $("drops-cause").textContent = `${plain(sample.drops)}/s ${causes.map(([cause]) => cause).join(", ")}`.trim();
  $("queued").textContent = Object.values(sample.queues).reduce((sum, many) => sum + many, 0);
  drawQueues($("queues"), sample.queues);
  if (sample.range) {
    const unit = state && state.metric ? " m" : "";
    $("range-now").textContent = `now ${short(sample.range[0])} to ${short(sample.range[1])}${unit}`;
  }
  for (const graph of Object.values(graphs)) graph.add(sample);
  live.count(sample);
}

// The server's side ------------------------------------------------------------------------------------------------

let wait = 500;

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${at("/v1/live/socket")}`);
  socket.onopen = () => (wait = 500);
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "state") show(message);
    else if (message.type === "stats" && message.t !== undefined) count(message);
    else if (message.type === "history") {
      for (const graph of Object.values(graphs)) graph.reset(message.samples);
      live.start(message.page);
    }
    if (message.type === "depth") live.showDepth(message);
  };
  socket.onclose = () => {
    $("source-dot").className = "dot bad";
    $("source-text").textContent = "server not reachable";
    live.stop();
    setTimeout(connect, wait);
    wait = Math.min(Math.max(wait, 250) * 2, 8000);
  };
}

try {
  palettes = await (await ask("/v1/palettes")).json();
  paintPalettes();
} catch (error) {
  toast(error.message, true);
}
connect();
