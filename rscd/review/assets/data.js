// What the page was made with, and the few helpers by which all else makes elements.

const data = JSON.parse(document.getElementById("data").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const UNREVIEWED = "unreviewed";
const STATUSES = [UNREVIEWED, "accepted", "rejected", "unsure"];
const featureOf = new Map(data.features.map((feature) => [feature.id, feature]));

function byId(id) {
  return document.getElementById(id);
}

// An element with attributes and children; texts become text, never markup.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function kindOf(feature) {
  return feature.kind || "changed";
}

function colourOf(feature) {
  return data.colours[kindOf(feature)] || scoreColour(feature.score);
}

function scoreColour(score) {
  const found = data.scores.find(([low, high]) => score >= low && score < high);
  return (found || data.scores[data.scores.length - 1])[2];
}

function shownScore(feature) {
  return feature.score === null ? "no score" : feature.score.toFixed(2);
}

function shownArea(feature) {
  if (feature.area === null) {
    return "no area";
  }
  const digits = feature.area < 10 ? 1 : 0;
  return feature.area.toLocaleString("en", { maximumFractionDigits: digits }) + "\u00a0m²";
}

function nameOf(feature) {
  return "#" + feature.id + " " + (feature.class || kindOf(feature));
}

// Address of a tile or a thumbnail: in the page itself, or beside it.
function tileSource(date, key) {
  if (pictures.served) {
    return "tiles/" + date + "/" + key + ".jpg";
  }
  const found = pictures.tiles[date + "/" + key];
  return found ? "data:image/webp;base64," + found : null;
}

function thumbSources(feature) {
  if (pictures.served) {
    return ["t1", "t2"].map((date) => "thumbs/" + date + "/" + feature.id + ".jpg");
  }
  const found = pictures.thumbs[feature.id];
  return found ? found.map((text) => "data:image/webp;base64," + text) : null;
}

function thumbImages(feature, size) {
  const sources = thumbSources(feature);
  if (sources === null) {
    return [make("span", { class: "no-picture" }, "no picture: no room in the file")];
  }
  return sources.map((source, index) =>
    make("img", {
      src: source,
      alt: nameOf(feature) + (index === 0 ? " before" : " after"),
      width: size,
      height: size,
      loading: "lazy",
    }));
}
