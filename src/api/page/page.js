// comfyd's own page: what runs, what waits, what was made. Talks to the API that every other client uses.
// Text from outside is only ever set as text, never as markup.
"use strict";

const PAGE = 24; // entries of the history shown at first, and added by each "Show older"
const find = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const client = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const state = { running: null, progress: progressOf(null), shown: PAGE, history: "" };

/** How far a job is, as far as the websocket has told. */
function progressOf(job) {
  return { job, nodes: {}, cached: [] };
}

// ---- talking to the server ------------------------------------------------------------------------------------

/** The address of a route. Relative, so that it holds behind a proxy that adds a folder. */
function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  for (const [key, value] of Object.entries(query)) url.searchParams.set(key, value);
  if (token) url.searchParams.set("token", token);
  return url;
}

async function ask(path, query, options) {
  const response = await fetch(address(path, query), { cache: "no-store", ...options });
  if (response.status === 401) askToSignIn();
  if (!response.ok) throw new Error(`${path} answers ${response.status}`);
  return response;
}

const read = async (path, query) => (await ask(path, query)).json();
const send = (path, body) => ask(path, {}, { method: "POST", body: JSON.stringify(body) });

/** Runs something for the user and says so if it fails. */
async function attempt(work) {
  try {
    await work();
    tell("");
  } catch (error) {
    if (find("sign-in").hidden) tell(`The server did not do that: ${error.message}.`);
  }
}

function tell(problem) {
  find("problem").textContent = problem;
  find("problem").hidden = !problem;
}

function askToSignIn() {
  find("sign-in").hidden = false;
  find("main").hidden = find("sign-out").hidden = true;
  tell("");
}

// ---- making elements ------------------------------------------------------------------------------------------

function make(kind, properties = {}, ...children) {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...children);
  return element;
}

function button(text, label, work) {
  const made = make("button", { type: "button", textContent: text });
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => attempt(work));
  return made;
}

const short = (id) => (id.length > 12 ? `${id.slice(0, 8)}…` : id);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const seconds = (ms) => (ms < 1000 ? `${ms} ms` : ms < 10000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`);
const gigabytes = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GB`;

/** What the user calls a node: its title in the workflow, or else its class. */
function title(graph, id) {
  const node = graph?.[id];
  return node?._meta?.title || node?.class_type || `node ${id}`;
}

// ---- what runs ------------------------------------------------------------------------------------------------

function showRunning() {
  const job = state.running;
  find("now").hidden = find("interrupt").hidden = !job;
  find("idle").hidden = Boolean(job);
  if (!job) {
    showPreview(null);
    return;
  }
  const total = Math.max(Object.keys(job.graph).length, 1);
  const progress = state.progress.job === job.id ? state.progress : progressOf(job.id);
  const nodes = Object.values(progress.nodes);
  const share = (node) => (node.max > 0 ? Math.min(node.value / node.max, 1) : 0);
  const done = nodes.reduce((sum, node) => sum + share(node), progress.cached.length);
  const active = nodes.find((node) => node.state === "running");
  find("now-node").textContent = active ? title(job.graph, active.display_node_id) : "Starting";
  fill("now-step", active ? share(active) : 0, active?.max > 1 ? `${active.value} / ${active.max}` : "");
  fill("now-all", Math.min(done / total, 1), `${Math.min(Math.round((100 * done) / total), 100)} %`);
  find("now-job").textContent = `${plural(total, "node")}, job ${short(job.id)}`;
}

function fill(id, share, text) {
  find(id).value = share;
  find(`${id}-text`).textContent = text;
}

function showPreview(blob) {
  const image = find("preview");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = !blob;
  if (blob) image.src = URL.createObjectURL(blob);
  else image.removeAttribute("src");
}

// ---- what waits -----------------------------------------------------------------------------------------------

async function refreshQueue() {
  const queue = await read("queue");
  const job = ([number, id, graph]) => ({ number, id, graph });
  const running = queue.queue_running.map(job)[0] ?? null;
  state.running = running;
  showRunning();
  const waiting = queue.queue_pending.map(job).sort((one, other) => one.number - other.number);
  find("queue-count").textContent = waiting.length;
  find("queue-empty").hidden = waiting.length > 0;
  find("clear-queue").hidden = waiting.length === 0;
  find("queue").replaceChildren(...waiting.map(waitingItem));
  document.title = running || waiting.length ? `(${waiting.length + (running ? 1 : 0)}) comfyd` : "comfyd";
}

function waitingItem({ id, graph }) {
  const what = `${plural(Object.keys(graph).length, "node")}, job ${short(id)}`;
  const remove = button("Delete", `Delete waiting job ${short(id)}`, () => send("queue", { delete: [id] }));
  return make("li", {}, make("span", { textContent: what }), remove);
}

// ---- what the server is ---------------------------------------------------------------------------------------

async function refreshServer() {
  const [stats, health] = await Promise.all([read("system_stats"), read("health")]);
  const { system, devices } = stats;
  const lines = [["Version", `comfyd ${health.version}, speaks ComfyUI ${system.comfyui_version}`]];
  for (const device of devices.filter((device) => device.type !== "cpu")) {
    lines.push([device.name, memory(device.vram_total - device.vram_free, device.vram_total, device.name)]);
  }
  const used = memory(system.ram_total - system.ram_free, system.ram_total, "Memory");
  lines.push(["Memory", used]);
  if (devices.every((device) => device.type === "cpu")) lines.push(["Computes on", devices[0]?.name ?? "CPU"]);
  find("server").replaceChildren(
    ...lines.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", {}, value))),
  );
}

function memory(used, total, name) {
  const gauge = make("meter", { min: 0, max: total, high: total * 0.9, value: used });
  gauge.setAttribute("aria-label", `${name} in use`);
  const text = make("span", { textContent: `${gigabytes(used)} of ${gigabytes(total)} in use` });
  return make("div", {}, text, gauge);
}

// ---- what was made --------------------------------------------------------------------------------------------

async function refreshHistory() {
  const entries = Object.entries(await read("history", { max_items: state.shown + 1 })).reverse();
  const shown = entries.slice(0, state.shown);
  find("more").hidden = entries.length <= state.shown;
  find("history-empty").hidden = shown.length > 0;
  find("clear-history").hidden = shown.length === 0;
  const ids = shown.map(([id]) => id).join(" ");
  if (ids === state.history) return;
  state.history = ids;
  const known = new Map([...find("history").children].map((item) => [item.dataset.job, item]));
  find("history").replaceChildren(...shown.map(([id, entry]) => known.get(id) ?? historyItem(id, entry)));
}

function historyItem(id, entry) {
  const outputs = Object.values(entry.outputs ?? {});
  const files = outputs.flatMap((output) => Object.values(output).flat()).filter((file) => file?.filename);
  const isPicture = (file) => /\.(png|jpe?g|webp|gif|bmp)$/i.test(file.filename);
  const texts = outputs.flatMap((output) => output.text ?? []).filter((text) => typeof text === "string");
  const messages = Object.fromEntries(entry.status?.messages ?? []);
  const item = make("li");
  item.dataset.job = id;
  const pictures = files.filter(isPicture);
  if (pictures.length) item.append(make("div", { className: "pictures" }, ...pictures.map(picture)));
  for (const text of texts) item.append(make("pre", { className: "said", textContent: text, tabIndex: 0 }));
  const problem = failure(messages);
  if (problem) item.append(make("pre", { className: "said bad", textContent: problem, tabIndex: 0 }));
  for (const file of files.filter((file) => !isPicture(file))) {
    item.append(make("p", { className: "files" }, link(file, file.filename)));
  }
  const remove = button("✕", `Remove job ${short(id)} from the history`, () => forget(id));
  remove.title = "Remove from the history; the files stay";
  item.append(make("div", { className: "caption" }, make("span", { className: "quiet", textContent: when(messages) }), remove));
  return item;
}

function picture(file) {
  const image = make("img", { alt: file.filename, loading: "lazy", decoding: "async" });
  const around = link(file, image);
  image.addEventListener("error", () => around.replaceChildren(make("span", { className: "lost", textContent: `${file.filename} is no longer there` })));
  image.src = around.href;
  return around;
}

function link(file, content) {
  const { filename, subfolder = "", type = "output" } = file;
  return make("a", { href: address("view", { filename, subfolder, type }), target: "_blank", rel: "noopener" }, content);
}

function failure({ execution_error: error, execution_interrupted: interrupted }) {
  if (error) return `${error.node_type} failed: ${error.exception_message}`.trim();
  return interrupted ? "Interrupted" : "";
}

function when(messages) {
  const begun = messages.execution_start?.timestamp;
  const end = (messages.execution_success ?? messages.execution_error ?? messages.execution_interrupted)?.timestamp;
  if (!begun) return "";
  const day = new Date(begun).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  return end ? `${day}, ${seconds(end - begun)}` : day;
}

async function forget(id) {
  await send("history", { delete: [id] });
  await refreshHistory();
}

// ---- the websocket --------------------------------------------------------------------------------------------

let retry = 1000;

function connect() {
  const url = address("ws", { clientId: client });
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  socket.addEventListener("open", () => {
    retry = 1000;
    show("up", "connected");
    socket.send(JSON.stringify({ type: "feature_flags", data: { comfyd_watch: true } }));
    attempt(refreshAll);
  });
  socket.addEventListener("message", ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : look(data)));
  socket.addEventListener("close", () => {
    show("down", "not connected");
    setTimeout(connect, retry);
    retry = Math.min(2 * retry, 15000);
  });
}

function show(kind, text) {
  find("connection").className = `pill ${kind}`;
  find("connection").textContent = text;
}

function hear({ type, data }) {
  if (data.prompt_id && data.prompt_id !== state.progress.job) state.progress = progressOf(data.prompt_id);
  if (type === "status") soon(refreshQueue);
  if (type === "execution_cached") state.progress.cached = data.nodes;
  if (type === "progress_state") {
    state.progress.nodes = data.nodes;
    requestAnimationFrame(showRunning);
  }
  if (["execution_success", "execution_error", "execution_interrupted"].includes(type)) showPreview(null);
  if (type === "status" || (type === "executing" && data.node === null)) soon(refreshHistory);
}

/** A picture of what is being made: plain, or behind a description in JSON. */
function look(buffer) {
  const view = new DataView(buffer);
  const [kind, second] = [view.getUint32(0), view.getUint32(4)];
  if (kind === 1) showPreview(new Blob([buffer.slice(8)], { type: second === 2 ? "image/png" : "image/jpeg" }));
  if (kind === 4) {
    const about = JSON.parse(new TextDecoder().decode(buffer.slice(8, 8 + second)));
    showPreview(new Blob([buffer.slice(8 + second)], { type: about.image_type }));
  }
}

const planned = new Map();

/** Does something once, a moment later, however often it is asked for until then. */
function soon(work) {
  if (planned.has(work)) return;
  planned.set(work, setTimeout(() => (planned.delete(work), attempt(work)), 120));
}

// ---- beginning ------------------------------------------------------------------------------------------------

async function refreshAll() {
  await Promise.all([refreshQueue(), refreshHistory(), refreshServer()]);
}

function onClick(id, work) {
  find(id).addEventListener("click", () => attempt(work));
}

onClick("interrupt", () => send("interrupt", { prompt_id: state.running?.id }));
onClick("clear-queue", async () => confirm("Delete every waiting job?") && send("queue", { clear: true }));
onClick("clear-history", async () => {
  if (!confirm("Clear the history? The files stay.")) return;
  await send("history", { clear: true });
  await refreshHistory();
});
onClick("more", () => {
  state.shown += PAGE;
  return refreshHistory();
});

find("hint").hidden = document.body.dataset.interface !== "none";
find("sign-out").hidden = document.body.dataset.session !== "open";
find("interface").hidden = document.body.dataset.interface === "none";
connect();
setInterval(() => document.visibilityState === "visible" && find("sign-in").hidden && attempt(refreshServer), 5000);
