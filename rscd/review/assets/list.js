// The list: filters, order, pages of rows with pictures before and after.

const PAGE_ROWS = 50;
const ORDERS = {
  score: (a, b) => (b.score ?? -1) - (a.score ?? -1),
  unsure: (a, b) => (a.score ?? 2) - (b.score ?? 2),
  area: (a, b) => (b.area ?? -1) - (a.area ?? -1),
  small: (a, b) => (a.area ?? Infinity) - (b.area ?? Infinity),
  id: (a, b) => a.id - b.id,
  turn: (a, b) => (a.turn ?? Infinity) - (b.turn ?? Infinity) || 0,
};
let order = [];
let page = 0;

function limit(id, otherwise) {
  const value = byId(id).valueAsNumber;
  return Number.isNaN(value) ? otherwise : value;
}

function chosen(place) {
  const boxes = [...byId(place).querySelectorAll("input")];
  return new Set(boxes.filter((box) => box.checked).map((box) => box.value));
}

function within(value, low, high) {
  const bounded = low !== -Infinity || high !== Infinity;
  return value === null ? !bounded : value >= low && value <= high;
}

// Polygons that pass the filters, in the chosen order.
function filtered() {
  const kinds = chosen("kinds");
  const statuses = chosen("statuses");
  const score = [limit("score-from", -Infinity), limit("score-to", Infinity)];
  const area = [limit("area-from", -Infinity), limit("area-to", Infinity)];
  const passing = data.features.filter((feature) =>
    kinds.has(kindOf(feature)) && statuses.has(statusOf(feature.id)) &&
    within(feature.score, ...score) && within(feature.area, ...area));
  return passing.sort((a, b) => ORDERS[byId("sort").value](a, b) || a.id - b.id);
}

function badge(status) {
  return make("span", { class: "badge " + status }, status);
}

function row(feature, choose) {
  const about = make(
    "span", { class: "about" },
    make("strong", {}, nameOf(feature)),
    make("span", {}, shownScore(feature) + " · " + shownArea(feature)),
    badge(statusOf(feature.id)));
  const note = decisionOf(feature.id).note;
  if (note) {
    about.append(make("em", {}, note));
  }
  const button = make("button", { type: "button", class: "row", "data-id": feature.id });
  button.append(make("span", { class: "pair" }, ...thumbImages(feature, 64)), about);
  if (feature.id === selected) {
    button.setAttribute("aria-current", "true");
  }
  button.addEventListener("click", () => choose(feature.id));
  return make("li", {}, button);
}

function showList(choose) {
  const pages = Math.max(1, Math.ceil(order.length / PAGE_ROWS));
  page = Math.min(Math.max(page, 0), pages - 1);
  const rows = order.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS);
  const focused = document.activeElement && document.activeElement.dataset.id;
  byId("list").replaceChildren(...rows.map((feature) => row(feature, choose)));
  byId("count").textContent = order.length + " of " + data.features.length + " polygons";
  byId("page").textContent = "page " + (page + 1) + " of " + pages;
  byId("pages").hidden = pages === 1;
  byId("earlier").disabled = page === 0;
  byId("later").disabled = page === pages - 1;
  const again = focused && byId("list").querySelector('[data-id="' + focused + '"]');
  if (again) {
    again.focus({ preventScroll: true });
  }
}

function turnTo(id) {
  const place = order.findIndex((feature) => feature.id === id);
  if (place >= 0) {
    page = Math.floor(place / PAGE_ROWS);
  }
}

// The polygon some steps away in the list; the first one where none is selected.
function neighbour(step) {
  const place = order.findIndex((feature) => feature.id === selected);
  const found = place < 0 ? order[0] : order[place + step];
  return found ? found.id : null;
}

// The next polygon of an order that nobody has decided about, from the selected one on, around.
function nextUnreviewed(among) {
  const place = among.findIndex((feature) => feature.id === selected);
  const turned = [...among.slice(place + 1), ...among.slice(0, place + 1)];
  const found = turned.find((feature) => statusOf(feature.id) === UNREVIEWED);
  return found ? found.id : null;
}

function checkboxes(place, words) {
  for (const word of words) {
    const box = make("input", { type: "checkbox", value: word });
    box.checked = true;
    byId(place).append(make("label", { class: "check" }, box, word));
  }
}

// The order of `rscd review next`, where the layer has one.
function offerTurns() {
  if (data.features.some((feature) => feature.turn !== null)) {
    byId("sort").prepend(make("option", { value: "turn" }, "turn, as chosen for review"));
    byId("sort").value = "turn";
  }
}

function clearFilters() {
  for (const field of byId("filters").querySelectorAll("input")) {
    if (field.type === "checkbox") {
      field.checked = true;
    } else {
      field.value = "";
    }
  }
}
