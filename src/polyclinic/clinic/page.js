"use strict";
const $ = (id) => document.getElementById(id);

/** An element: properties by name, attributes where the name has a dash or is "role", then children (text or nodes). */
function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) (key.includes("-") || key === "role") ? made.setAttribute(key, value) : made[key] = value;
  made.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== ""));
  return made;
}
const say = (words) => { $("status").textContent = words; };
const bytes = (n) => n < 1024 ? `${n} bytes` : n < 1048576 ? `${(n / 1024).toFixed(0)} KiB` : `${(n / 1048576).toFixed(1)} MiB`;
const named = (files) => files.length > 3 ? `${files[0].name}, ${files[1].name} and ${files.length - 2} more` : files.map((f) => f.name).join(", ");
const plain = (word) => word.replaceAll("_", " ");

// ---- one patient at a time: a new drop forgets the last one, and an answer that comes late is thrown away

let turn = 0, running = null, limits = { bytes: Infinity, files: Infinity }, models = [], here = [];
const asked = () => models.length > 1 ? $("model").value : null; // of one there is nothing to name
const present = () => models.find((m) => m.run === asked()) ?? models[0]; // the model that is asked

function forget() {
  turn += 1;
  putAway();
  running?.abort();
  running = null;
  for (const id of ["busy", "refusal", "answer"]) $(id).hidden = true;
  for (const id of ["refusal", "answer", "busy-what"]) $(id).replaceChildren();
  say("");
  return turn;
}

async function take(coming) {
  const mine = forget();
  document.body.classList.add("taken");
  let files;
  try { files = await coming; } catch (error) { files = []; }
  if (mine !== turn) return;
  here = files;
  if (!files.length) return refuse([], { found: "nothing that is a file", expected: "files of one patient", do: "drop files, or choose them" });
  const total = files.reduce((sum, f) => sum + f.size, 0);
  if (total > limits.bytes) return refuse(files, { found: `${bytes(total)} in ${files.length} files`, expected: `at most ${bytes(limits.bytes)}, all files together`, do: "send fewer files, or start the service with a larger --limit-mb" });
  if (files.length > limits.files) return refuse(files, { found: `${files.length} files`, expected: `at most ${limits.files}`, do: "send one patient's files" });
  const run = asked(), draws = present()?.answers === false;
  running = new AbortController();
  $("busy").hidden = false;
  const begun = Date.now(), what = named(files);
  const tick = () => { $("busy-what").textContent = `Reading ${what} (${bytes(total)}) … ${Math.round((Date.now() - begun) / 1000)} s`; };
  tick();
  say(`Reading ${what}`);
  const clock = setInterval(() => mine === turn && tick(), 1000);
  let found, told;
  try {
    const response = await fetch(draws ? "/segment/begin" : "/predict", { ...toBegin(files, run), signal: running.signal });
    told = await response.json();
    found = response.ok;
  } catch (error) {
    [found, told] = [false, { found: "no answer from the service", expected: "a running service and files that can still be read", do: "see whether `polyclinic serve` still runs, and drop the files again" }];
  } finally { clearInterval(clock); }
  if (mine !== turn) {
    if (found && draws) fetch("/segment/end", inJson({ drawing: told.drawing })).catch(() => {});
    return;
  }
  running = null;
  $("busy").hidden = true;
  try { found ? (draws ? toDrawOn : answer)(files, run, told) : refuse(files, told); } catch (error) {
    refuse(files, { found: "an answer that this page cannot show", expected: "one of this version of the service", do: "reload the page; if it stays so, ask /predict as a program and report the fault" });
    throw error; // on the console, for whoever mends it
  }
}

function refuse(files, told) {
  $("refusal").replaceChildren(
    el("h2", {}, "No answer"),
    files.length ? el("p", {}, "For ", el("span", { className: "name" }, named(files))) : "",
    el("dl", {}, [["Found", told.found], ["Expected", told.expected], ["Do", told.do]].filter(([, words]) => words)
      .flatMap(([word, words]) => [el("dt", {}, word), el("dd", {}, String(words))])));
  $("refusal").hidden = false;
}

function answer(files, run, reply) {
  const pictures = reply.views.length > 0;
  $("answer").replaceChildren(lead(files, reply),
    el("div", { className: pictures ? "columns two" : "columns" },
      pictures ? viewer(files, run, reply) : "",
      el("div", { className: "stack" }, trust(reply), uses(reply), model(reply))));
  $("answer").hidden = false;
  say(`Answer for ${named(files)}: ${reply.headline}. ${reply.notice}`);
}

// ---- the parts of an answer

function lead(files, reply) {
  const skipped = new Set(["finding", "score"]); // those of the headline
  const values = reply.structures.length || reply.sentences.length ? [] : Object.entries(reply.values).filter(([key]) => !skipped.has(key));
  return el("section", { className: "lead", "aria-label": "Answer" }, el("div", {},
    el("p", { className: "about" }, "Answer for ", el("b", {}, named(files)), ` · ${new Date().toLocaleTimeString()} · ${plain(reply.task)}`),
    el("h2", { id: "headline" }, reply.sentences.length ? "A report, written by the model" : reply.headline),
    reply.sentences.length ? report(reply) : "",
    reply.structures.length && reply.structures.every((s) => s.size === 0) ? el("p", { className: "caution" }, "Nothing was drawn in this file.") : "",
    values.length ? el("dl", { className: "values" }, values.map(([key, value]) => el("div", {}, el("dt", {}, plain(key)), el("dd", {}, String(value))))) : ""),
    clearButton());
}
const clearButton = () => el("button", { type: "button", className: "second", id: "clear", onclick: () => { forget(); here = []; say("Cleared"); $("choose").focus(); } }, "Clear");

/** Sentences with what they rest on; a part of the picture is framed while its words are pointed at, and stays so after a click. */
function report(reply) {
  let kept = null;
  const frame = (region) => {
    document.querySelector(".picture .region")?.remove();
    const at = document.querySelector('.picture[data-modality="image"]');
    if (!region || !at) return;
    const box = el("div", { className: "region" });
    for (const side of ["left", "top"]) box.style[side] = `${100 * region[side]}%`;
    [box.style.width, box.style.height] = [`${100 * (region.right - region.left)}%`, `${100 * (region.bottom - region.top)}%`];
    at.append(box);
  };
  const ground = (s) => {
    if (!s.part) return el("span", {}, "rests on no one part of the picture");
    if (s.slices) return el("span", {}, `rests on slices ${s.slices[0]} to ${s.slices[1]}, ${s.part}`);
    if (!s.region) return el("span", {}, `rests on the ${s.part} of the picture`);
    const pressed = () => { for (const b of list.querySelectorAll("button")) b.setAttribute("aria-pressed", String(b === kept?.button)); };
    const button = el("button", { type: "button", "aria-pressed": "false", onclick: () => { kept = kept?.button === button ? null : { button, region: s.region }; pressed(); frame(kept?.region); } },
      `rests on the ${s.part} of the picture`);
    button.onmouseenter = button.onfocus = () => frame(s.region);
    button.onmouseleave = button.onblur = () => frame(kept?.region);
    return button;
  };
  const list = el("ol", { className: "sentences", id: "sentences" }, reply.sentences.map((s) => el("li", {}, el("p", {}, s.text),
    el("p", { className: "grounds" }, ground(s), s.against.length ? el("span", { className: "caution" }, `The picture says otherwise: ${s.against.map(plain).join(", ")}`) : ""))));
  return el("div", {}, list, reply.notes.map((note) => el("p", { className: "quiet" }, note)));
}

function trust(reply) {
  const { metric, alike } = reply.evidence ?? {};
  return el("section", { "aria-label": "How far to trust it" }, el("h2", {}, "How far to trust it"),
    el("p", { id: "uncertainty", className: reply.evidence ? "" : "caution" }, reply.uncertainty),
    metric && ![metric.value, metric.low, metric.high].includes(null) ? rule(`${metric.name} from ${metric.modalities.join(" + ")}, ${metric.n} test patients`, metric.value, metric.low, metric.high, metric.chance) : "",
    alike ? rule(`Truth was yes among the ${alike.n} test patients with the nearest scores`, alike.observed, alike.low, alike.high, null) : "");
}

/** A number between 0 and 1 with its 95% interval, as a line. */
function rule(label, value, low, high, chance) {
  const svg = (tag, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, v] of Object.entries(attributes)) made.setAttribute(key, v);
    made.textContent = text;
    return made;
  };
  const at = (v) => `${4 + 92 * Math.min(1, Math.max(0, v))}%`;
  const line = (kind, from, to) => svg("line", { class: kind, x1: at(from), x2: at(to), y1: 10, y2: 10 });
  const drawn = svg("svg", { class: "interval", role: "img", "aria-label": `${label}: ${value.toFixed(2)}, 95% interval ${low.toFixed(2)} to ${high.toFixed(2)}${chance === null ? "" : `; a guess reaches ${chance}`}` });
  drawn.append(line("rail", 0, 1), line("span", low, high));
  if (chance !== null) drawn.append(svg("line", { class: "chance", x1: at(chance), x2: at(chance), y1: 0, y2: 20 }), svg("text", { x: at(chance), y: 32, "text-anchor": "middle" }, "guess"));
  drawn.append(svg("circle", { class: "dot", cx: at(value), cy: 10, r: 6 }), svg("text", { x: at(0), y: 32, "text-anchor": "middle" }, "0"), svg("text", { x: at(1), y: 32, "text-anchor": "middle" }, "1"));
  return el("div", { className: "rule" }, el("span", { className: "quiet" }, `${label}: ${value.toFixed(2)} (${low.toFixed(2)} to ${high.toFixed(2)})`), drawn);
}

function uses(reply) {
  const row = (tag, kind, ...words) => el("li", {}, el("span", { className: `tag ${kind}` }, tag), el("span", {}, ...words));
  const files = (modality) => reply.read.filter((f) => f.modality === modality).flatMap((f, n) => [n ? ", " : "", el("span", { className: "name" }, f.file), ` (${f.kind})`]);
  return el("section", { "aria-label": "What was read" }, el("h2", {}, "What was read"),
    el("ul", { className: "uses", id: "uses" },
      reply.model.inputs.map((m) => reply.used.includes(m) ? row(m, "yes", "read: ", ...files(m)) : row(m, "no", "none: the answer is made without it")),
      reply.not_used.map((f) => row("left out", "no", el("span", { className: "name" }, f.file), `: ${f.why}`))),
    reply.whose ? el("p", { className: "quiet rule", id: "whose" }, reply.whose) : "");
}

function model(reply) {
  const m = reply.model;
  const rows = [["run", m.run], ["task", `${plain(m.task)} (${m.kind})`], ["learned from", m.answers ? `${m.labels} labelled patients, by ${m.method}` : "masks, while it was pretrained"], ["adapter", m.adapter], ["backbone", m.backbone], ["split", m.split]];
  return el("details", { className: "card", open: false }, el("summary", {}, `Which model ${m.answers ? "answered" : "draws"}: ${m.run}`),
    el("dl", { className: "facts" }, rows.flatMap(([key, value]) => [el("dt", {}, key), el("dd", { className: "mono" }, value)])));
}

// ---- the card: the few marks of Markdown that it uses

function written(markdown) {
  const parts = [], inline = (words) => words.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((w) => w.startsWith("**") ? el("b", {}, w.slice(2, -2)) : w.startsWith("`") ? el("span", { className: "mono" }, w.slice(1, -1)) : w);
  for (const block of markdown.trim().split(/\n\s*\n/)) {
    const lines = block.split("\n"), cells = (line) => line.replace(/^\||\|$/g, "").split("|").map((c) => c.trim());
    if (block.startsWith("#")) parts.push(el("h3", {}, ...inline(lines[0].replace(/^#+\s*/, ""))));
    else if (lines[0].startsWith("- ")) parts.push(el("ul", {}, lines.map((l) => el("li", {}, ...inline(l.slice(2))))));
    else if (lines[0].startsWith("|")) parts.push(el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Figures" }, el("table", {}, lines.filter((l) => !/^[|\s:-]+$/.test(l))
      .map((l, n) => el("tr", {}, cells(l).map((c) => el(n ? "td" : "th", {}, ...inline(c))))))));
    else parts.push(el("p", {}, ...inline(block)));
  }
  return parts;
}

$("card").addEventListener("toggle", async () => {
  if (!$("card").open || $("card-text").childElementCount) return;
  try { $("card-text").replaceChildren(...written((await (await fetch(asked() ? `/card?run=${encodeURIComponent(asked())}` : "/card")).json()).markdown)); } catch (error) { $("card-text").textContent = "The service does not answer."; }
});

// ---- how files come in

/** The files of a drop, those of dropped folders too; asked for at once, because the browser forgets them afterwards. */
function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean), files = [...transfer.files];
  if (!entries.some((entry) => entry.isDirectory)) return Promise.resolve(files);
  const walk = async (entry) => {
    if (entry.isFile) return [await new Promise((good, bad) => entry.file(good, bad))];
    const reader = entry.createReader(), inside = [];
    for (let some; (some = await new Promise((good, bad) => reader.readEntries(good, bad))).length;) inside.push(...some);
    return (await Promise.all(inside.map(walk))).flat();
  };
  return Promise.all(entries.map(walk)).then((found) => visible(found.flat()));
}
const visible = (files) => files.filter((f) => !f.name.startsWith(".")); // a system's own files in a folder

let depth = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); depth += 1; document.body.classList.add("over"); });
addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) document.body.classList.remove("over"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => { // anywhere: a file that misses the frame must not replace the page
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("over");
  take(dropped(event.dataTransfer));
});
for (const [button, input, some] of [["choose", "files", (f) => f], ["choose-folder", "folder", visible]]) {
  $(button).onclick = () => $(input).click();
  $(input).onchange = () => { const files = [...$(input).files]; $(input).value = ""; if (files.length) take(some(files)); };
}
/** The model that will be asked: its name, what it reads; its card is asked for when it is opened. */
function introduce() {
  const m = present();
  $("who").textContent = `${plain(m.task)} · ${m.run} · ${m.adapter.slice(0, 8)}`;
  $("reads").textContent = `This model reads ${m.inputs.join(", ")}${m.inputs.length > 1 ? ": any of them" : ""}.`;
  document.title = `polyclinic: ${plain(m.task)}`;
  $("card-text").replaceChildren();
  $("card").open = false;
}
$("model").onchange = () => { // another model's answer must not stand under this one's name; the same patient's files are asked anew
  introduce();
  const files = here;
  files.length ? take(files) : forget();
};

$("cancel").onclick = () => { forget(); here = []; say("Stopped"); };

(async () => {
  try {
    const told = await (await fetch("/health")).json();
    limits = { bytes: told.limit_bytes, files: told.most_files };
    models = told.models;
    const called = (m) => m.answers ? plain(m.task) : `drawing what is shown`;
    $("model").replaceChildren(...models.map((m) => el("option", { value: m.run }, models.filter((o) => called(o) === called(m)).length > 1 ? `${called(m)} (${m.run})` : called(m))));
    $("which").hidden = models.length < 2;
    introduce();
  } catch (error) { $("who").textContent = "The service does not answer."; }
})();
