"use strict";
// A view as a person looks at it: a slice of one of its planes at some grey levels, with what was drawn over it.

function viewer(files, run, reply) {
  const shown = { outline: false, opacity: 0.5, off: new Set() };
  const place = el("div"), drawn = reply.views.findIndex((v) => v.slices.some((s) => s.mask));
  const open = (number) => { place.replaceChildren(...picture(reply.views[number], reply.structures, shown)); };
  const pick = reply.views.length < 2 ? "" : el("fieldset", { className: "pick" }, el("legend", { className: "sr" }, "Which picture"),
    reply.views.map((v, n) => el("label", {}, el("input", { type: "radio", name: "view", checked: n === Math.max(drawn, 0), onchange: () => open(n) }), v.file)));
  open(Math.max(drawn, 0));
  const draws = reply.model.draws && reply.views.some((v) => v.modality === reply.model.draws);
  return el("section", { "aria-label": "Pictures" }, pick, place, draws ? offerDrawing(files, run, () => viewer(files, run, reply)) : "");
}

/** A view's picture and its tools; `hand` is what draws on it (see drawing.js), where somebody does. */
function picture(view, structures, shown, hand = null) {
  const stack = stackOf(view), { planes, focus } = stack, several = Object.keys(planes).length > 1, single = view.slices.length === 1;
  const marked = hand || view.slices.some((s) => s.mask), source = hand ?? stack;
  const colours = hand ? hand.colours : () => Object.fromEntries(structures.map((s) => [s.number, rgb(s.colour)]));
  const canvas = el("canvas", { tabIndex: 0, role: "img", id: "picture" });
  const slider = el("input", { type: "range", min: 0, id: "slice" }), where = el("span", { id: "where", className: "out" });
  const frame = el("div", { className: "picture", "data-modality": view.modality }, canvas), sides = el("p", { className: view.edges ? "quiet" : "caution", id: "sides" });
  const how = el("p", { className: "quiet", id: "look" }), value = el("span", { className: "value", id: "value", "aria-hidden": "true" });
  const levels = windowing(view, () => show());
  let plane = planes[stack.plane], latest = 0, grey = null, tint = null;

  async function show() {
    const mine = latest += 1, at = plane, n = Number(slider.value), label = single ? "1 picture" : `${at.places[n] + 1} of ${at.of}`;
    where.textContent = label;
    slider.setAttribute("aria-valuetext", `slice ${label}`);
    canvas.setAttribute("aria-label", `${view.title}, ${single ? "one picture" : `${several ? `${at.called}, ` : ""}slice ${label}`}, of ${view.file}.${at.edges ? ` ${side(at.edges)}` : " Which side is which is not known."}`);
    focus[at.normal] = at.at(0, 0, n)[at.normal];
    if (grey?.plane !== at || grey.n !== n) grey = { plane: at, n, told: levels ? cutOf(view, at, n, stack.grey) : decoded(view.slices[n].image) };
    const { told } = grey, [seen, labels] = await Promise.all([told, marked ? labelsOf(view, at, n, source) : null]);
    if (mine !== latest) return; // another slice is wanted by now
    const k = Math.max(1, Math.floor(720 / Math.max(at.width, at.height)));
    if (canvas.width !== at.width * k || canvas.height !== at.height * k) [canvas.width, canvas.height] = [at.width * k, at.height * k];
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    if (levels) paintGrey(pen, grey.large ??= enlarged(seen, at.width, at.height, k), levels.table);
    else pen.drawImage(seen, 0, 0, canvas.width, canvas.height);
    if (labels) pen.drawImage(over(labels, at, k), 0, 0);
    const scale = canvas.width / (canvas.clientWidth || canvas.width);
    if (hand) hand.paint(pen, at, n, scale);
    else if (stack.pointed && at.nearest(at.onto(stack.pointed).place) === n) cross(pen, at.onto(stack.pointed).u * canvas.width, at.onto(stack.pointed).v * canvas.height, scale);
    Object.assign(canvas.dataset, { slice: String(n), plane: at.name });
    grey.samples = levels ? seen : null;
  }

  /** The labels in their colours; made anew only where they, or how they are shown, have changed. */
  function over(labels, { width, height }, k) {
    const { outline, opacity, off } = shown, strength = opacity * (hand ? hand.strength() : 1), told = JSON.stringify([k, colours(), outline, strength, [...off]]);
    if (tint?.labels !== labels || tint.told !== told) tint = { labels, told, sheet: tinted(labels, width, height, k, colours(), { outline, opacity: strength, off }) };
    return tint.sheet;
  }

  const move = (by) => { slider.value = Number(slider.value) + by; show(); };
  const go = (place) => { slider.value = plane.nearest(plane.onto(place).place); show(); };

  /** Another plane: through the place that was pointed to or last looked at, else where most was drawn, else its middle. */
  async function turn(name) {
    if (!planes[name]) return;
    [stack.plane, plane] = [name, planes[name]];
    if (hand) [hand.cross, hand.corner] = [null, null];
    where.textContent = "…"; // all slices are unpacked for the first other plane
    const turning = plane, radio = planeRadios.find((r) => r.value === name), known = focus[plane.normal] !== undefined;
    if (radio) radio.checked = true;
    slider.max = plane.places.length - 1;
    for (const old of [...frame.children]) if (old !== canvas) old.remove(); // the canvas stays where it is, or it would lose the focus
    frame.append(...letters(plane.edges), ...(view.pixel_mm ? [scaleBar(view.pixel_mm * view[name === "sagittal" ? "height" : "width"])] : []));
    frame.classList.toggle("flat", plane.height < plane.width / 4);
    sides.textContent = plane.edges ? side(plane.edges) : "Which side of the patient is which is not known.";
    const ways = `towards ${plane.to[1]} and ${plane.to[0]}`, keys = hand ? "" : " or arrow keys on the picture";
    how.textContent = [`${capital(view.scale)}.`, view.note, single ? "" : `Mouse wheel${keys}: ${view.edges ? ways : "through the slices"}.`,
      levels ? `Drag${hand ? " with the right button" : ""}: grey levels.` : ""].filter(Boolean).join(" ");
    slider.value = name === "axial" ? view.start : Math.floor(plane.places.length / 2);
    if (known) slider.value = plane.nearest(plane.onto({ column: 0, row: 0, slice: 0, ...focus }).place);
    else if (marked && name !== "axial") {
      const n = await fullestOf(view, plane, source);
      if (turning === plane && n !== null) slider.value = n;
    }
    if (turning === plane) show();
  }

  const shares = (event) => { const box = canvas.getBoundingClientRect(); return { u: within((event.clientX - box.left) / box.width, 0, 1), v: within((event.clientY - box.top) / box.height, 0, 1) }; };
  const planeRadios = several ? Object.values(planes).map((p) => el("input", { type: "radio", name: "plane", value: p.name, onchange: () => turn(p.name) })) : [];
  const pickPlane = several ? el("fieldset", { className: "pick planes" }, el("legend", { className: "sr" }, "Which plane"), planeRadios.map((r) => el("label", {}, r, capital(planes[r.value].called)))) : "";

  slider.oninput = show;
  if (!single) canvas.addEventListener("wheel", (event) => { event.preventDefault(); move(event.deltaY > 0 ? -1 : 1); }, { passive: false });
  canvas.addEventListener("pointermove", (event) => {
    const { u, v } = shares(event), { width, height } = plane, x = Math.min(width - 1, Math.floor(u * width)), y = Math.min(height - 1, Math.floor(v * height));
    value.textContent = grey?.samples && grey.plane === plane ? levels.value(grey.samples[y * width + x]) : "";
  });
  canvas.addEventListener("pointerleave", () => { value.textContent = ""; });
  levels?.drag(canvas, hand ? [2] : [0, 2]);
  hand?.hold(canvas, { redraw: show, move, go, plane: () => plane, slice: () => Number(slider.value), pointed: (place) => Object.assign(focus, place) });
  if (!single && !hand) {
    let from = null;
    canvas.addEventListener("pointerdown", (event) => { from = event; });
    canvas.addEventListener("pointerup", (event) => {
      if (!from || event.button || Math.hypot(event.clientX - from.clientX, event.clientY - from.clientY) > CLICK) return;
      const { u, v } = shares(event);
      Object.assign(focus, stack.pointed = plane.at(u, v, Number(slider.value)));
      show();
    });
  }
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = single || hand ? 0 : { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5, End: plane.places.length, Home: -plane.places.length }[event.key];
    const name = several && { a: "axial", c: "coronal", s: "sagittal" }[event.key.toLowerCase()];
    if (by) move(by);
    else if (name) { turn(name); say(planes[name].called); }
    else if (levels && /^[1-9]$/.test(event.key)) levels.choose(Number(event.key) - 1);
    else return;
    event.preventDefault();
  });

  const legend = !marked || hand ? "" : el("ul", { className: "legend", id: "legend" }, structures.map((s) => {
    const swatch = el("span", { className: "swatch", "aria-hidden": "true" });
    swatch.style.background = s.colour;
    const box = el("input", { type: "checkbox", checked: !shown.off.has(s.number), onchange: () => { box.checked ? shown.off.delete(s.number) : shown.off.add(s.number); show(); } });
    return el("li", {}, el("label", {}, box, swatch, s.name), el("span", { className: "size" }, `${s.size} ${s.unit}`));
  }));
  const strength = el("input", { type: "range", min: 0, max: 100, value: shown.opacity * 100, id: "opacity", "aria-label": "Opacity of what was drawn" });
  const percent = el("span", { className: "out" }, `${strength.value} %`);
  strength.oninput = () => { shown.opacity = strength.value / 100; percent.textContent = `${strength.value} %`; show(); };
  const outline = el("input", { type: "checkbox", checked: shown.outline, id: "outline", onchange: () => { shown.outline = outline.checked; show(); } });
  levels?.begin();
  turn(plane.name);
  return [
    el("p", { className: "caption quiet" }, el("span", { className: "name" }, view.file), ` · ${view.title}`),
    pickPlane,
    el("figure", {}, el("div", { className: single ? "frame single" : "frame" }, frame, levels?.over ?? "", value)),
    el("div", { className: "tools" },
      single ? "" : el("div", { className: "row" }, el("label", { htmlFor: "slice" }, "Slice"), slider, where),
      levels?.tools ?? "",
      marked ? el("div", { className: "row" }, el("label", { htmlFor: "opacity" }, "Overlay"), strength, percent) : "",
      marked ? el("label", {}, outline, "Outline only") : "",
      legend,
      view.caution ? el("p", { className: "caution", id: "caution" }, view.caution) : "",
      sides, how),
  ];
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);
const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
const WORDS = { R: "patient’s right", L: "patient’s left", A: "front", P: "back", H: "head", F: "feet" };
const side = (edges) => `Left of the picture: ${[...edges.left].map((c) => WORDS[c]).join(" and ")}. Top: ${[...edges.top].map((c) => WORDS[c]).join(" and ")}.`;
const letters = (edges) => edges ? ["left", "right", "top", "bottom"].map((at) => el("span", { className: `letter ${at}`, "aria-hidden": "true" }, edges[at])) : [];

/** A bar of a round length, at most a third of the picture. */
function scaleBar(width_mm) {
  const length = [500, 200, 100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1].find((mm) => mm <= width_mm / 3) ?? width_mm / 3;
  const bar = el("div", { className: "scale" }, el("span", {}, `${length} mm`));
  bar.style.width = `${100 * length / width_mm}%`;
  return bar;
}

/** The labels in their colours, k times as large as they are; filled, or as outlines, which are opaque from half the strength on. */
function tinted(labels, width, height, k, colours, { outline, opacity, off }) {
  const sheet = el("canvas", { width: width * k, height: height * k }), pen = sheet.getContext("2d"), image = pen.createImageData(width * k, height * k);
  const at = (x, y) => x < 0 || y < 0 || x >= width * k || y >= height * k ? 0 : labels[Math.floor(y / k) * width + Math.floor(x / k)];
  for (let y = 0; y < height * k; y++) for (let x = 0; x < width * k; x++) {
    const label = at(x, y);
    if (!label || !colours[label] || off.has(label)) continue;
    if (outline && [[-3, 0], [3, 0], [0, -3], [0, 3]].every(([dx, dy]) => at(x + dx, y + dy) === label)) continue;
    image.data.set([...colours[label], Math.round(255 * (outline ? Math.min(1, 2 * opacity) : opacity))], 4 * (y * width * k + x));
  }
  pen.putImageData(image, 0, 0);
  return sheet;
}
