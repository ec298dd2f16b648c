"use strict";
// Grey levels of one's own: a window of centre and width in the file's units, by presets, by dragging and by the keyboard.

/** How bright a value is, from 0 to 1. DICOM PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT). */
function shade(value, { center, width, function: kind }) {
  if (kind === "SIGMOID") return 1 / (1 + Math.exp(-4 * (value - center) / width));
  const [middle, span] = kind === "LINEAR" ? [center - 0.5, width - 1] : [center, width];
  if (value <= middle - span / 2) return 0;
  return value > middle + span / 2 ? 1 : (value - middle) / span + 0.5;
}

/** Of each sample its pixel. */
function tableOf({ slope, intercept, low, high }, window) {
  return Uint32Array.from({ length: Math.round((high - low) / slope) + 1 }, (_, s) => {
    const grey = Math.round(255 * shade(s * slope + intercept, window));
    return (0xff000000 | grey << 16 | grey << 8 | grey) >>> 0;
  });
}

/** Samples k times as wide and as high, those between in proportion: before the window, and so that a grey stays grey to the last bit. */
function enlarged(samples, width, height, k) {
  if (k === 1) return samples;
  const between = (size) => Array.from({ length: size * k }, (_, i) => {
    const at = within((i + 0.5) / k - 0.5, 0, size - 1), first = Math.floor(at);
    return [first, Math.min(first + 1, size - 1), at - first];
  });
  const across = between(width), out = new Uint16Array(width * height * k * k);
  let i = 0;
  for (const [top, bottom, down] of between(height)) for (const [left, right, part] of across) {
    const above = samples[top * width + left] * (1 - part) + samples[top * width + right] * part;
    out[i++] = Math.round(above * (1 - down) + (samples[bottom * width + left] * (1 - part) + samples[bottom * width + right] * part) * down);
  }
  return out;
}

/** Samples as greys, one a pixel of the canvas. */
function paintGrey(pen, samples, table) {
  const image = pen.createImageData(pen.canvas.width, pen.canvas.height), dots = new Uint32Array(image.data.buffer);
  for (let i = 0; i < dots.length; i++) dots[i] = table[samples[i]];
  pen.putImageData(image, 0, 0);
}

/** The window of a view and what changes it; null of a picture in colours. */
function windowing(view, redraw) {
  const { levels } = view;
  if (!levels) return null;
  const { presets, slope, unit } = levels, span = Math.max(levels.high - levels.low, slope);
  const step = slope === 1 ? 1 : 10 ** Math.floor(Math.log10(span / 1000));
  const rounded = (v) => Number((Math.round(v / step) * step).toPrecision(12)), tell = (v) => String(Number(v.toPrecision(6))).replace("-", "−");
  const told = (w) => `${tell(w.center)}, ${tell(w.width)}${unit && ` ${unit}`}`;
  const it = { now: stackOf(view).window ?? presets[0], table: null };

  const list = el("select", { id: "preset", onchange: () => { if (list.value) set(presets[list.value]); } },
    presets.map((p, n) => el("option", { value: n }, `${p.name} (${told(p)})`)), el("option", { value: "", hidden: true }, "one’s own"));
  const line = (id, name, least, most) => {
    const change = (field) => () => { if (field.value !== "" && field.checkValidity()) set({ ...it.now, [id]: Number(field.value) }); };
    const slider = el("input", { type: "range", min: rounded(least), max: rounded(most), step, id: `${id}-slider`, "aria-label": `${name} of the grey levels` });
    const field = el("input", { type: "number", step: "any", id, "aria-label": `${name}${unit && ` in ${unit}`}` });
    if (id === "width") field.min = step;
    [slider.oninput, field.onchange] = [change(slider), change(field)];
    return { slider, field, row: el("div", { className: "row" }, el("label", { htmlFor: `${id}-slider` }, name), slider, el("span", { className: "figure" }, field, unit)) };
  };
  const ends = (of, pick) => presets.map((p) => p[of]).reduce((a, b) => pick(a, b));
  const lines = { center: line("center", "Centre", Math.min(levels.low, ends("center", Math.min)), Math.max(levels.high, ends("center", Math.max))), width: line("width", "Width", step, Math.max(span, ends("width", Math.max))) };
  const now = el("span", { className: "now", id: "levels-now", "aria-hidden": "true" });

  function set(window, then = redraw) {
    it.now = stackOf(view).window = { ...window, width: Math.max(window.function === "LINEAR" ? 1 : step, window.width) };
    it.table = tableOf(levels, it.now);
    const same = presets.findIndex((p) => p.center === it.now.center && p.width === it.now.width && p.function === it.now.function);
    list.value = same < 0 ? "" : String(same);
    now.textContent = `C ${tell(it.now.center)}  W ${tell(it.now.width)}${unit && ` ${unit}`}`;
    for (const id of ["center", "width"]) {
      [lines[id].slider.value, lines[id].field.value] = [it.now[id], Number(it.now[id].toPrecision(6))];
      lines[id].slider.setAttribute("aria-valuetext", `${tell(it.now[id])} ${unit}`.trim());
    }
    then();
  }
  it.choose = (n) => { if (presets[n]) { set(presets[n]); say(`Grey levels: ${presets[n].name}`); } };
  it.value = (sample) => `${tell(rounded(sample * slope + levels.intercept))}${unit && ` ${unit}`}`;
  it.drag = (canvas, buttons) => {
    let from = null;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" || !buttons.includes(event.button)) return;
      from = { x: event.clientX, y: event.clientY, ...it.now };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y] = [event.clientX - from.x, event.clientY - from.y];
      from.moved ||= Math.hypot(x, y) > CLICK;
      if (from.moved) set({ ...it.now, center: rounded(from.center + y * from.width / 300), width: Math.max(step, rounded(from.width * Math.exp(x / 150))) });
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
  };
  it.over = now;
  it.begin = () => set(it.now, () => {});
  it.tools = el("div", { className: "levels", role: "group", "aria-label": "Grey levels" },
    el("div", { className: "row" }, el("label", { htmlFor: "preset" }, "Grey levels"), list, el("button", { type: "button", className: "second small", id: "reset-levels", onclick: () => set(presets[0]) }, "Reset")),
    lines.center.row, lines.width.row);
  return it;
}
const CLICK = 5; // a pointer that moved less has not been dragged
