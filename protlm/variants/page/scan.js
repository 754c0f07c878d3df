"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const { sequence, offset, letters, matrix, tracks, columns, rows } = data;
const length = sequence.length;
const format = (value, places = 2) => (value === null || value === undefined ? "" : value.toFixed(places));

// ---- colours ----
const known = matrix.flat().filter((value) => value !== null).map(Math.abs).sort((a, b) => a - b);
const limit = known.length ? known[Math.min(known.length - 1, Math.floor(0.995 * known.length))] || 1 : 1;
let theme = {};
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => style.getPropertyValue(name).trim().slice(1).match(/../g).map((pair) => parseInt(pair, 16));
  for (const name of ["middle", "bad", "worse", "good", "better", "none", "dark-cell", "helix", "strand", "loop", "ink", "soft", "card", "accent"])
    theme[name] = rgb(`--${name}`);
}
const css = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;
const mix = (one, other, share) => one.map((part, i) => part + (other[i] - part) * share);
function colourOf(value) {
  if (value === null) return css(theme.none);
  const share = Math.min(1, Math.abs(value) / limit), [half, full] = value < 0 ? ["bad", "worse"] : ["good", "better"];
  return css(share < 0.5 ? mix(theme.middle, theme[half], 2 * share) : mix(theme[half], theme[full], 2 * share - 1));
}

// ---- map ----
const map = element("map");
const GAP = 5, LINE = 11, AXIS = 34, LEFT = 96;
let layout = null, cursor = null;
function arrange() {
  const width = map.clientWidth - LEFT - 6;
  let size = Math.max(11, Math.min(22, Math.floor(width / Math.min(length, 100))));
  let columnsShown = Math.max(10, Math.floor(width / size));
  if (columnsShown < length) columnsShown = Math.max(10, columnsShown - (columnsShown % 10));
  columnsShown = Math.min(columnsShown, length);
  layout = { size, columns: columnsShown, top: tracks.length * (LINE + GAP) + 2, height: Math.min(size, 17) };
}
function draw() {
  readTheme();
  arrange();
  map.replaceChildren();
  for (let start = 0; start < length; start += layout.columns) map.append(panel(start));
  legend();
}
function panel(start) {
  const count = Math.min(layout.columns, length - start), ratio = window.devicePixelRatio || 1;
  const canvas = document.createElement("canvas");
  const width = LEFT + layout.columns * layout.size + 6, height = layout.top + letters.length * layout.height + AXIS;
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  canvas.dataset.start = start;
  paint(canvas, start, count, ratio);
  return canvas;
}
function paint(canvas, start, count, ratio) {
  const pen = canvas.getContext("2d"), { size, top, height } = layout;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.textBaseline = "middle";
  tracks.forEach((track, number) => {
    const y = number * (LINE + GAP);
    pen.fillStyle = css(theme.soft); pen.textAlign = "right"; pen.font = "11px system-ui, sans-serif";
    pen.fillText(track.name, LEFT - 10, y + LINE / 2 + 1);
    for (let i = 0; i < count; i++) {
      pen.fillStyle = trackColour(track, start + i);
      pen.fillRect(LEFT + i * size, y, size, LINE);
    }
  });
  for (let row = 0; row < letters.length; row++) {
    const y = top + row * height;
    pen.fillStyle = css(theme.soft); pen.textAlign = "center"; pen.font = "600 11px ui-monospace, monospace";
    pen.fillText(letters[row], LEFT - 14, y + height / 2 + 1);
    for (let i = 0; i < count; i++) {
      const place = start + i, own = sequence[place] === letters[row];
      pen.fillStyle = own ? css(theme.card) : colourOf(matrix[place][row]);
      pen.fillRect(LEFT + i * size, y, size - 0.6, height - 0.6);
      if (own) {
        pen.fillStyle = css(theme.ink);
        pen.beginPath(); pen.arc(LEFT + (i + 0.5) * size, y + height / 2, Math.min(size, height) / 5.5, 0, 7); pen.fill();
      }
    }
  }
  const bottom = top + letters.length * height;
  pen.font = `600 ${Math.min(13, size)}px ui-monospace, monospace`; pen.textAlign = "center";
  for (let i = 0; i < count; i++) {
    pen.fillStyle = css(theme.ink);
    pen.fillText(sequence[start + i], LEFT + (i + 0.5) * size, bottom + 9);
    const number = start + i + 1 + offset;
    if (number % 10 === 0 || i === 0) {
      pen.save(); pen.font = "11px system-ui, sans-serif"; pen.fillStyle = css(theme.soft);
      pen.fillText(number, LEFT + (i + 0.5) * size, bottom + 24); pen.restore();
    }
  }
  if (cursor && cursor.place >= start && cursor.place < start + count) {
    pen.strokeStyle = css(theme.accent); pen.lineWidth = 2;
    pen.strokeRect(LEFT + (cursor.place - start) * size - 1, top + cursor.row * height - 1, size + 1, height + 1);
  }
}
function trackColour(track, place) {
  const value = track.values[place];
  if (typeof track.values === "string") return css({ H: theme.helix, E: theme.strand }[value] || theme.loop);
  if (track.score) return colourOf(value);
  return css(value === null ? theme.none : mix(theme.middle, theme["dark-cell"], Math.min(1, value / track.high)));
}
function repaint(place) {
  if (place === null) return;
  const start = Math.floor(place / layout.columns) * layout.columns;
  const canvas = map.children[start / layout.columns];
  paint(canvas, start, Math.min(layout.columns, length - start), window.devicePixelRatio || 1);
}
function select(place, row) {
  const before = cursor ? cursor.place : null;
  cursor = place === null ? null : { place, row };
  repaint(before); repaint(place);
}
function below(values, value) {
  let low = 0, equal = 0;
  for (const other of values) { if (other < value) low++; else if (other === value) equal++; }
  return (100 * (low + equal / 2)) / values.length;
}
const all = matrix.flat().filter((value) => value !== null);
function describe(place, row) {
  const number = place + 1 + offset, own = sequence[place], letter = letters[row], value = matrix[place][row];
  const lines = [own === letter ? `${own}${number}, residue of the protein` : `${own}${number}${letter}`];
  if (own !== letter)
    lines.push(value === null ? "no score" : `score ${format(value)}, percentile ${format(below(all, value), 1)}`);
  for (const track of tracks) {
    const at = track.values[place];
    const shown = typeof track.values === "string" ? { H: "helix", E: "strand" }[at] || "other" : format(at);
    lines.push(`${track.name} ${shown}`);
  }
  return lines;
}
function cellAt(event) {
  const canvas = event.target.closest("canvas");
  if (!canvas) return null;
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left - LEFT) / layout.size);
  const row = Math.floor((event.clientY - box.top - layout.top) / layout.height);
  const place = Number(canvas.dataset.start) + column;
  const inside = column >= 0 && column < layout.columns && place < length && row >= 0 && row < letters.length;
  return inside ? { place, row } : null;
}
const tip = element("tip");
map.addEventListener("mousemove", (event) => {
  const cell = cellAt(event);
  tip.hidden = !cell;
  if (!cell) return;
  tip.textContent = describe(cell.place, cell.row).join("\n");
  const right = event.clientX + 16 + tip.offsetWidth > window.innerWidth, low = event.clientY + 16 + tip.offsetHeight > window.innerHeight;
  tip.style.left = `${right ? event.clientX - 12 - tip.offsetWidth : event.clientX + 14}px`;
  tip.style.top = `${low ? event.clientY - 12 - tip.offsetHeight : event.clientY + 14}px`;
});
map.addEventListener("mouseleave", () => { tip.hidden = true; });
map.addEventListener("click", (event) => { const cell = cellAt(event); if (cell) choose(cell.place, cell.row); });
map.addEventListener("focus", () => { if (!cursor) move(0, 0); });
map.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageDown: [layout.columns, 0], PageUp: [-layout.columns, 0], Home: [-length, 0], End: [length, 0] };
  if (event.key === "Enter" && cursor) choose(cursor.place, cursor.row);
  else if (steps[event.key]) move(...steps[event.key]);
  else return;
  event.preventDefault();
});
function move(across, down) {
  const from = cursor || { place: 0, row: 0 };
  const clamp = (value, last) => Math.max(0, Math.min(last, value));
  select(clamp(from.place + across, length - 1), clamp(from.row + down, letters.length - 1));
  element("status").textContent = describe(cursor.place, cursor.row).join("; ");
}
function choose(place, row) {
  select(place, row);
  element("status").textContent = describe(place, row).join("; ");
  element("position").value = place + 1 + offset;
  filter();
}
function legend() {
  const canvas = element("scale"), pen = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    pen.fillStyle = colourOf(((2 * x) / (canvas.width - 1) - 1) * limit);
    pen.fillRect(x, 0, 1, canvas.height);
  }
  element("low").textContent = `worse, ${format(-limit, 1)}`;
  element("high").textContent = `${format(limit, 1)}, better`;
}

// ---- table ----
const PAGE = 50, percentile = columns.findIndex((column) => column.name === "percentile");
let order = { column: null, down: false }, found = rows.map((_, i) => i), first = 0;
const text = (value, column) => (value === null ? "" : typeof value === "number" ? value.toFixed(column.digits) : String(value));
function positionsOf(name) {
  return (name.match(/-?\d+/g) || []).map(Number);
}
const places = rows.map((row) => positionsOf(String(row[0])));
function within(numbers, wanted) {
  return wanted.some(([low, high]) => numbers.some((number) => number >= low && number <= high));
}
function filter() {
  const words = element("search").value.trim().toLowerCase();
  const wanted = [...element("position").value.matchAll(/(\d+)(?:\s*-\s*(\d+))?/g)].map((m) => [Number(m[1]), Number(m[2] || m[1])]);
  const low = element("from").value === "" ? null : Number(element("from").value);
  const high = element("to").value === "" ? null : Number(element("to").value);
  found = rows.map((_, i) => i).filter((i) => {
    const row = rows[i], at = percentile < 0 ? null : row[percentile];
    if (wanted.length && !within(places[i], wanted)) return false;
    if (low !== null && !(at !== null && at >= low)) return false;
    if (high !== null && !(at !== null && at <= high)) return false;
    return !words || row.some((value, n) => text(value, columns[n]).toLowerCase().includes(words));
  });
  if (order.column !== null) {
    const sign = order.down ? -1 : 1, number = order.column;
    found.sort((a, b) => {
      const one = rows[a][number], other = rows[b][number];
      if (one === null || other === null) return (one === null) - (other === null) || a - b;
      return sign * (typeof one === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true })) || a - b;
    });
  }
  first = 0;
  list();
}
function list() {
  const body = document.querySelector("tbody");
  body.replaceChildren(...found.slice(first, first + PAGE).map((i) => {
    const line = document.createElement("tr");
    columns.forEach((column, n) => {
      const cell = document.createElement("td"), shown = text(rows[i][n], column);
      cell.textContent = shown;
      if (shown.length > 40) cell.title = shown;
      if (column.digits !== null) cell.className = "number";
      line.append(cell);
    });
    return line;
  }));
  const last = Math.min(first + PAGE, found.length), whole = rows.length.toLocaleString("en");
  element("shown").textContent = found.length ? `${(first + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${found.length.toLocaleString("en")}${found.length < rows.length ? ` (${whole} in all)` : ""}` : `none of ${whole}`;
  element("previous").disabled = first === 0;
  element("next").disabled = last >= found.length;
}
function head() {
  const line = document.createElement("tr");
  columns.forEach((column, number) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    cell.scope = "col"; cell.setAttribute("aria-sort", "none");
    if (column.digits !== null) cell.className = "number";
    button.type = "button"; button.textContent = column.name;
    button.addEventListener("click", () => {
      order = { column: number, down: order.column === number ? !order.down : column.digits !== null };
      for (const [n, other] of [...line.children].entries())
        other.setAttribute("aria-sort", n !== number ? "none" : order.down ? "descending" : "ascending");
      filter();
    });
    cell.append(button); line.append(cell);
  });
  document.querySelector("thead").append(line);
}
element("filters").addEventListener("input", filter);
element("filters").addEventListener("submit", (event) => event.preventDefault());
element("filters").addEventListener("reset", () => setTimeout(filter));
element("previous").addEventListener("click", () => { first = Math.max(0, first - PAGE); list(); });
element("next").addEventListener("click", () => { first += PAGE; list(); });
const quoted = (cell) => (/[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
function csv() {
  const lines = found.map((i) => rows[i].map((value, n) => quoted(text(value, columns[n]))).join(","));
  return [columns.map((column) => quoted(column.name)).join(","), ...lines, ""].join("\n");
}
element("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = data.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

head();
filter();
draw();
let waiting = 0;
window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(draw, 100); });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
