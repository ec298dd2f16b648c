"use strict";
// A record's samples in the browser, and planes through them. A place is { column, row, slice }: shares of the axial pictures' width and
// height, and the slice of the source, from 0.

const within = (v, low, high) => Math.min(high, Math.max(low, v));

/** The samples of a slice, unpacked (see Slice.samples in /docs). */
async function unpacked(base64, width, height) {
  const text = atob(base64), packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const raw = new Uint8Array(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  const count = width * height, samples = new Uint16Array(count);
  for (let y = 0, i = 0; y < height; y++) for (let x = 0, last = 0; x < width; x++, i++) {
    const told = raw[i] << 8 | raw[count + i];
    samples[i] = last = (last + (told >>> 1 ^ -(told & 1))) & 0xffff;
  }
  return samples;
}

const decoded = async (base64) => { const image = new Image(); image.src = `data:image/png;base64,${base64}`; await image.decode(); return image; };

/** The labels of a PNG, a number a pixel. */
async function pixels(base64) {
  const mask = await decoded(base64), sheet = el("canvas", { width: mask.width, height: mask.height }), pen = sheet.getContext("2d", { willReadFrequently: true });
  pen.drawImage(mask, 0, 0);
  const { data } = pen.getImageData(0, 0, mask.width, mask.height), labels = new Uint8Array(data.length / 4);
  for (let i = 0; i < labels.length; i++) labels[i] = data[4 * i];
  return labels;
}

const stacks = new WeakMap();

/** What the page keeps of a view: its planes, how it is looked at, and what of it was unpacked, each slice when it is first wanted. */
function stackOf(view) {
  if (!stacks.has(view)) {
    const once = (read) => { const kept = new Map(); return (k) => kept.get(k) ?? (kept.set(k, read(view.slices[k])), kept.get(k)); };
    stacks.set(view, {
      planes: planesOf(view), plane: "axial", focus: {}, pointed: null, kept: new Map(),
      grey: once((slice) => unpacked(slice.samples, view.width, view.height)),
      read: once(async (slice) => slice.mask ? pixels(slice.mask) : null),
    });
  }
  return stacks.get(view);
}

/** So many of 0, 1, 2 …, evenly. */
const some = (count, most) => Array.from({ length: Math.min(count, most) }, (_, i) => count <= most ? i : Math.round(i * (count - 1) / (most - 1)));
const LONGEST = 1024; // pixels of a plane that is cut

/** The planes of a view, by name; of an image, or of one slice, its own alone. `places` are samples of the source along `normal`. */
function planesOf(view) {
  const { width, height, columns, rows, of, edges } = view, shown = view.slices.map((s) => s.place - 1);
  const nearest = (places) => (place) => places.reduce((best, p, n) => Math.abs(p - place) < Math.abs(places[best] - place) ? n : best, 0);
  const axial = {
    name: "axial", normal: "slice", places: shown, of, width, height, edges, nearest: nearest(shown), to: ["feet", "head"], called: edges ? "axial" : "as stored",
    at: (u, v, n) => ({ column: u, row: v, slice: shown[n] }), onto: (p) => ({ u: p.column, v: p.row, place: p.slice }),
  };
  if (shown.length < 2 || !view.step) return { axial };
  const cut = (name, called, along, normal, samples, wide, deep, to, letters) => {
    const places = some(samples, deep), tall = of * view.step, shrink = Math.min(1, LONGEST / Math.max(wide, tall));
    return {
      name, normal, places, of: samples, nearest: nearest(places), to, called: edges ? name : called, edges: edges && letters,
      width: Math.max(1, Math.round(wide * shrink)), height: Math.max(1, Math.round(tall * shrink)),
      at: (u, v, n) => ({ [along]: u, [normal]: (places[n] + 0.5) / samples, slice: within((1 - v) * of - 0.5, 0, of - 1) }),
      onto: (p) => ({ u: p[along], v: 1 - (p.slice + 0.5) / of, place: p[normal] * samples - 0.5 }),
    };
  };
  return {
    axial,
    coronal: cut("coronal", "cut along the rows", "column", "row", rows, width, height, ["front", "back"], edges && { left: edges.left, right: edges.right, top: "H", bottom: "F" }),
    sagittal: cut("sagittal", "cut along the columns", "row", "column", columns, height, width, ["right", "left"], edges && { left: edges.top, right: edges.bottom, top: "H", bottom: "F" }),
  };
}

/** The samples of slice n of a plane, between two slices of the source in proportion; of labels (`mix` false) the nearer one's; null where no slice has any. */
async function cutOf(view, plane, n, read, mix = true) {
  if (plane.name === "axial") return read(n);
  const slices = await Promise.all(view.slices.map((_, k) => read(k)));
  if (!slices.some(Boolean)) return null;
  const { width, height } = plane, shown = view.slices.map((s) => s.place - 1), out = new (slices.find(Boolean).constructor)(width * height);
  const [across, deep, wide] = plane.name === "coronal" ? [1, view.height, view.width] : [view.width, view.width, view.height];
  const fixed = within(Math.round((plane.places[n] + 0.5) / plane.of * deep - 0.5), 0, deep - 1) * (plane.name === "coronal" ? view.width : 1);
  const from = Array.from({ length: width }, (_, x) => fixed + across * Math.floor((x + 0.5) * wide / width));
  for (let y = 0, k = shown.length - 1, i = 0; y < height; y++) {
    const z = within((1 - (y + 0.5) / height) * view.of - 0.5, 0, view.of - 1);
    while (k > 0 && shown[k] > z) k -= 1;
    const next = Math.min(k + 1, shown.length - 1), share = next > k ? (z - shown[k]) / (shown[next] - shown[k]) : 0;
    const [a, b, part] = [slices[k], slices[next], mix ? share : Math.round(share)];
    for (let x = 0; x < width; x++, i++) out[i] = Math.round((1 - part) * (a?.[from[x]] ?? 0) + part * (b?.[from[x]] ?? 0));
  }
  return out;
}

/** The labels of slice n of a plane; `source` has those of the axial slices (`read`), and keeps what was cut. */
function labelsOf(view, plane, n, source) {
  const key = `${plane.name} ${n}`;
  if (!source.kept.has(key)) source.kept.set(key, cutOf(view, plane, n, source.read, false));
  return source.kept.get(key);
}

/** The slice of a plane with most labels; null where there are none. */
async function fullestOf(view, plane, source) {
  const counts = new Map();
  for (let k = 0; k < view.slices.length; k++) (await source.read(k))?.forEach((label, i) => {
    if (!label) return;
    const at = plane.name === "axial" ? k : plane.name === "coronal" ? Math.floor(i / view.width) : i % view.width;
    counts.set(at, (counts.get(at) ?? 0) + 1);
  });
  if (!counts.size) return null;
  const [best] = [...counts].reduce((a, b) => b[1] > a[1] ? b : a), deep = plane.name === "coronal" ? view.height : view.width;
  return plane.name === "axial" ? best : plane.nearest((best + 0.5) / deep * plane.of - 0.5);
}
