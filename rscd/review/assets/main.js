// What happens when: selection, decisions, keys.

function choose(id, event) {
  if (corners !== null) {
    if (event) {
      return; // the click is a corner
    }
    endDrawing();
  }
  leaveNote();
  highlight(id);
  turnTo(id);
  if (!event) {
    lookAt(id);
  }
  showCurrent();
  showList(choose);
  const own = byId("list").querySelector("[aria-current]");
  if (own && window.matchMedia("(min-width: 801px)").matches) {
    own.scrollIntoView({ block: "nearest" });
  }
}

function fact(name, value) {
  return [make("dt", {}, name), make("dd", {}, value)];
}

function showCurrent() {
  const feature = featureOf.get(selected);
  for (const control of byId("current").querySelectorAll("button, textarea")) {
    control.disabled = !feature && !["next", "undo"].includes(control.dataset.act);
  }
  if (!feature) {
    return;
  }
  const found = decisionOf(selected);
  byId("current-title").replaceChildren("Polygon " + nameOf(feature) + " ", badge(found.status));
  byId("current-pictures").replaceChildren(...thumbImages(feature, 128));
  const facts = [
    ["kind", kindOf(feature)], ["class", feature.class], ["score", shownScore(feature)],
    ["area", shownArea(feature)], ["reviewer", found.reviewer], ["outline", found.edited && "redrawn"],
  ];
  byId("facts").replaceChildren(
    ...facts.filter(([, value]) => value).flatMap(([name, value]) => fact(name, value)));
  byId("note").value = found.note;
  for (const button of byId("current").querySelectorAll("[data-act]")) {
    if (STATUSES.includes(button.dataset.act)) {
      button.setAttribute("aria-pressed", String(button.dataset.act === found.status));
    }
  }
}

function showProgress() {
  const count = countReviewed();
  byId("progress").max = data.features.length;
  byId("progress").value = count;
  byId("progress-text").textContent = count + " of " + data.features.length + " reviewed";
  byId("storage").hidden = kept;
  byId("storage").textContent = kept ? "" :
    "This browser keeps no decisions for this page: save review.geojson before you close it.";
}

function recount() {
  order = filtered();
  showShapes(order);
  showProgress();
  if (byId("statistics").open) {
    showCounts();
  }
}

function refresh() {
  recount();
  showList(choose);
}

function act(changes) {
  if (selected === null) {
    return;
  }
  const before = order;
  decide(selected, { note: byId("note").value.trim(), ...changes });
  redraw(selected);
  recount();
  const next = changes.geometry ? null : nextUnreviewed(before);
  if (next === null) {
    showList(choose);
    showCurrent();
  } else {
    choose(next);
  }
}

// A note that was written belongs to a decision; of an undecided polygon it waits for one.
function leaveNote() {
  if (selected === null) {
    return;
  }
  const note = byId("note").value.trim();
  const found = decisionOf(selected);
  if (note !== found.note) {
    if (found.status === UNREVIEWED) {
      put(selected, { ...found, note });
    } else {
      decide(selected, { note });
    }
    showList(choose);
  }
}

function step(by) {
  const found = neighbour(by);
  if (found !== null) {
    choose(found);
  }
}

function takeBack() {
  const id = undo();
  if (id !== null) {
    byId("note").value = decisionOf(id).note;
    redraw(id);
    recount();
    choose(id);
  }
}

function finishDrawing() {
  const change = drawnChange();
  if (change !== null) {
    endDrawing();
    act(change);
  }
}

const ACTIONS = {
  accepted: () => act({ status: "accepted" }),
  rejected: () => act({ status: "rejected" }),
  unsure: () => act({ status: "unsure" }),
  next: () => step(1),
  previous: () => step(-1),
  undo: takeBack,
  draw: () => (corners === null ? beginDrawing : finishDrawing)(),
};
const KEYS = {
  a: ACTIONS.accepted,
  r: ACTIONS.rejected,
  u: ACTIONS.unsure,
  n: ACTIONS.next,
  p: ACTIONS.previous,
  z: ACTIONS.undo,
  d: ACTIONS.draw,
  e: () => byId("note").focus(),
  s: saveAll,
  ",": () => moveSwipe(-50),
  ".": () => moveSwipe(50),
};

function saveAll() {
  leaveNote();
  save();
}

function isWriting(element) {
  return element.matches("textarea, select, input:not([type=range]):not([type=checkbox])");
}

function onKey(event) {
  if (isWriting(event.target)) {
    if (event.key === "Escape") {
      event.target.blur();
    }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  if (corners !== null && (event.key === "Escape" || event.key === "Enter")) {
    event.preventDefault();
    (event.key === "Enter" ? finishDrawing : endDrawing)();
    return;
  }
  const action = KEYS[event.key];
  if (action && corners === null) {
    event.preventDefault();
    action();
  }
}

function listen() {
  document.addEventListener("keydown", onKey);
  for (const button of document.querySelectorAll("[data-act]")) {
    button.addEventListener("click", ACTIONS[button.dataset.act]);
  }
  byId("save").addEventListener("click", saveAll);
  byId("filters").addEventListener("input", refresh);
  byId("statistics").addEventListener("toggle", showCounts);
  byId("clear").addEventListener("click", () => { clearFilters(); refresh(); });
  byId("earlier").addEventListener("click", () => { page -= 1; showList(choose); });
  byId("later").addEventListener("click", () => { page += 1; showList(choose); });
  byId("note").addEventListener("blur", leaveNote);
  byId("reviewer").addEventListener("change", () => keepName(byId("reviewer").value.trim()));
  byId("swipe").addEventListener("input", swipe);
  map.on("move zoom zoomend resize viewreset", swipe);
  map.on("click", (event) => { if (corners !== null) { addCorner(event.latlng); } });
  window.addEventListener("storage", () => {
    takeStored();
    data.features.forEach((feature) => redraw(feature.id));
    refresh();
  });
  window.addEventListener("beforeunload", (event) => {
    leaveNote();
    if (!kept && !saved) {
      event.preventDefault();
    }
  });
}

function begin() {
  document.title = "Review of " + data.layer.name;
  byId("title").textContent = "Review of " + data.layer.name;
  byId("reviewer").value = readName();
  keepName(byId("reviewer").value);
  takeStored();
  offerTurns();
  checkboxes("kinds", [...new Set(data.features.map(kindOf))].sort());
  checkboxes("statuses", STATUSES);
  showDates();
  showLegend();
  drawShapes(choose);
  listen();
  refresh();
  showHistogram();
  showCurrent();
  swipe();
}

begin();
