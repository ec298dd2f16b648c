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
  body.append("pictures", "samples");
  return { method: "POST", body };
};

// ---- from a place in a picture to a place in the record, and back

const round2 = (v) => Math.round(v * 100) / 100;

/** The record's samples at a place (see planes.js). */
const sampleOf = ({ axes }, place) => axes.map(({ along, samples, reversed }) => {
  const at = along === "slice" ? place.slice : within(place[along] * samples - 0.5, 0, samples - 1);
  return round2(reversed ? samples - 1 - at : at);
});

/** The place of a record's samples. */
function placeOf({ axes }, sample) {
  const found = { column: 0, row: 0, slice: 0 };
  axes.forEach(({ along, samples, reversed }, i) => {
    const at = reversed ? samples - 1 - sample[i] : sample[i];
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
  const hand = { mode: ways.has("point") ? "on" : "box", cross: null, corner: null, band: null, kept: new Map(), sheets: new Map() };
  const it = sketch(files, run, told, changed);
  const shown = { outline: false, opacity: 0.45, off: new Set() };

  const size = el("p", { id: "drawn", className: "drawn" }), wait = el("p", { id: "waiting", className: "quiet", hidden: true });
  const refused = el("p", { id: "not-taken", className: "caution", role: "alert", hidden: true });
  const list = el("ol", { id: "marks", className: "marks" });
  const undo = el("button", { type: "button", className: "second", id: "undo", onclick: () => it.undo() }, "Undo");
  const clear = el("button", { type: "button", className: "second", id: "clear-marks", onclick: () => it.clear() }, "Clear marks");
  const save = el("button", { type: "button", id: "save", onclick: keep }, `Save the mask (${single ? ".png" : ".nii.gz"})`);
  const most = el("button", { type: "button", className: "second", id: "most", onclick: async () => { const n = await fullestOf(view, hand.plane(), hand); if (n !== null) hand.go(hand.plane().at(0.5, 0.5, n)); } }, "Slice with most of it");
  const reach = el("button", { type: "button", className: "second", id: "reach", onclick: () => { const box = promptOf(it.marks).box; if (box) it.add({ kind: "box", plane: hand.plane().name, corners: hull([...box, sampleOf(told, hand.plane().at(0, 0, hand.slice()))], box) }); } }, "Box to this slice");

  /** The smallest box that holds some samples; of `only`, where given, it keeps the sides that lie in the plane that is looked at. */
  function hull(corners, only = null) {
    const { normal } = hand.plane(), end = (pick) => told.axes.map((axis, i) => pick(...(only && axis.along !== normal ? only : corners).map((c) => c[i])));
    return [end(Math.min), end(Math.max)];
  }
  /** From where to where some samples reach across a plane, in its own samples. */
  const reaches = (corners, plane) => corners.map((c) => plane.onto(placeOf(told, c)).place).sort((a, b) => a - b);
  const spans = (corners) => reaches(corners, stackOf(view).planes.axial);

  /** A box between two places of the picture. Beyond the slices of the last one it grows; within them it takes its place, and of one
   * that was drawn on another plane the depth stays. */
  function boxed(a, b) {
    const plane = hand.plane(), n = hand.slice(), corners = hull([a, b].map(({ u, v }) => sampleOf(told, plane.at(u, v, n))));
    const last = it.marks.findLast((m) => m.kind === "box"), add = (made) => it.add({ kind: "box", plane: plane.name, corners: made });
    if (!last || single) return add(corners);
    const [low, high] = reaches(last.corners, plane), at = plane.places[n];
    if (at < low - 0.5 || at > high + 0.5) return add(hull([...last.corners, ...corners]));
    if (last.plane === plane.name) return add(corners);
    const deep = told.axes.findIndex((axis) => axis.along === plane.normal);
    return add(corners.map((c, end) => c.map((v, i) => i === deep ? last.corners[end][i] : v)));
  }
  function point(kind, { u, v }) {
    const place = hand.plane().at(u, v, hand.slice());
    hand.pointed(place);
    return it.add({ kind, at: sampleOf(told, place) });
  }

  // -- what stands under the picture

  const said = (place) => place.map((p) => Math.round(p)).join(", ");
  const word = (mark) => mark.kind === "name" ? `name: ${mark.name || "none"}` : mark.kind === "box"
    ? `box${single ? "" : `, slices ${spans(mark.corners).map((s) => Math.round(s) + 1).join(" to ")}`}`
    : `${mark.kind === "on" ? "on it" : "beside it"}${single ? "" : `, slice ${Math.round(placeOf(told, mark.at).slice) + 1}`}`;

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
      return el("li", {}, at && !single ? el("button", { type: "button", onclick: () => hand.go(placeOf(told, at)) }, inside) : el("span", {}, inside));
    }));
    if (name) name.value = asking.name ?? "";
    if (fresh) { // not read while it is in the making
      forgetSheets();
      say(`${drawn.headline}${about.length ? `, ${about.join(", ")}` : ""}`);
      const headline = $("headline");
      if (headline && !back) headline.textContent = drawn.headline;
    } else if (!drawn) forgetSheets();
    hand.redraw?.();
  }

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

  const forgetSheets = () => { hand.kept.clear(); hand.sheets.clear(); };
  hand.read = (k) => {
    const png = it.drawn?.masks[k];
    if (!hand.sheets.has(k)) hand.sheets.set(k, png ? pixels(png) : Promise.resolve(null));
    return hand.sheets.get(k);
  };
  hand.colours = () => ({ 1: rgb(it.drawn?.structure.colour ?? "#e69f00") });
  hand.strength = () => it.waiting ? 0.4 : 1; // what is on the screen is not yet the mask of the marks
  hand.paint = (pen, plane, n, scale) => {
    const { width, height } = pen.canvas, here = plane.places[n], box = promptOf(it.marks).box;
    const rectangle = (a, b) => twice(pen, scale, () => pen.strokeRect(Math.min(a.u, b.u) * width, Math.min(a.v, b.v) * height, Math.abs(a.u - b.u) * width, Math.abs(a.v - b.v) * height));
    if (box) {
      const [low, high] = reaches(box, plane);
      if (single || (here >= low - 0.5 && here <= high + 0.5)) rectangle(...box.map((c) => plane.onto(placeOf(told, c))));
    }
    if (hand.band) rectangle(...hand.band);
    for (const mark of it.marks) {
      if (mark.kind !== "on" && mark.kind !== "off") continue;
      const { u, v, place } = plane.onto(placeOf(told, mark.at));
      if (single || plane.nearest(place) === n) dot(pen, u * width, v * height, scale, mark.kind);
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
      from = { ...at(event), beside: beside(event), touch: event.pointerType === "touch", right: event.button === 2 };
      hand.cross = null;
      canvas.setPointerCapture(event.pointerId);
    };
    canvas.onpointermove = (event) => {
      if (!from) return;
      const now = at(event);
      from.moved ||= Math.hypot(now.x - from.x, now.y - from.y) > CLICK;
      if (from.right || !ways.has("box") || (from.touch && hand.mode !== "box")) return;
      hand.band = from.moved ? [from, now] : null;
      hand.redraw();
    };
    canvas.onpointercancel = () => { [from, hand.band] = [null, null]; hand.redraw(); };
    canvas.onpointerup = (event) => {
      if (!from) return;
      const [begin, band] = [from, hand.band];
      [from, hand.band] = [null, null];
      if (band) boxed(begin, at(event));
      else if (begin.right && begin.moved && view.levels) return; // it was grey levels that were dragged
      else if (hand.mode !== "box" && ways.has("point")) point(begin.beside ? "off" : "on", begin);
      else { hand.redraw(); say("Drag a box around it"); }
    };
    canvas.onkeydown = (event) => {
      const { width, height, places } = hand.plane(), step = event.shiftKey ? 10 : 1, now = hand.cross ?? { u: 0.5, v: 0.5 };
      const by = { ArrowUp: [0, -step / height], ArrowDown: [0, step / height], ArrowLeft: [-step / width, 0], ArrowRight: [step / width, 0] }[event.key];
      const slices = single ? 0 : { PageUp: 1, PageDown: -1, Home: -places.length, End: places.length }[event.key];
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
  const by = [ways.has("point") ? "Click on the structure; with Shift or the right button, beside it." : "", ways.has("box") ? `Drag a box around it${single ? "" : ", on its first slice and on its last, or on two planes"}.` : "",
    name ? "Or choose its name." : "", "More marks mend what was drawn."].filter(Boolean).join(" ");
  const [caption, planes, figure, tools] = picture(view, [], shown, hand);
  const place = el("div", {}, caption, planes, figure, el("div", { className: "result" }, size, wait), tools);
  const keys = ["Arrow keys on the picture move a cross (with Shift, by ten pixels)", ways.has("point") ? "Enter sets a point on the structure, Shift and Enter one beside it" : "", ways.has("box") ? "B sets a corner of a box, and B again the opposite one" : "", "Backspace or Ctrl and Z undo", single ? "" : "Page Up and Page Down go through the slices; A, C and S turn to the axial, coronal and sagittal plane",
    view.levels ? "1 to 9 choose grey levels, and the sliders below change them" : ""].filter(Boolean);
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
