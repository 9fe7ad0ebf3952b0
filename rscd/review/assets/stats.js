// Statistics: counts and areas by status and kind, and the scores as a histogram.

const BINS = 10;
const SVG = "http://www.w3.org/2000/svg";

function total(features) {
  const area = features.reduce((sum, feature) => sum + (feature.area || 0), 0);
  return [features.length, area.toLocaleString("en", { maximumFractionDigits: 0 })];
}

function tableRow(name, cells, word) {
  return make("tr", {}, make(word, { scope: word === "th" ? "row" : "" }, name),
    ...cells.map((cell) => make("td", {}, String(cell))));
}

function showCounts() {
  const head = ["", "polygons", "area in m²"].map((word) => make("th", { scope: "col" }, word));
  byId("counts").tHead.replaceChildren(make("tr", {}, ...head));
  const kinds = [...new Set(data.features.map(kindOf))].sort();
  const rows = STATUSES.map((status) =>
    [status, data.features.filter((feature) => statusOf(feature.id) === status)]);
  rows.push(...kinds.map((kind) =>
    ["kind " + kind, data.features.filter((feature) => kindOf(feature) === kind)]));
  rows.push(["all", data.features]);
  byId("counts").tBodies[0].replaceChildren(
    ...rows.map(([name, features]) => tableRow(name, total(features), "th")));
}

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  return element;
}

function binned() {
  const bins = Array.from({ length: BINS }, () => 0);
  for (const { score } of data.features) {
    if (score !== null) {
      bins[Math.min(BINS - 1, Math.floor(score * BINS))] += 1;
    }
  }
  return bins;
}

function showHistogram() {
  const bins = binned();
  const most = Math.max(1, ...bins);
  const words = bins.map((count, bin) => (bin / BINS).toFixed(1) + ": " + count);
  const label = "Polygons by score, from each tenth: " + words.join(", ");
  const chart = svg("svg", { viewBox: "0 0 300 130", role: "img", "aria-label": label });
  for (const [bin, count] of bins.entries()) {
    const height = 90 * count / most;
    const bar = { x: 30 * bin + 3, y: 105 - height, width: 24, height, class: "bar" };
    const number = svg("text", { x: 30 * bin + 15, y: 100 - height, class: "number" });
    number.textContent = count ? count : "";
    const tick = svg("text", { x: 30 * bin, y: 120, class: "tick" });
    tick.textContent = (bin / BINS).toFixed(1);
    chart.append(svg("rect", bar), number, tick);
  }
  byId("histogram").replaceChildren(chart);
}
