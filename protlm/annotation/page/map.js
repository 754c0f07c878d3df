"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const { ids, x, y, axes, columns, colour } = data;
const canvas = element("map"), pen = canvas.getContext("2d"), tip = element("tip");
const count = ids.length, MARGIN = 34;

// ---- colours ----
const PALETTE = ["#0d9488", "#e07b39", "#4f6bd8", "#c2417c", "#7a9a01", "#8b5cf6", "#d9a400", "#0891b2", "#b4231c", "#64748b"];
const RAMPS = { // each is seen on its card at both ends
  light: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [214, 190, 20]],
  dark: [[150, 110, 214], [90, 132, 205], [45, 165, 160], [110, 210, 105], [253, 231, 37]],
};
const dark = matchMedia("(prefers-color-scheme: dark)");
function ramp(share) {
  const colours = dark.matches ? RAMPS.dark : RAMPS.light;
  const place = Math.min(0.9999, Math.max(0, share)) * (colours.length - 1), i = Math.floor(place);
  return `rgb(${colours[i].map((part, k) => Math.round(part + (colours[i + 1][k] - part) * (place - i))).join(" ")})`;
}
let none = "#b9c0ca", soft = "#5d6878";
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  [none, soft] = ["--none", "--soft"].map((name) => style.getPropertyValue(name).trim());
}
const hidden = new Set();
const groupOf = (i) => (colour.groups ? colour.group[i] : null);
function colourOf(i) {
  if (colour.groups) return groupOf(i) === null ? none : PALETTE[groupOf(i)] || none;
  if (colour.values) return colour.values[i] === null ? none : ramp((colour.values[i] - colour.low) / (colour.high - colour.low || 1));
  return PALETTE[0];
}
const coloured = (i) => Number(colour.groups ? groupOf(i) !== null && groupOf(i) < PALETTE.length : true);
const order = [...ids.keys()].sort((one, other) => coloured(one) - coloured(other)); // points without a colour are drawn first
const shown = (i) => !hidden.has(groupOf(i));

// ---- view ----
const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
const [west, east] = range(x), [south, north] = range(y);
let width = 0, height = 0, zoom = 1, shiftX = 0, shiftY = 0, matches = null;
const placeX = (i) => (MARGIN + ((x[i] - west) / (east - west || 1)) * (width - 2 * MARGIN)) * zoom + shiftX;
const placeY = (i) => (height - MARGIN - ((y[i] - south) / (north - south || 1)) * (height - 2 * MARGIN)) * zoom + shiftY;
function fit() {
  const ratio = window.devicePixelRatio || 1;
  width = canvas.clientWidth; height = canvas.clientHeight;
  canvas.width = width * ratio; canvas.height = height * ratio;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw();
}
function draw() {
  readTheme();
  pen.clearRect(0, 0, width, height);
  const radius = Math.max(1.6, Math.min(4.5, 160 / Math.sqrt(count))) * Math.min(2, Math.sqrt(zoom));
  for (const wanted of matches ? [false, true] : [true]) {
    pen.globalAlpha = wanted ? 0.8 : 0.12;
    for (const i of order) {
      if (!shown(i) || (matches && matches.has(i) !== wanted)) continue;
      const px = placeX(i), py = placeY(i);
      if (px < -9 || py < -9 || px > width + 9 || py > height + 9) continue;
      pen.fillStyle = colourOf(i);
      pen.beginPath(); pen.arc(px, py, radius, 0, 7); pen.fill();
    }
  }
  pen.globalAlpha = 1;
  pen.fillStyle = soft; pen.font = "12px system-ui, sans-serif";
  pen.textAlign = "center"; pen.fillText(axes[0], width / 2, height - 8);
  pen.save(); pen.translate(14, height / 2); pen.rotate(-Math.PI / 2); pen.fillText(axes[1], 0, 0); pen.restore();
}
function nearest(event) {
  const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
  let best = -1, distance = 144;
  for (let i = 0; i < count; i++) {
    if (!shown(i)) continue;
    const d = (placeX(i) - px) ** 2 + (placeY(i) - py) ** 2;
    if (d < distance) { distance = d; best = i; }
  }
  return best;
}
function point(event) {
  const i = nearest(event);
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.textContent = [ids[i], ...columns.filter((one) => one.cells[i]).map((one) => `${one.name}: ${one.cells[i]}`)].join("\n");
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)}px`;
}
let drag = null;
canvas.addEventListener("pointerdown", (event) => { drag = [event.clientX - shiftX, event.clientY - shiftY]; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointerup", () => { drag = null; });
canvas.addEventListener("pointercancel", () => { drag = null; });
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("pointermove", (event) => {
  if (!drag) return point(event);
  tip.hidden = true;
  shiftX = event.clientX - drag[0]; shiftY = event.clientY - drag[1];
  draw();
});
function zoomAt(px, py, factor) {
  const before = zoom;
  zoom = Math.min(200, Math.max(0.5, zoom * factor));
  shiftX = px - ((px - shiftX) * zoom) / before; shiftY = py - ((py - shiftY) * zoom) / before;
  draw();
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  zoomAt(event.clientX - box.left, event.clientY - box.top, Math.exp(-event.deltaY / 400));
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
  if (step) { shiftX += step[0]; shiftY += step[1]; draw(); event.preventDefault(); }
  if (event.key === "+" || event.key === "-") zoomAt(width / 2, height / 2, event.key === "+" ? 1.3 : 1 / 1.3);
});
element("reset").addEventListener("click", () => { zoom = 1; shiftX = shiftY = 0; draw(); });
element("search").addEventListener("input", (event) => {
  const text = event.target.value.trim().toLowerCase();
  const hit = (i) => ids[i].toLowerCase().includes(text) || columns.some((one) => one.cells[i].toLowerCase().includes(text));
  matches = text ? new Set(ids.keys()) : null;
  if (matches) for (const i of ids.keys()) if (!hit(i)) matches.delete(i);
  element("found").textContent = matches ? `${matches.size.toLocaleString("en")} of ${count.toLocaleString("en")}` : "";
  draw();
});

// ---- legend ----
function entry(group, name, number) {
  const button = document.createElement("button"), dot = document.createElement("span");
  button.type = "button";
  button.setAttribute("aria-pressed", "true");
  dot.className = "dot"; dot.style.background = group === null ? "var(--none)" : PALETTE[group] || "var(--none)";
  button.append(dot);
  for (const [kind, text] of [["name", name], ["count", number.toLocaleString("en")]]) {
    const part = document.createElement("span");
    part.className = kind; part.textContent = text;
    button.append(part);
  }
  button.addEventListener("click", () => {
    hidden.has(group) ? hidden.delete(group) : hidden.add(group);
    button.setAttribute("aria-pressed", String(!hidden.has(group)));
    draw();
  });
  element("legend").append(button);
}
element("column").textContent = colour.name || data.records;
if (colour.groups) {
  colour.groups.forEach((one, group) => entry(group, one.name, one.count));
  const missing = colour.group.filter((group) => group === null).length;
  if (missing) entry(null, "no label", missing);
} else if (colour.values) {
  const bar = document.createElement("div"), ends = document.createElement("div");
  bar.className = "ramp"; bar.id = "ramp";
  ends.className = "ends";
  for (const value of [colour.low, colour.high]) { const part = document.createElement("span"); part.textContent = Number(value.toPrecision(4)); ends.append(part); }
  element("legend").append(bar, ends);
} else element("legend").textContent = `${count.toLocaleString("en")}`;
function paint() {
  const bar = element("ramp");
  if (bar) bar.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map(ramp).join(", ")})`;
  draw();
}
paint();
new ResizeObserver(fit).observe(canvas);
dark.addEventListener("change", paint);
