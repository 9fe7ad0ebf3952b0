// The map: both dates with the swipe handle between them, and the polygons.

const [coarsest, finest] = pictures.levels;
const [sceneWidth, sceneHeight] = data.size;
const shapes = new Map();
let selected = null;

function latLng([x, y]) {
  return L.latLng(-y, x);
}

const Pictures = L.GridLayer.extend({
  createTile(coords, done) {
    const tile = make("img", { alt: "" });
    const source = tileSource(this.options.date, coords.z + "/" + coords.x + "/" + coords.y);
    if (source === null) {
      window.setTimeout(() => done(null, tile), 0);
      return tile;
    }
    tile.onload = () => done(null, tile);
    tile.onerror = () => done(new Error("no picture"), tile);
    tile.src = source;
    return tile;
  },
});

function makeMap() {
  const scene = L.latLngBounds(latLng([0, 0]), latLng([sceneWidth, sceneHeight]));
  const map = L.map("map", {
    crs: L.CRS.Simple,
    preferCanvas: true,
    zoomAnimation: false,
    fadeAnimation: false,
    attributionControl: false,
    zoomSnap: 0.5,
    minZoom: coarsest - 2,
    maxZoom: 3,
    maxBounds: scene.pad(0.5),
  });
  for (const [index, date] of ["t1", "t2"].entries()) {
    map.createPane(date).style.zIndex = 200 + index;
    new Pictures({
      date,
      pane: date,
      tileSize: data.tile,
      minZoom: coarsest - 2,
      maxZoom: 3,
      minNativeZoom: coarsest,
      maxNativeZoom: finest,
      bounds: scene,
      noWrap: true,
    }).addTo(map);
  }
  map.fitBounds(scene, { animate: false });
  return map;
}

const map = makeMap();

// The later date is seen right of the handle.
function swipe() {
  const share = byId("swipe").value / 1000;
  const size = map.getSize();
  const corner = map.containerPointToLayerPoint([0, 0]);
  const left = corner.x + size.x * share;
  const edges = [corner.y, corner.x + size.x, corner.y + size.y, left];
  map.getPane("t2").style.clip = "rect(" + edges.map((edge) => edge + "px").join(",") + ")";
  byId("divider").style.left = 100 * share + "%";
  const day = data.dates.map((date) => date.day || date.name);
  byId("swipe").setAttribute(
    "aria-valuetext", day[0] + " on " + Math.round(100 * share) + " % of the map, then " + day[1]);
}

function moveSwipe(step) {
  const slider = byId("swipe");
  slider.value = Number(slider.value) + step;
  swipe();
}

function lookOf(feature) {
  const status = statusOf(feature.id);
  const own = feature.id === selected;
  const sure = feature.score === null ? 0.5 : feature.score;
  return {
    color: own ? "#ffffff" : colourOf(feature),
    weight: own ? 4 : 1 + 2 * sure,
    opacity: status === "rejected" && !own ? 0.45 : 1,
    dashArray: { rejected: "2 6", unsure: "8 5" }[status] || null,
    fillColor: colourOf(feature),
    fillOpacity: status === "accepted" ? 0.35 : 0.05 + 0.1 * sure,
  };
}

function outlineOf(feature) {
  const drawn = decisionOf(feature.id).outline;
  return drawn || feature.outline;
}

function toLatLngs(outline) {
  return outline.map((part) => part.map((ring) => ring.map(latLng)));
}

function drawShapes(choose) {
  for (const feature of data.features) {
    const shape = L.polygon(toLatLngs(outlineOf(feature)), lookOf(feature));
    shape.on("click", (event) => choose(feature.id, event));
    shapes.set(feature.id, shape);
  }
}

function redraw(id) {
  const feature = featureOf.get(id);
  shapes.get(id).setLatLngs(toLatLngs(outlineOf(feature))).setStyle(lookOf(feature));
}

function showShapes(wanted) {
  const ids = new Set(wanted.map((feature) => feature.id));
  for (const [id, shape] of shapes) {
    if (ids.has(id) !== map.hasLayer(shape)) {
      if (ids.has(id)) {
        shape.addTo(map);
      } else {
        shape.remove();
      }
    }
  }
}

function highlight(id) {
  const before = selected;
  selected = id;
  for (const one of [before, id]) {
    if (one !== null) {
      redraw(one);
    }
  }
  if (id !== null) {
    shapes.get(id).bringToFront();
  }
}

function lookAt(id) {
  const bounds = shapes.get(id).getBounds().pad(1.5);
  map.fitBounds(bounds, { maxZoom: Math.min(1, finest + 2), animate: false });
}

function showDates() {
  for (const [index, place] of ["before", "after"].entries()) {
    const date = data.dates[index];
    const day = date.day ? " " + date.day : "";
    byId(place).textContent = (index === 0 ? "before" : "after") + day + " · " + date.name;
  }
}

function showLegend() {
  const kinds = new Map(data.features.map((feature) => [kindOf(feature), colourOf(feature)]));
  for (const [kind, colour] of kinds) {
    const sample = make("span", { class: "sample" });
    sample.style.borderColor = colour;
    const words = data.colours[kind] ? kind : kind + " (colour by score)";
    byId("legend").append(make("li", {}, sample, words));
  }
  for (const [status, look] of [["accepted", "full"], ["unsure", "dashed"], ["rejected", "dotted"]]) {
    byId("legend").append(make("li", {}, make("span", { class: "sample " + look }), status));
  }
}
