// Redrawing an outline: clicks are corners, Enter or the button ends, Escape gives up.

let corners = null;
let sketch = null;

function say(words) {
  byId("drawing").textContent = words;
  byId("drawing").hidden = words === "";
}

function beginDrawing() {
  if (selected === null || corners !== null) {
    return;
  }
  corners = [];
  sketch = L.polygon([], { color: "#ffffff", weight: 3, dashArray: "4 4", interactive: false });
  sketch.addTo(map);
  byId("map").classList.add("drawing");
  say("Click the corners of #" + selected + "; Enter or Redraw ends, Escape gives up");
}

function addCorner(latlng) {
  corners.push([latlng.lng, -latlng.lat]);
  sketch.setLatLngs(corners.map(latLng));
}

function endDrawing() {
  sketch.remove();
  corners = null;
  sketch = null;
  byId("map").classList.remove("drawing");
  say("");
}

function turn(a, b, c) {
  return Math.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]));
}

function cross(a, b, c, d) {
  return turn(a, b, c) !== turn(a, b, d) && turn(c, d, a) !== turn(c, d, b);
}

// Whether no two sides of a ring cross.
function isSimple(ring) {
  const sides = ring.map((corner, index) => [corner, ring[(index + 1) % ring.length]]);
  return sides.every(([a, b], i) => sides.every(([c, d], j) => {
    const apart = Math.abs(i - j);
    return apart < 2 || apart === sides.length - 1 || !cross(a, b, c, d);
  }));
}

function signedArea(ring) {
  return ring.reduce((sum, [x, y], index) => {
    const [nextX, nextY] = ring[(index + 1) % ring.length];
    return sum + (x * nextY - nextX * y) / 2;
  }, 0);
}

// A point of the display in longitude and latitude, between the nodes of the lattice.
function stored([x, y]) {
  const cells = data.lattice.x.length - 1;
  const at = [y / sceneHeight * cells, x / sceneWidth * cells];
  const [row, col] = at.map((value) => Math.min(cells - 1, Math.max(0, Math.floor(value))));
  const [v, u] = [at[0] - row, at[1] - col];
  return [data.lattice.x, data.lattice.y].map((nodes) => {
    const upper = nodes[row][col] * (1 - u) + nodes[row][col + 1] * u;
    const lower = nodes[row + 1][col] * (1 - u) + nodes[row + 1][col + 1] * u;
    return Number((upper * (1 - v) + lower * v).toFixed(7));
  });
}

function geometryOf(ring) {
  const points = ring.map(stored);
  const directed = signedArea(points) < 0 ? points.reverse() : points;
  return { type: "Polygon", coordinates: [[...directed, directed[0]]] };
}

// What was drawn, as the change of a decision; null where it is no outline yet.
function drawnChange() {
  if (corners.length < 3 || !isSimple(corners) || signedArea(corners) === 0) {
    say("An outline has three corners or more, and sides that do not cross; Escape gives up");
    return null;
  }
  const before = statusOf(selected);
  const status = before === UNREVIEWED ? "accepted" : before;
  return { status, edited: true, geometry: geometryOf(corners), outline: [[corners]] };
}
