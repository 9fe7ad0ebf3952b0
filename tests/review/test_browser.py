"""What an analyst does, in a real browser: Chromium, driven by Selenium.

Debian: chromium, chromium-driver. RSCD_REVIEW_PICTURES names a folder to keep pictures of the page.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rscd.cli import main
from rscd.geo.reviewed import read_reviewed
from rscd.review.decisions import read_review
from rscd.review.layer import read_change_layer
from rscd.review.serve import page_server
from rscd.review.view import open_view

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"
)

COUNT = 220
HOSTILE = "</script><img src=x onerror='window.hacked=1'><b>"
DESKTOP, PHONE = (1300, 850), (390, 800)

CONTRASTS = """
function light([r, g, b]) {
  const [R, G, B] = [r, g, b].map((v) => v / 255).map(
    (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * R + 0.7152 * G + 0.0722 * B;
}
function numbers(colour) { return colour.match(/[\\d.]+/g).map(Number); }
function ground(element) {
  for (let at = element; at; at = at.parentElement) {
    const found = numbers(getComputedStyle(at).backgroundColor);
    if (found.length === 3 || found[3] > 0.7) { return found; }
  }
  return [255, 255, 255];
}
const poor = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.checkVisibility() || element.closest(":disabled, svg, script, noscript")) {
    continue;
  }
  const [one, other] = [numbers(getComputedStyle(element).color), ground(element)].map(light);
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (ratio < 4.5) { poor.push(element.outerHTML.slice(0, 80) + " " + ratio.toFixed(2)); }
}
return poor;
"""
"""Elements whose text has less contrast than WCAG's level AA asks for."""


class Browser:
    """A page of the review, and what a person does on it."""

    def __init__(self, downloads: Path) -> None:
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{argument}")
        logs = {"browser": "ALL", "performance": "ALL"}
        options.set_capability("goog:loggingPrefs", logs)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_window_size(*DESKTOP)
        self.downloads = downloads

    def open(self, address: str) -> None:
        """Load a page."""
        self.driver.get(address)
        self.until("return document.querySelectorAll('#list li').length > 0")

    def run(self, script: str, *arguments: Any) -> Any:
        """The result of a script on the page."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str) -> Any:
        """Wait until a script says so."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60, 0.05).until(lambda _: self.run(script))

    def find(self, selector: str) -> Any:
        """An element."""
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.find(selector).text)

    def keys(self, keys: str) -> None:
        """Type on the page, outside of any field."""
        self.run("document.activeElement.blur()")
        self.find("body").send_keys(keys)

    def fill(self, selector: str, text: str) -> None:
        """Write into a field and leave it."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)
        self.run("document.activeElement.blur()")

    def saved(self) -> Path:
        """The file that the page saves."""
        from selenium.webdriver.support.ui import WebDriverWait

        path = self.downloads / "review.geojson"
        path.unlink(missing_ok=True)
        self.keys("s")
        WebDriverWait(self.driver, 60, 0.05).until(lambda _: path.exists())
        return path

    def picture(self, name: str) -> None:
        """Keep a picture where the user asked for them."""
        folder = os.environ.get("RSCD_REVIEW_PICTURES")
        if folder:
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def asked_for(self) -> set[str]:
        """Addresses that were asked for since the last call, without the data in them."""
        entries = [
            json.loads(one["message"])["message"] for one in self.driver.get_log("performance")
        ]
        sent = [one["params"] for one in entries if one["method"] == "Network.requestWillBeSent"]
        return {one["request"]["url"].partition(",")[0] for one in sent}

    def complaints(self) -> list[str]:
        """Messages on the console since the last call."""
        return [one["message"] for one in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    downloads = tmp_path_factory.mktemp("downloads")
    found = Browser(downloads)
    yield found
    found.driver.quit()


@pytest.fixture
def layer(make_scene: Callable[..., Path]) -> Path:
    """A layer of `COUNT` polygons whose names are markup."""
    columns = {"class": [HOSTILE, *["building"] * (COUNT - 1)]}
    names = ("t1<img src=x onerror=hacked=1>.tif", "t2<b>.tif")
    shape = (20 + 40 * (COUNT // 5), 260)
    return make_scene("<i>change.gpkg", COUNT, names=names, shape_hw=shape, columns=columns)


@pytest.mark.slow
def test_two_hundred_decisions(browser: Any, layer: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert main(["report", "-q", str(layer), "-o", str(page)]) == 0
    address = page.as_uri()
    browser.asked_for()
    browser.open(address)
    assert browser.text("#title") == "Review of <i>change.gpkg"
    assert browser.text("#before") == "before · t1<img src=x onerror=hacked=1>.tif"
    assert browser.text("#progress-text") == f"0 of {COUNT} reviewed"

    # the swipe moves by keys and by dragging
    def clip() -> Any:
        return browser.run("return document.querySelector('.leaflet-t2-pane').style.clip")

    seen = [clip()]
    browser.keys("..")
    seen.append(clip())
    from selenium.webdriver import ActionChains

    width = browser.find("#map").size["width"]
    handle = ActionChains(browser.driver)
    handle.move_to_element_with_offset(browser.find("#swipe"), int(0.1 * width), 0)
    handle.click_and_hold().move_by_offset(-150, 0).release().perform()
    seen.append(clip())
    assert len(set(seen)) == 3
    assert browser.run("return Number(document.getElementById('swipe').value)") < 500

    # filters
    browser.find("#filters summary").click()
    browser.fill("#score-from", "0.9")
    scores = read_change_layer(layer).table["score"]
    assert browser.text("#count") == f"{(scores >= 0.9).sum()} of {COUNT} polygons"
    browser.find("#kinds input[value=vanished]").click()
    assert browser.text("#count") == f"{(scores[::2] >= 0.9).sum()} of {COUNT} polygons"
    browser.fill("#area-from", "101")
    assert browser.text("#count") == f"0 of {COUNT} polygons"
    browser.find("#clear").click()
    assert browser.text("#count") == f"{COUNT} of {COUNT} polygons"
    browser.run(
        "const s = document.getElementById('sort'); s.value = 'id';"
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    browser.find("#filters summary").click()

    # decisions, by keys alone
    browser.fill("#reviewer", "Ada <b>")
    browser.keys("n")
    assert browser.text("#current-title").startswith(f"Polygon #1 {HOSTILE}")
    browser.picture("hostile")
    browser.keys("e")
    browser.driver.switch_to.active_element.send_keys(HOSTILE)
    browser.keys("aru" * 66 + "aa")
    assert browser.text("#progress-text") == f"200 of {COUNT} reviewed"
    browser.keys("zz")
    assert browser.text("#progress-text") == f"198 of {COUNT} reviewed"
    browser.keys("ra")
    browser.picture("desktop")
    assert browser.run("return [...document.images].filter((i) => !i.hasAttribute('alt'))") == []
    assert browser.run(CONTRASTS) == []

    # they survive a reload and come out
    browser.open(address)
    assert browser.text("#progress-text") == f"200 of {COUNT} reviewed"
    assert browser.find("#reviewer").get_attribute("value") == "Ada <b>"
    review = browser.saved()
    found = read_review(review)
    assert [one.id for one in found.decisions] == list(range(1, 201))
    words = (["accepted", "rejected", "unsure"] * 66 + ["rejected", "accepted"])[:200]
    assert [one.status for one in found.decisions] == words
    assert found.decisions[0].note == HOSTILE
    assert {one.reviewer for one in found.decisions} == {"Ada <b>"}
    assert not any(one.edited for one in found.decisions)
    assert main(["review", "apply", "-q", str(layer), str(review)]) == 0
    assert read_reviewed(layer)["status"].tolist() == [*words, *["unreviewed"] * 20]

    # a redrawn outline
    browser.open(address)
    browser.keys("n")
    box = browser.run(
        "const r = document.getElementById('map').getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]"
    )
    browser.keys("d")
    chain = ActionChains(browser.driver)
    for x, y in ((-60, -60), (80, -60), (80, 70), (-60, 70)):
        chain.w3c_actions.pointer_action.move_to_location(int(box[0] + x), int(box[1] + y))
        chain.click()
    chain.perform()
    browser.keys("\ue007")
    edited = [one for one in read_review(browser.saved()).decisions if one.edited]
    assert len(edited) == 1
    read = read_change_layer(layer)
    (number,) = (edited[0].id,)
    assert (
        main(["review", "apply", "-q", str(layer), str(browser.downloads / "review.geojson")]) == 0
    )
    redrawn = read_reviewed(layer).geometry.iloc[number - 1]
    assert redrawn.intersects(read.table.geometry.iloc[number - 1])
    assert redrawn.area != pytest.approx(100, rel=0.05)

    # the page of the layer shows what was applied, in a browser that knows nothing of it; the
    # polygon that was redrawn is one of the 20 that were left, and counts as accepted
    assert main(["report", "-q", str(layer), "-o", str(page), "--overwrite"]) == 0
    browser.run("localStorage.clear()")
    browser.open(address)
    browser.find("#statistics summary").click()
    browser.until("return document.querySelectorAll('#counts tr').length > 4")
    counts = [line.split()[:2] for line in browser.text("#counts").splitlines()[2:6]]
    verdicts = ("unreviewed", "accepted", "rejected", "unsure")
    assert counts == [list(one) for one in zip(verdicts, ("19", "68", "67", "66"), strict=True)]
    browser.picture("statistics")
    assert browser.text("#progress-text") == f"201 of {COUNT} reviewed"

    # nothing from files ran, nothing was said, nothing was asked for from elsewhere
    assert browser.run("return window.hacked") is None
    assert browser.complaints() == []
    elsewhere = {
        one for one in browser.asked_for() if not one.startswith(("file:///", "data:", "blob:"))
    }
    assert elsewhere == set()

    # a phone
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 2, "mobile": True},
    )
    browser.open(address)
    browser.keys("n")
    browser.picture("phone")
    assert browser.run("return document.documentElement.scrollWidth") <= PHONE[0]
    assert browser.run(CONTRASTS) == []
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    # a browser that keeps nothing says so
    denied = browser.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {"source": "Storage.prototype.setItem = () => { throw new Error('denied'); }"},
    )
    browser.open(address)
    browser.keys("na")
    assert "keeps no decisions" in browser.text("#storage")
    browser.saved()
    browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", denied)


@pytest.mark.slow
def test_a_served_page(browser: Any, make_scene: Callable[..., Path]) -> None:
    layer = read_change_layer(make_scene(count=8))
    with page_server(layer, open_view(layer), 0) as (address, serve):
        threading.Thread(target=serve, daemon=True).start()
        browser.asked_for()
        browser.complaints()
        browser.open(address)
        browser.keys("na")
        browser.until(
            "const all = [...document.querySelectorAll('#map img, #list img')];"
            "return all.length > 4 && all.every((i) => i.complete && i.naturalWidth > 0)"
        )
        assert browser.complaints() == []
        asked = browser.asked_for()
        assert {one for one in asked if not one.startswith((address, "data:"))} == set()
        assert any("/tiles/t2/" in one for one in asked)
        browser.open(address)
        assert browser.text("#progress-text") == "1 of 8 reviewed"
