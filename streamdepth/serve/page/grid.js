// The grid of cameras: one picture each, its state and its controls. Pictures are fetched for visible tiles only.
const STATES_MS = 1000;
const PICTURES_MS = 400;
const AT_ONCE = 4; // a browser has six connections to a server

const $ = (id) => document.getElementById(id);
const LIGHTS = { live: "good", connecting: "wait", waiting: "wait", ended: "", failed: "bad" };
const WORDS = { connecting: "connecting", waiting: "reconnecting", ended: "ended", failed: "failed" };
const tiles = new Map();
const visible = new Set();
let palettes = [];

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) isIntersecting ? visible.add(target) : visible.delete(target);
});

function toast(text) {
  const note = document.createElement("div");
  note.className = "toast bad";
  note.textContent = text;
  $("toasts").append(note);
  setTimeout(() => note.remove(), 7000);
}

async function ask(path, method = "GET", content = undefined) {
  const answer = await fetch(path, {
    method,
    headers: content ? { "Content-Type": "application/json" } : {},
    body: content && JSON.stringify(content),
  });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `the server answered ${answer.status}`);
  return answer.status === 204 ? null : answer.json();
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    toast(error.message);
  }
  await refresh();
}

const query = (name) => `source=${encodeURIComponent(name)}`;
const path = (name) => `/v1/cameras/${encodeURIComponent(name)}`;

function option(select, value, text = value) {
  if ([...select.options].some((one) => one.value === value)) return;
  select.append(new Option(text, value));
}

function makeTile(name) {
  const tile = $("tile").content.firstElementChild.cloneNode(true);
  tile.dataset.name = name;
  tile.querySelector("h2").textContent = name;
  tile.querySelector(".shot").href = `/view?${query(name)}`;
  tile.querySelector(".shot").setAttribute("aria-label", `${name}: full view`);
  for (const style of palettes) option(tile.querySelector('[data-key="style"]'), style);
  tile.addEventListener("change", ({ target }) => {
    const key = target.dataset.key;
    attempt(() => ask(`/v1/control?${query(name)}`, "POST", { [key]: key === "stabilize" ? target.value === "on" : target.value }));
  });
  tile.querySelector('[data-act="pause"]').addEventListener("click", ({ currentTarget }) => {
    const paused = currentTarget.getAttribute("aria-pressed") !== "true";
    attempt(() => ask(`/v1/control?${query(name)}`, "POST", { paused }));
  });
  tile.querySelector('[data-act="remove"]').addEventListener("click", ({ currentTarget }) => {
    if (!confirm(`Remove ${name}?`)) return;
    currentTarget.disabled = true;
    attempt(() => ask(path(name), "DELETE"));
  });
  watcher.observe(tile);
  return tile;
}

function show(tile, camera) {
  const text = (selector, value) => {
    tile.querySelector(selector).textContent = value;
  };
  tile.dataset.shown = camera.shown ? "yes" : "";
  tile.querySelector(".dot").className = `dot ${LIGHTS[camera.state] ?? "wait"}`;
  const age = camera.age_ms === null ? "" : camera.age_ms < 1000 ? `${Math.round(camera.age_ms)} ms` : `${Math.round(camera.age_ms / 1000)} s`;
  const rate = camera.fps === null ? "" : `${camera.fps.toFixed(1)} fps`;
  text(".rate", WORDS[camera.state] || [rate, age].filter(Boolean).join(" · "));
  const why = camera.state === "live" ? "" : camera.error;
  text(".why", why);
  tile.querySelector(".why").hidden = !why;
  tile.querySelector(".shot").title = camera.source;
  const pause = tile.querySelector('[data-act="pause"]');
  pause.setAttribute("aria-pressed", String(camera.paused));
  pause.textContent = camera.paused ? "Resume" : "Pause";
  for (const select of tile.querySelectorAll("select")) {
    if (select === document.activeElement) continue;
    const key = select.dataset.key;
    const own = { range: camera.range, stabilize: camera.stabilize ? "on" : "off" };
    const value = key in own ? own[key] : camera.look && camera.look[key];
    if (typeof value !== "string") continue;
    option(select, value, value.startsWith("fixed:") ? value.slice(6).replace(",", " to ") : value);
    select.value = value;
  }
}

async function refresh() {
  let cameras;
  try {
    ({ cameras } = await ask("/v1/cameras"));
  } catch {
    $("all-dot").className = "dot bad";
    $("all-text").textContent = "server not reachable";
    return;
  }
  const names = new Set(cameras.map(({ name }) => name));
  for (const [name, tile] of tiles) {
    if (names.has(name)) continue;
    watcher.unobserve(tile);
    visible.delete(tile);
    tile.remove();
    tiles.delete(name);
  }
  for (const camera of cameras) {
    if (!tiles.has(camera.name)) {
      tiles.set(camera.name, makeTile(camera.name));
      $("cameras").append(tiles.get(camera.name));
    }
    show(tiles.get(camera.name), camera);
  }
  const live = cameras.filter(({ state }) => state === "live").length;
  $("none").hidden = cameras.length > 0;
  $("all-dot").className = `dot ${live === cameras.length ? "good" : live ? "wait" : "bad"}`;
  $("all-text").textContent = `${live} of ${cameras.length} live`;
}

// Pictures: a few at a time; the next one of a tile when the one before has arrived.
async function picture(tile) {
  const image = tile.querySelector("img");
  image.src = `/v1/live.jpg?${query(tile.dataset.name)}&${Date.now()}`;
  try {
    await image.decode();
    image.hidden = false;
  } catch {
    // The camera was removed, or a newer picture replaced this one.
  }
}

async function pictures() {
  if (document.visibilityState === "visible") {
    const waiting = [...visible].filter((tile) => tile.dataset.shown);
    const work = async () => {
      while (waiting.length) await picture(waiting.shift());
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  }
  setTimeout(pictures, PICTURES_MS);
}

async function states() {
  if (document.visibilityState === "visible") await refresh();
  setTimeout(states, STATES_MS);
}

$("add").addEventListener("click", () => {
  $("form").hidden = !$("form").hidden;
  $("add").setAttribute("aria-expanded", String(!$("form").hidden));
  if (!$("form").hidden) $("form").elements.name.focus();
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { name, source } = Object.fromEntries(new FormData(event.target));
  attempt(async () => {
    await ask("/v1/cameras", "POST", { name: name.trim(), source: source.trim() });
    event.target.reset();
  });
});

try {
  palettes = Object.keys(await ask("/v1/palettes"));
} catch (error) {
  toast(error.message);
}
await refresh();
states();
pictures();
