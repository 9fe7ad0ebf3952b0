"""Reviews as files: what is written is read, and what is none is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from rscd.base.errors import DataError
from rscd.review.decisions import (
    Decision,
    Review,
    check_belongs,
    merged,
    outline_data,
    read_review,
    review_data,
    write_review,
)

TIMES = [f"2026-01-31T12:00:0{second}.000Z" for second in range(3)]
SQUARE = shapely.box(13, 52, 13.001, 52.001)


def decision(
    number: int = 1, status: str = "accepted", time: str = TIMES[0], **more: Any
) -> Decision:
    return Decision(number, status, time, SQUARE, **more)


def test_a_review_is_rfc_7946_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "review.geojson"
    one = decision(note='</script><script>alert("ü")</script>', reviewer="Ada", edited=True)
    holed = shapely.difference(SQUARE, shapely.box(13.0002, 52.0002, 13.0004, 52.0004))
    two = replace(
        decision(7, "unsure"),
        geometry=shapely.multipolygons([shapely.box(14, 52, 14.1, 52.1), holed]),
    )
    write_review(path, Review("abc", (one, two)))
    found = read_review(path)
    assert found.layer == "abc"
    for made, back in zip((one, two), found.decisions, strict=True):
        assert replace(back, geometry=None) == replace(made, geometry=None)
        assert back.geometry.equals(made.geometry)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    assert content["rscd_review"] == {"version": 1, "layer": "abc"}
    assert content["features"][0]["properties"] == {
        "id": 1,
        "status": "accepted",
        "note": one.note,
        "reviewer": "Ada",
        "time": TIMES[0],
        "edited": True,
    }
    for ring in (polygon[0] for polygon in content["features"][1]["geometry"]["coordinates"]):
        assert shapely.LinearRing(ring).is_ccw


def test_rings_are_right_handed_with_their_holes() -> None:
    holed = shapely.Polygon(
        SQUARE.exterior, [shapely.box(13.0002, 52.0002, 13.0004, 52.0004).exterior]
    )
    data = outline_data(shapely.reverse(holed))
    assert [shapely.LinearRing(ring).is_ccw for ring in data["coordinates"]] == [True, False]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "1"}, "whole number as id.*'1'"),
        ({"id": True}, "whole number as id.*True"),
        ({"status": "unreviewed"}, "accepted, rejected, unsure.*polygon 1.*'unreviewed'"),
        ({"status": None}, "found None"),
        ({"time": "2026-01-31"}, "a time such as.*'2026-01-31'"),
        ({"time": 5}, "a time such as.*found 5"),
        ({"note": 3}, "text as note.*found 3"),
        ({"edited": "yes"}, "edited true or false.*'yes'"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    data = review_data(Review("abc", (decision(),)))
    data["features"][0]["properties"] |= change
    path = tmp_path / "review.geojson"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=words):
        read_review(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rscd_review": None}, "member rscd_review"),
        ({"rscd_review": {"version": 2, "layer": "a"}}, "version 1.*found 2"),
        ({"rscd_review": {"version": 1}}, "identity of a layer"),
        ({"features": [{}]}, "features with properties"),
        ({"features": None}, "found other JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "review.geojson"
    path.write_text(json.dumps(review_data(Review("abc", ())) | change))
    with pytest.raises(DataError, match=words):
        read_review(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff"])
def test_files_that_are_no_json_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "review.geojson"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"expected a review \(GeoJSON\)"):
        read_review(path)
    with pytest.raises(DataError, match="No such file"):
        read_review(tmp_path / "none.geojson")


def test_an_outline_counts_only_where_it_was_redrawn(tmp_path: Path) -> None:
    path = tmp_path / "review.geojson"
    data = review_data(Review("abc", (decision(),)))
    bow_tie = [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]
    data["features"][0]["geometry"]["coordinates"] = bow_tie
    path.write_text(json.dumps(data))
    assert read_review(path).decisions[0].status == "accepted"
    data["features"][0]["properties"]["edited"] = True
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="polygon 1, found: Self-intersection"):
        read_review(path)
    data["features"][0]["geometry"] = {"type": "Point", "coordinates": [1, 1]}
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="no polygon"):
        read_review(path)


def test_a_polygon_decided_twice_in_one_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "review.geojson"
    write_review(path, Review("abc", (decision(3), decision(3, "rejected"))))
    with pytest.raises(DataError, match=r"every polygon once.*found 3"):
        read_review(path)


decisions = st.builds(
    decision, st.integers(1, 4), st.sampled_from(["accepted", "rejected"]), st.sampled_from(TIMES)
)
reviews = st.lists(decisions, max_size=4, unique_by=lambda one: one.id).map(
    lambda found: Review("abc", tuple(found))
)


@given(st.lists(reviews, max_size=3))
def test_the_latest_decision_counts_and_conflicts_are_named(found: list[Any]) -> None:
    result = merged(found)
    of_id = {n: [d for r in found for d in r.decisions if d.id == n] for n in range(1, 5)}
    for number, given_to in of_id.items():
        if not given_to:
            assert number not in result.decisions
            continue
        latest = max(one.time for one in given_to)
        assert result.decisions[number] == [one for one in given_to if one.time == latest][-1]
    assert result.conflicts == tuple(
        number for number, ones in of_id.items() if len({one.status for one in ones}) > 1
    )


def test_another_layers_review_is_refused() -> None:
    review = Review("abc", (decision(3), decision(9)), "review.geojson")
    check_belongs(review, "abc", [3, 9, 10], "change.gpkg")
    with pytest.raises(DataError, match=r"review\.geojson is of another layer"):
        check_belongs(review, "abd", [3, 9], "change.gpkg")
    with pytest.raises(DataError, match="found 9, which the layer lacks"):
        check_belongs(review, "abc", [3], "change.gpkg")
