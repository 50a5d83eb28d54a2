// Sends images as they are to page/answer, and shows what comes back. Nothing else is loaded.
"use strict";

const AT_ONCE = 3; // images under way at a time
const RETRY_MS = 2000;
const REFRESH_MS = 5000; // versions and labels come and go
const READABLE = "It takes complete JPEG, PNG, GIF and BMP files.";

const byId = (id) => document.getElementById(id);
const answers = byId("answers");
const items = new Set();
let queue = [];
let underWay = 0;
let isDown = false;
let maxMegabytes = 32;
let shownState = "";
let refreshes = 0;

// === The server ===

async function refresh() {
  const query = byId("model").value ? `?${new URLSearchParams({ model: byId("model").value })}` : "";
  const turn = ++refreshes;
  let response, state;
  try {
    response = await fetch(`page/state${query}`, { cache: "no-store" });
    state = await response.json();
  } catch {
    return goDown();
  }
  if (turn !== refreshes) return; // another model has been chosen since
  if (response.status === 404 && query) {
    byId("model").value = ""; // this model is served no more
    return;
  }
  if (!response.ok) return goDown(response.status === 503 ? undefined : state.error);
  showState(state);
  goUp();
}

function showState(state) {
  maxMegabytes = state.max_megabytes;
  const text = JSON.stringify(state);
  if (text === shownState) return; // an open menu stays open
  shownState = text;
  const newest = state.versions[0];
  const count = state.versions.length;
  byId("title").textContent = state.model;
  document.title = `${state.model} – try it`;
  byId("server").textContent = count
    ? `Version ${state.versions.join(" and version ")} can answer.`
    : "No version is loaded yet.";
  byId("model-control").hidden = state.models.length < 2;
  fill(byId("model"), [[null, state.models.map((name) => [name, name])]], state.model);
  const labels = Object.entries(state.labels);
  const menu = [[null, [["", newest ? `Newest (version ${newest})` : "Newest"]]]];
  if (labels.length) {
    menu.push(["Labels", labels.map(([name, at]) => [`label=${name}`, `${name} (version ${at})`])]);
  }
  menu.push(["Versions", state.versions.map((number) => [`version=${number}`, `Version ${number}`])]);
  const before = byId("version").value;
  fill(byId("version"), menu, before);
  if (byId("version").value !== before) {
    say("The chosen version is gone; the newest answers now.");
    askAll();
  }
}

function fill(select, groups, chosen) {
  select.replaceChildren();
  for (const [title, options] of groups) {
    let parent = select;
    if (title) {
      parent = document.createElement("optgroup");
      parent.label = title;
      select.append(parent);
    }
    for (const [value, text] of options) parent.append(new Option(text, value));
  }
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

function goDown(reason) {
  const text = reason
    ? `The server cannot answer: ${reason} Trying again every two seconds.`
    : "The server does not answer: it is stopped, or starting. Trying again every two seconds.";
  if (byId("trouble-text").textContent !== text) byId("trouble-text").textContent = text;
  byId("trouble").hidden = false;
  if (isDown) return;
  isDown = true;
  shownState = "";
  byId("server").textContent = "No answer from the server.";
  for (const item of queue) note(item, "Waiting for the server…");
  setTimeout(probe, RETRY_MS);
}

async function probe() {
  if (!isDown) return;
  await refresh();
  if (isDown) setTimeout(probe, RETRY_MS);
}

function goUp() {
  if (!isDown) return;
  isDown = false;
  byId("trouble").hidden = true;
  byId("trouble-text").textContent = "";
  say("The server answers again.");
  pump();
}

// === Images in ===

function add(files) {
  for (const file of files) {
    const element = byId("card").content.firstElementChild.cloneNode(true);
    const item = { file, element, url: URL.createObjectURL(file), abort: null };
    const name = file.name || "Pasted image";
    item.name = name;
    part(item, ".name").textContent = name;
    const image = part(item, "img");
    image.addEventListener("error", () => {
      image.hidden = true;
      part(item, ".frame").classList.add("blank");
    });
    image.alt = name;
    image.src = item.url;
    part(item, ".remove").setAttribute("aria-label", `Remove ${name}`);
    part(item, ".remove").addEventListener("click", () => remove(item));
    part(item, ".again").setAttribute("aria-label", `Try ${name} again`);
    part(item, ".again").addEventListener("click", () => ask(item));
    answers.prepend(element);
    items.add(item);
    ask(item);
  }
  byId("clear").hidden = !items.size;
}

function remove(item) {
  const next = item.element.nextElementSibling || item.element.previousElementSibling;
  drop(item);
  (next ? next.querySelector(".remove") : byId("choose")).focus();
}

function drop(item) {
  item.abort?.abort();
  queue = queue.filter((other) => other !== item);
  items.delete(item);
  item.element.remove();
  URL.revokeObjectURL(item.url);
  byId("clear").hidden = !items.size;
}

// === Questions ===

function askAll() {
  for (const item of items) ask(item);
}

function ask(item) {
  item.abort?.abort();
  item.abort = null;
  queue = queue.filter((other) => other !== item);
  part(item, ".again").hidden = true;
  if (item.file.size > maxMegabytes * 1024 * 1024) {
    const size = Math.round(item.file.size / 1024 / 1024);
    return fail(item, `This file has ${size} MB; the page takes at most ${maxMegabytes} MB.`);
  }
  if (!item.file.size) return fail(item, "This file is empty.");
  item.element.setAttribute("aria-busy", "true");
  note(item, isDown ? "Waiting for the server…" : "Waiting…");
  queue.push(item);
  pump();
}

function pump() {
  while (!isDown && underWay < AT_ONCE && queue.length) send(queue.shift());
}

async function send(item) {
  const abort = (item.abort = new AbortController());
  underWay += 1;
  try {
    await exchange(item, abort);
  } finally {
    underWay -= 1;
    if (item.abort === abort) item.abort = null;
    pump();
  }
}

async function exchange(item, abort) {
  let bytes;
  try {
    bytes = await item.file.arrayBuffer();
  } catch {
    if (!abort.signal.aborted) fail(item, "This file cannot be read any more.");
    return;
  }
  const query = new URLSearchParams(byId("version").value);
  if (byId("model").value) query.set("model", byId("model").value);
  const start = performance.now();
  let response, answer;
  try {
    response = await fetch(`page/answer?${query}`, {
      method: "POST",
      body: bytes,
      headers: { "Content-Type": "application/octet-stream" },
      signal: abort.signal,
    });
    answer = await response.json();
  } catch {
    if (!abort.signal.aborted) putBack(item);
    return;
  }
  if (abort.signal.aborted) return;
  if (response.status === 503) return putBack(item);
  if (!response.ok) return fail(item, `No answer: ${answer.error}`, true);
  show(item, answer, performance.now() - start);
}

function putBack(item) {
  queue.unshift(item);
  note(item, "Waiting for the server…");
  goDown();
}

// === Answers ===

function show(item, answer, roundTrip) {
  item.element.setAttribute("aria-busy", "false");
  const times = `server ${ms(answer.milliseconds)}, round trip ${ms(roundTrip)}`;
  const facts = `${answer.model}, version ${answer.version} · ${times}`;
  if (!answer.valid) {
    fail(item, unreadable(item.file));
    part(item, ".facts").textContent = facts;
    return;
  }
  part(item, ".facts").textContent = facts;
  const labels = answer.labels || [];
  note(item, answer.labels ? "" : "This model gives no labels.");
  part(item, ".labels").replaceChildren(...labels.map(row));
  part(item, ".labels").hidden = !labels.length;
  showAttention(item, answer);
  const best = labels.length ? `${labels[0].label}, ${percent(labels[0].score)}` : "answered";
  say(`${item.name}: ${best}`);
}

function unreadable(file) {
  // By its name: what is named as an image of a known kind and is none may be damaged.
  const kind = /^image\/(?!jpeg|png|gif|bmp)([a-z0-9]+)/.exec(file.type);
  return kind
    ? `This model cannot read ${kind[1].toUpperCase()} files. ${READABLE}`
    : `This is not an image this model can read. ${READABLE}`;
}

function row({ label, score }) {
  const element = document.createElement("li");
  const bar = span("bar", "");
  bar.setAttribute("aria-hidden", "true");
  bar.append(span("", ""));
  bar.firstChild.style.width = `${100 * (score ?? 0)}%`;
  element.append(span("label", label), span("percent", percent(score)), bar);
  return element;
}

function fail(item, text, canRetry = false) {
  item.element.setAttribute("aria-busy", "false");
  part(item, ".labels").hidden = true;
  part(item, ".facts").textContent = "";
  hideAttention(item);
  note(item, text, true);
  part(item, ".again").hidden = !canRetry;
  say(`${item.name}: ${text}`);
}

function note(item, text, isBad = false) {
  const element = part(item, ".note");
  element.textContent = text;
  element.hidden = !text;
  element.classList.toggle("bad", isBad);
}

// === Attention ===

function hideAttention(item) {
  for (const name of [".attention", ".seen", ".caption"]) part(item, name).hidden = true;
}

function showAttention(item, { attention, patches, seen, turned }) {
  hideAttention(item);
  const captions = [];
  if (attention) {
    const canvas = part(item, ".attention");
    paint(canvas, attention);
    canvas.setAttribute("aria-label", `The model looks most at the ${strongest(attention)}.`);
    canvas.classList.toggle("apart", !patches);
    if (patches) {
      place(canvas, patches);
      place(part(item, ".seen"), seen);
      part(item, ".seen").hidden = false;
      if (seen.width < 0.995 || seen.height < 0.995) captions.push("The model sees what is inside the frame.");
    } else {
      canvas.removeAttribute("style");
      captions.push("Below the image: the attention of the model. How it lies on the image is not known here.");
    }
    canvas.hidden = false;
  }
  if (turned) captions.push("Shown as it is stored, which is how the model sees it: cameras turn it for people only.");
  part(item, ".caption").textContent = captions.join(" ");
  part(item, ".caption").hidden = !captions.length;
}

function place(element, { left, top, width, height }) {
  Object.assign(element.style, {
    left: `${100 * left}%`,
    top: `${100 * top}%`,
    width: `${100 * width}%`,
    height: `${100 * height}%`,
  });
}

function paint(canvas, { rows, columns, values }) {
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  const context = small.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  values.forEach((value, index) => pixels.data.set(colour((value - low) / span), 4 * index));
  context.putImageData(pixels, 0, 0);
  canvas.width = 16 * columns;
  canvas.height = 16 * rows;
  const large = canvas.getContext("2d");
  large.imageSmoothingQuality = "high";
  large.drawImage(small, 0, 0, canvas.width, canvas.height);
}

// Dark violet over orange to light yellow (stops of matplotlib's inferno): lightness alone tells
// the order, so that it can be read without seeing the hue.
const STOPS = [[20, 11, 53], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function colour(share) {
  const position = share * (STOPS.length - 1);
  const index = Math.min(Math.floor(position), STOPS.length - 2);
  const rest = position - index;
  const mixed = STOPS[index].map((value, i) => value + rest * (STOPS[index + 1][i] - value));
  return [...mixed, 140 + 80 * share];
}

function strongest({ rows, columns, values }) {
  const index = values.indexOf(Math.max(...values));
  const third = (place, count) => Math.min(2, Math.floor((3 * (place + 0.5)) / count));
  const y = ["upper", "", "lower"][third(Math.floor(index / columns), rows)];
  const x = ["left", "", "right"][third(index % columns, columns)];
  return [y, x].filter(Boolean).join(" ") || "middle";
}

// === Small things ===

function part(item, selector) {
  return item.element.querySelector(selector);
}

function span(className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

function percent(score) {
  return score === null ? "no number" : `${(100 * score).toFixed(1)} %`;
}

function ms(value) {
  return `${Math.round(value)}\u00a0ms`;
}

function say(text) {
  byId("said").textContent = text;
}

// === Events ===

byId("choose").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = ""; // the same file may be chosen again
});
byId("clear").addEventListener("click", () => {
  for (const item of [...items]) drop(item);
  byId("choose").focus();
});
byId("retry").addEventListener("click", refresh);
byId("version").addEventListener("change", askAll);
byId("model").addEventListener("change", async () => {
  byId("version").value = "";
  await refresh();
  askAll();
});
byId("overlay").addEventListener("input", (event) => {
  byId("overlay-value").textContent = `${event.target.value} %`;
  document.documentElement.style.setProperty("--overlay", event.target.value / 100);
});

let dragDepth = 0; // a drag enters and leaves every element on its way
document.addEventListener("dragenter", () => {
  dragDepth += 1;
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", () => {
  dragDepth -= 1;
  if (dragDepth <= 0) document.body.classList.remove("dragging");
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragDepth = 0;
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files, "That was not a file: save the image first, then drop the file.");
});
document.addEventListener("paste", (event) => {
  take(event.clipboardData.files, "There is no image in the clipboard.");
});

function take(files, otherwise) {
  if (files.length) add([...files]);
  else say(otherwise);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
setInterval(() => {
  if (!document.hidden && !isDown) refresh();
}, REFRESH_MS);
refresh();
