"use strict";
// Drawing what is shown. Marks are kept in the record's own samples, in the order in which they were made; pictures only show them.

let begun = null; // the one record that is being drawn on

/** The service forgets the record; called whenever the page does. */
function putAway() {
  if (!begun) return;
  fetch("/segment/end", { ...inJson({ drawing: begun.drawing }), keepalive: true }).catch(() => {});
  begun.over = true;
  begun = null;
}
addEventListener("pagehide", putAway);

const inJson = (body) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
const NO_SERVICE = { found: "no answer from the service", expected: "a running service", do: "see whether `polyclinic serve` still runs, and try again" };

/** What an address says to JSON or a form: whether it was taken, its status, and what it told. */
async function asks(address, options) {
  try {
    const response = await fetch(address, options);
    return { ok: response.ok, status: response.status, told: await response.json() };
  } catch (error) { return { ok: false, status: 0, told: NO_SERVICE }; }
}

const toBegin = (files, run) => {
  const body = new FormData();
  for (const file of files) body.append("files", file, file.name);
  if (run) body.append("run", run);
  return { method: "POST", body };
};

// ---- from a place in a picture to a place in the record, and back

const round2 = (v) => Math.round(v * 100) / 100;
const within = (v, low, high) => Math.min(high, Math.max(low, v));

/** The record's samples at a share of the picture's width and height, on its slice n. */
const placeOf = ({ axes, view }, u, v, n) => axes.map(({ along, samples, reversed }) => {
  const at = along === "slice" ? view.slices[n].place - 1 : within((along === "column" ? u : v) * samples - 0.5, 0, samples - 1);
  return round2(reversed ? samples - 1 - at : at);
});

/** Where a place lies: shares of the picture's width and height, and the slice, from 0, of the source. */
function shareOf({ axes }, place) {
  const found = { column: 0, row: 0, slice: 0 };
  axes.forEach(({ along, samples, reversed }, i) => {
    const at = reversed ? samples - 1 - place[i] : place[i];
    found[along] = along === "slice" ? at : (at + 0.5) / samples;
  });
  return found;
}

/** The prompt that some marks make together: all points, the last box, the last name. */
function promptOf(marks) {
  const of = (kind) => marks.filter((m) => m.kind === kind);
  return { points: of("on").map((m) => m.at), off: of("off").map((m) => m.at), box: of("box").at(-1)?.corners ?? null, name: of("name").at(-1)?.name || null };
}

// ---- what is drawn

/** Marks and the mask of them; every change asks again, and while an answer is on its way the changes wait together. */
function sketch(files, run, told, changed) {
  begun = told;
  const it = { told, marks: [], drawn: null, refused: null, waiting: false, since: 0 };
  let good = 0, stale = false;

  async function ask(address = "/segment") {
    const prompt = promptOf(it.marks);
    let found = await asks(address, inJson({ drawing: it.told.drawing, ...prompt }));
    if (found.status === 410 && !told.over) { // forgotten while nobody drew: the page still has the files
      const again = await asks("/segment/begin", toBegin(files, run));
      if (!again.ok) return again;
      begun = it.told = again.told;
      found = await asks(address, inJson({ drawing: it.told.drawing, ...prompt }));
    }
    return found;
  }

  async function draw() {
    if (it.waiting) { stale = true; return; }
    const count = it.marks.length, { points, box, name } = promptOf(it.marks);
    it.refused = null;
    if (!points.length && !box && !name) { // nothing on it yet
      [it.drawn, good] = [null, count];
      return changed();
    }
    [it.waiting, it.since, stale] = [true, Date.now(), false];
    changed();
    const found = await ask();
    if (told.over) return;
    it.waiting = false;
    if (stale) return draw();
    if (found.ok) [it.drawn, good] = [found.told, count];
    else { // what was not taken is taken back, so that the mask is always that of the marks
      it.refused = found.told;
      it.marks.length = Math.min(good, it.marks.length);
    }
    changed(found.ok);
  }

  it.add = (mark) => { it.marks.push(mark); return draw(); };
  it.undo = () => { if (it.marks.pop()) { good = Math.min(good, it.marks.length); return draw(); } };
  it.clear = () => { it.marks.length = good = 0; return draw(); };
  it.file = async () => { // the bytes of the mask's file
    const response = await fetch("/segment/file", inJson({ drawing: it.told.drawing, ...promptOf(it.marks) })).catch(() => null);
    if (response?.status === 410) { await ask(); return it.file(); }
    if (!response?.ok) { it.refused = response ? await response.json() : NO_SERVICE; changed(); return null; }
    return response.blob();
  };
  return it;
}

// ---- the section of the page

function drawingSection(files, run, told, back = null) {
  const { view } = told, single = view.slices.length === 1, ways = new Set(told.ways);
  const hand = { mode: ways.has("point") ? "on" : "box", cross: null, corner: null, band: null, kept: new Map() };
  const it = sketch(files, run, told, changed);
  const shown = { outline: false, opacity: 0.45, off: new Set() };

  const size = el("p", { id: "drawn", className: "drawn" }), wait = el("p", { id: "waiting", className: "quiet", hidden: true });
  const refused = el("p", { id: "not-taken", className: "caution", role: "alert", hidden: true });
  const list = el("ol", { id: "marks", className: "marks" });
  const undo = el("button", { type: "button", className: "second", id: "undo", onclick: () => it.undo() }, "Undo");
  const clear = el("button", { type: "button", className: "second", id: "clear-marks", onclick: () => it.clear() }, "Clear marks");
  const save = el("button", { type: "button", id: "save", onclick: keep }, `Save the mask (${single ? ".png" : ".nii.gz"})`);
  const most = el("button", { type: "button", className: "second", id: "most", onclick: () => hand.go(it.drawn.fullest) }, "Slice with most of it");
  const reach = el("button", { type: "button", className: "second", id: "reach", onclick: () => { const box = promptOf(it.marks).box; if (box) it.add({ kind: "box", corners: hull([...box, placeOf(told, 0, 0, hand.slice())], told.axes, box) }); } }, "Box to this slice");

  /** The smallest box that holds some places; of `only`, where given, columns and rows stay as they are. */
  function hull(corners, axes, only = null) {
    const end = (pick) => axes.map((axis, i) => pick(...(only && axis.along !== "slice" ? only : corners).map((c) => c[i])));
    return [end(Math.min), end(Math.max)];
  }
  const sliceAxis = told.axes.findIndex((a) => a.along === "slice");
  const spans = (corners) => corners.map((c) => shareOf(told, c).slice).sort((a, b) => a - b);

  /** A box between two shares of the picture; beyond the slices of the last one it grows, within them it takes its place. */
  function boxed(a, b) {
    const n = hand.slice(), corners = hull([placeOf(told, a.u, a.v, n), placeOf(told, b.u, b.v, n)], told.axes);
    const last = promptOf(it.marks).box;
    if (last && sliceAxis >= 0) {
      const [low, high] = spans(last), at = view.slices[n].place - 1;
      if (at < low || at > high) return it.add({ kind: "box", corners: hull([...last, ...corners], told.axes) });
    }
    return it.add({ kind: "box", corners });
  }
  const point = (kind, { u, v }) => it.add({ kind, at: placeOf(told, u, v, hand.slice()) });

  // -- what stands under the picture

  const said = (place) => place.map((p) => Math.round(p)).join(", ");
  const word = (mark) => mark.kind === "name" ? `name: ${mark.name || "none"}` : mark.kind === "box"
    ? `box${single ? "" : `, slices ${spans(mark.corners).map((s) => Math.round(s) + 1).join(" to ")}`}`
    : `${mark.kind === "on" ? "on it" : "beside it"}${single ? "" : `, slice ${Math.round(shareOf(told, mark.at).slice) + 1}`}`;

  function changed(fresh = false) {
    const { drawn, marks } = it, asking = promptOf(marks), some = drawn?.structure.size > 0;
    wait.hidden = !it.waiting;
    wait.textContent = it.waiting ? "Drawing …" : "";
    place.classList.toggle("waiting", it.waiting);
    place.setAttribute("aria-busy", String(it.waiting));
    refused.hidden = !it.refused;
    refused.textContent = it.refused ? `Not taken: ${it.refused.found}. Expected ${it.refused.expected}. ${it.refused.do[0]?.toUpperCase() ?? ""}${it.refused.do.slice(1)}.` : "";
    const about = drawn ? extent(drawn) : [];
    size.replaceChildren(...(drawn ? [el("span", { className: "swatch", "aria-hidden": "true" }), el("b", {}, some ? drawn.headline : `${drawn.structure.name}: nothing was drawn`), about.length ? el("span", { className: "quiet" }, ` · ${about.join(" · ")}`) : ""]
      : [el("span", { className: "quiet" }, asking.off.length ? "Points beside it need one on it, a box or a name." : "Nothing is shown yet.")]));
    if (drawn) size.querySelector(".swatch").style.background = drawn.structure.colour;
    undo.disabled = clear.disabled = !marks.length;
    save.disabled = !some || it.waiting;
    [most.hidden, reach.hidden] = [single || !some, single || !asking.box];
    list.replaceChildren(...marks.map((mark) => {
      const glyph = { on: "+", off: "−", box: "▭", name: "“”" }[mark.kind], at = mark.at ?? mark.corners?.[0];
      const inside = [el("span", { className: `glyph ${mark.kind}`, "aria-hidden": "true" }, glyph), word(mark)];
      return el("li", {}, at && !single ? el("button", { type: "button", onclick: () => hand.go(near(shareOf(told, at).slice)) }, inside) : el("span", {}, inside));
    }));
    if (name) name.value = asking.name ?? "";
    if (fresh) { // not read while it is in the making
      hand.kept.clear();
      say(`${drawn.headline}${about.length ? `, ${about.join(", ")}` : ""}`);
      const headline = $("headline");
      if (headline && !back) headline.textContent = drawn.headline;
    } else if (!drawn) hand.kept.clear();
    hand.redraw?.();
  }
  const near = (slice) => view.slices.reduce((best, s, n) => Math.abs(s.place - 1 - slice) < Math.abs(view.slices[best].place - 1 - slice) ? n : best, 0);

  /** Which slices the mask is on, or how large it is at the file's scale. */
  function extent(drawn) {
    if (!single) {
      const on = drawn.masks.flatMap((m, n) => m ? [view.slices[n].place] : []);
      return on.length ? [on.length === 1 ? `on slice ${on[0]}` : `on slices ${on[0]} to ${on.at(-1)}`] : [];
    }
    return drawn.area_cm2 ? [`${drawn.area_cm2 >= 100 ? Math.round(drawn.area_cm2) : drawn.area_cm2.toPrecision(3)} cm² at the file’s scale`] : [];
  }

  async function keep() {
    const blob = await it.file();
    if (!blob) return;
    const called = promptOf(it.marks).name ?? "structure", link = el("a", { href: URL.createObjectURL(blob) });
    link.download = `${view.file.replace(/ \(a series of .*\)$/, "").replace(/\.(nii\.gz|nii|dcm|png|jpe?g|tiff?)$/i, "")}-${called.replaceAll(" ", "_")}.mask${single ? ".png" : ".nii.gz"}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`Saved ${link.download}`);
  }

  // -- the picture: marks on it, and the hand

  hand.labels = async (n) => {
    const png = it.drawn?.masks[n];
    if (!png) return null;
    if (!hand.kept.has(n)) hand.kept.set(n, pixels(png));
    return hand.kept.get(n);
  };
  hand.colours = () => ({ 1: [1, 3, 5].map((i) => parseInt((it.drawn?.structure.colour ?? "#e69f00").slice(i, i + 2), 16)) });
  hand.strength = () => it.waiting ? 0.4 : 1; // what is on the screen is not yet the mask of the marks
  hand.paint = (pen, n, scale) => {
    const { width, height } = pen.canvas, here = view.slices[n].place - 1;
    const box = promptOf(it.marks).box, on = (slice) => single || Math.abs(slice - here) < 0.5;
    const rectangle = (a, b) => twice(pen, scale, () => pen.strokeRect(Math.min(a.u, b.u) * width, Math.min(a.v, b.v) * height, Math.abs(a.u - b.u) * width, Math.abs(a.v - b.v) * height));
    if (box) {
      const [a, b] = box.map((c) => shareOf(told, c)), [low, high] = spans(box);
      if (single || (here >= low - 0.5 && here <= high + 0.5)) rectangle({ u: a.column, v: a.row }, { u: b.column, v: b.row });
    }
    if (hand.band) rectangle(...hand.band);
    for (const mark of it.marks) {
      if (mark.kind !== "on" && mark.kind !== "off") continue;
      const { column, row, slice } = shareOf(told, mark.at);
      if (on(slice)) dot(pen, column * width, row * height, scale, mark.kind);
    }
    if (hand.corner) dot(pen, hand.corner.u * width, hand.corner.v * height, scale, "corner");
    if (hand.cross) cross(pen, hand.cross.u * width, hand.cross.v * height, scale);
  };
  hand.hold = (canvas, controls) => {
    Object.assign(hand, controls, { canvas });
    hand.wake();
    hand.cross = null;
    let from = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return { u: within((event.clientX - box.left) / box.width, 0, 1), v: within((event.clientY - box.top) / box.height, 0, 1), x: event.clientX, y: event.clientY };
    };
    const beside = (event) => (hand.mode === "off") !== (event.shiftKey || event.button === 2);
    canvas.oncontextmenu = (event) => event.preventDefault();
    canvas.onpointerdown = (event) => {
      if (event.button !== 0 && event.button !== 2) return;
      from = { ...at(event), beside: beside(event), touch: event.pointerType === "touch" };
      hand.cross = null;
      canvas.setPointerCapture(event.pointerId);
    };
    canvas.onpointermove = (event) => {
      if (!from || !ways.has("box") || (from.touch && hand.mode !== "box")) return;
      const now = at(event);
      hand.band = Math.hypot(now.x - from.x, now.y - from.y) > 5 ? [from, now] : null;
      hand.redraw();
    };
    canvas.onpointercancel = () => { [from, hand.band] = [null, null]; hand.redraw(); };
    canvas.onpointerup = (event) => {
      if (!from) return;
      const [begin, band] = [from, hand.band];
      [from, hand.band] = [null, null];
      if (band) boxed(begin, at(event));
      else if (hand.mode !== "box" && ways.has("point")) point(begin.beside ? "off" : "on", begin);
      else { hand.redraw(); say("Drag a box around it"); }
    };
    canvas.onkeydown = (event) => {
      const step = (event.shiftKey ? 10 : 1) / Math.max(hand.pixels(), 1), now = hand.cross ?? { u: 0.5, v: 0.5 };
      const by = { ArrowUp: [0, -step], ArrowDown: [0, step], ArrowLeft: [-step, 0], ArrowRight: [step, 0] }[event.key];
      const slices = single ? 0 : { PageUp: 1, PageDown: -1, Home: -view.slices.length, End: view.slices.length }[event.key];
      const undoes = event.key === "Backspace" || event.key === "Delete" || (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey));
      if (!undoes && (event.ctrlKey || event.metaKey || event.altKey)) return;
      if (by) { hand.cross = { u: within(now.u + by[0], 0, 1), v: within(now.v + by[1], 0, 1) }; hand.redraw(); }
      else if (slices) hand.move(slices);
      else if ((event.key === "Enter" || event.key === " ") && ways.has("point")) { hand.cross = now; point((hand.mode === "off") !== event.shiftKey ? "off" : "on", now); }
      else if (event.key.toLowerCase() === "b" && ways.has("box")) {
        hand.cross = now;
        const first = hand.corner;
        hand.corner = first ? null : now;
        first ? boxed(first, now) : (say("First corner of a box; go to the opposite one and press B again"), hand.redraw());
      } else if (undoes) it.undo();
      else if (event.key === "Escape") { [hand.corner, hand.cross] = [null, null]; hand.redraw(); }
      else return;
      event.preventDefault();
    };
    canvas.onblur = () => { hand.cross = null; hand.redraw(); };
  };
  hand.wake = () => hand.canvas.classList.toggle("boxes", hand.mode === "box");

  const choose = (mode, words, title) => el("label", { title }, el("input", { type: "radio", name: "mode", value: mode, checked: hand.mode === mode, onchange: () => { hand.mode = mode; hand.wake(); } }), words);
  const modes = el("fieldset", { className: "pick modes" }, el("legend", { className: "sr" }, "What a click means"),
    ways.has("point") ? [choose("on", "Point on it", "click"), choose("off", "Point beside it", "Shift and click, or the right button")] : "",
    ways.has("box") ? choose("box", "Box around it", "drag") : "");
  const name = told.names.length ? el("select", { id: "name", onchange: () => it.add({ kind: "name", name: name.value }) }, el("option", { value: "" }, "no name"), told.names.map((n) => el("option", { value: n }, n))) : null;
  const by = [ways.has("point") ? "Click on the structure; with Shift or the right button, beside it." : "", ways.has("box") ? `Drag a box around it${single ? "" : ", on its first slice and on its last"}.` : "",
    name ? "Or choose its name." : "", "More marks mend what was drawn."].filter(Boolean).join(" ");
  const [caption, figure, tools] = picture(view, [], shown, hand);
  const place = el("div", {}, caption, figure, el("div", { className: "result" }, size, wait), tools);
  const keys = ["Arrow keys on the picture move a cross (with Shift, by ten pixels)", ways.has("point") ? "Enter sets a point on the structure, Shift and Enter one beside it" : "", ways.has("box") ? "B sets a corner of a box, and B again the opposite one" : "", "Backspace or Ctrl and Z undo", single ? "" : "Page Up and Page Down go towards head and feet"].filter(Boolean);
  changed();
  return el("section", { "aria-label": "Drawing", id: "drawing" }, el("h2", {}, "Show it a structure"), el("p", { className: "caption quiet", id: "how" }, by),
    el("div", { className: "hand" }, modes, name ? el("label", { className: "named" }, "Name ", name) : "", el("span", { className: "mend" }, undo, clear)),
    place, refused, list,
    el("div", { className: "buttons" }, reach, most, save, back ? el("button", { type: "button", className: "second", id: "back", onclick: () => { putAway(); back(); } }, "Back to the answer’s picture") : ""),
    el("details", {}, el("summary", {}, "With the keyboard"), el("ul", { className: "keys" }, keys.map((k) => el("li", {}, `${k}.`)))),
    el("p", { className: "quiet" }, `The record stays in the service’s memory until it is cleared here, or for ${Math.round(told.kept_s / 60)} minutes after the last mark.`));
}

/** A stroke that is seen on any grey: dark below, light and dashed above. */
function twice(pen, scale, stroke) {
  for (const [colour, width, dash] of [["#000", 4, []], ["#ffe066", 2, [7, 4]]]) {
    [pen.strokeStyle, pen.lineWidth] = [colour, width * scale];
    pen.setLineDash(dash.map((d) => d * scale));
    stroke();
  }
  pen.setLineDash([]);
}

/** A point: on it black on white with a plus, beside it white on black with a minus. */
function dot(pen, x, y, scale, kind) {
  const [inside, ink] = kind === "off" ? ["#000", "#fff"] : ["#fff", "#000"], r = (kind === "corner" ? 4 : 8) * scale;
  pen.beginPath();
  pen.arc(x, y, r, 0, 2 * Math.PI);
  [pen.fillStyle, pen.strokeStyle, pen.lineWidth] = [inside, ink, 2 * scale];
  pen.fill();
  pen.stroke();
  if (kind === "corner") return;
  pen.beginPath();
  pen.moveTo(x - 4.5 * scale, y);
  pen.lineTo(x + 4.5 * scale, y);
  if (kind === "on") { pen.moveTo(x, y - 4.5 * scale); pen.lineTo(x, y + 4.5 * scale); }
  pen.stroke();
}

/** The cross of the keyboard, open in its middle. */
function cross(pen, x, y, scale) {
  const arms = () => {
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { pen.moveTo(x + 5 * dx * scale, y + 5 * dy * scale); pen.lineTo(x + 18 * dx * scale, y + 18 * dy * scale); }
    pen.stroke();
  };
  for (const [colour, width] of [["#000", 4], ["#ffe066", 2]]) { [pen.strokeStyle, pen.lineWidth] = [colour, width * scale]; arms(); }
}

/** Beside an answer: the way to draw on its picture. */
function offerDrawing(files, run, section) {
  const refused = el("p", { className: "caution", role: "alert", hidden: true });
  const button = el("button", { type: "button", className: "second", id: "draw", onclick: async () => {
    const mine = turn;
    button.disabled = true;
    button.textContent = "Reading …";
    const { ok, told } = await asks("/segment/begin", toBegin(files, run));
    button.disabled = false;
    button.textContent = "Show it a structure";
    if (mine !== turn) { if (ok) fetch("/segment/end", inJson({ drawing: told.drawing })).catch(() => {}); return; }
    refused.hidden = ok;
    if (!ok) { refused.textContent = `Not taken: ${told.found}. Expected ${told.expected}. ${told.do}.`; return; }
    const drawn = drawingSection(files, run, told, () => drawn.replaceWith(section()));
    button.closest("section").replaceWith(drawn);
    $("picture").focus();
  } }, "Show it a structure");
  return el("div", { className: "tools" }, el("p", { className: "quiet" }, "This run also draws what it is shown by points or a box: a question of its own, which does not change the answer."), el("div", {}, button), refused);
}

/** The page of a run that only draws. */
function toDrawOn(files, run, told) {
  const used = [...new Set(told.read.map((r) => r.modality))], reply = { ...told, used };
  $("answer").replaceChildren(
    el("section", { className: "lead", "aria-label": "Answer" }, el("div", {},
      el("p", { className: "about" }, "Drawing on ", el("b", {}, told.view.file), ` · ${new Date().toLocaleTimeString()} · ${told.model.run}`),
      el("h2", { id: "headline" }, "Show what is to be drawn")), clearButton()),
    el("div", { className: "columns two" }, drawingSection(files, run, told), el("div", { className: "stack" }, trust(reply), uses(reply), model(reply))));
  $("answer").hidden = false;
  say(`${told.view.file} can be drawn on. ${told.notice}`);
}
