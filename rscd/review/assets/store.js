// Decisions: what the layer says, what was decided here, where the browser keeps it, what is saved.

const KEY = "rscd-review:" + data.layer.identity;
const NAME_KEY = "rscd-reviewer";
const decided = new Map();
const history = [];
let kept = true;
let saved = true;

function ofLayer(feature) {
  return {
    status: feature.status,
    note: feature.note || "",
    reviewer: feature.reviewer || "",
    time: feature.time || "",
    edited: feature.edited,
  };
}

// The decision that counts: the later one of the layer's and the one made here.
function decisionOf(id) {
  const feature = featureOf.get(id);
  const own = decided.get(id);
  return own && own.time >= (feature.time || "") ? own : ofLayer(feature);
}

function statusOf(id) {
  return decisionOf(id).status;
}

function readStored() {
  let text = null;
  try {
    text = window.localStorage.getItem(KEY);
  } catch (error) {
    kept = false;
  }
  try {
    return new Map(JSON.parse(text || "[]"));
  } catch (error) {
    return new Map();
  }
}

// Another tab may have decided meanwhile: of each polygon the entry that was written last stays,
// also of polygons that another page of this layer has and this one has not.
function takeStored() {
  for (const [id, entry] of readStored()) {
    const own = decided.get(id);
    if (!own || entry.written > own.written) {
      decided.set(id, entry);
    }
  }
}

function keep() {
  saved = false;
  takeStored();
  try {
    window.localStorage.setItem(KEY, JSON.stringify([...decided]));
  } catch (error) {
    kept = false;
  }
}

function put(id, entry) {
  decided.set(id, { ...entry, written: Date.now() });
  keep();
}

function decide(id, changes) {
  history.push({ id, before: decisionOf(id) });
  const reviewer = byId("reviewer").value.trim();
  const time = new Date().toISOString();
  put(id, { ...decisionOf(id), ...changes, reviewer, time });
}

// Takes the last decision back; returns its polygon, or null where there is none.
function undo() {
  const last = history.pop();
  if (!last) {
    return null;
  }
  const time = new Date().toISOString();
  put(last.id, last.before.status === UNREVIEWED ? { ...last.before, time } : last.before);
  return last.id;
}

function countReviewed() {
  return data.features.filter((feature) => statusOf(feature.id) !== UNREVIEWED).length;
}

function reviewText() {
  const features = [];
  for (const feature of data.features) {
    const found = decisionOf(feature.id);
    if (found.status !== UNREVIEWED) {
      const { status, note, reviewer, time } = found;
      features.push({
        type: "Feature",
        properties: { id: feature.id, status, note, reviewer, time, edited: found.edited },
        geometry: found.geometry || feature.geometry,
      });
    }
  }
  const about = { version: data.version, layer: data.layer.identity };
  return JSON.stringify({ type: "FeatureCollection", [data.member]: about, features }, null, 1);
}

function save() {
  const url = URL.createObjectURL(new Blob([reviewText()], { type: "application/geo+json" }));
  const link = make("a", { href: url, download: "review.geojson" });
  document.body.append(link);
  link.click();
  link.remove();
  window.setTimeout(() => URL.revokeObjectURL(url), 10000);
  saved = true;
}

function readName() {
  try {
    return window.localStorage.getItem(NAME_KEY) || "";
  } catch (error) {
    return "";
  }
}

function keepName(name) {
  try {
    window.localStorage.setItem(NAME_KEY, name);
  } catch (error) {
    kept = false;
  }
}
