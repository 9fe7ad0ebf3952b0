"""GeoPackages that are replaced while somebody has them open."""

import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import pytest
import shapely

from rscd.base.errors import OutputError
from rscd.cli import main
from rscd.export.database import replacing, require_free
from rscd.export.vector import write_vector


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rscd.export.database.PATIENCE_S", 0.05)


def polygons(count: int) -> geopandas.GeoDataFrame:
    boxes = [shapely.box(10 * i, 0, 10 * i + 5, 5) for i in range(count)]
    rows = {"id": range(1, count + 1), "score": 0.5}
    return geopandas.GeoDataFrame(rows, geometry=boxes, crs="EPSG:32633")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "c.gpkg"
    write_vector(polygons(3), path, provenance={})
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def count_rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM changes").fetchone()[0]


def opened(path: Path, mode: str) -> closing[sqlite3.Connection]:
    """As another program has it open: QGIS and OGR keep a write-ahead log."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA journal_mode = {mode}")
    if mode == "DELETE":
        database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE gpkg_contents SET description = 'new'")
    return closing(database)


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_one_that_is_open_elsewhere_is_refused_and_stays(package: Path, mode: str) -> None:
    with opened(package, mode):
        before = files(package.parent)
        with pytest.raises(OutputError, match=r"expected .*c\.gpkg to be free, found it open"):
            require_free(package)
        with pytest.raises(OutputError, match="close it there"):
            write_vector(polygons(7), package, provenance={})
        found = files(package.parent)
        assert found.keys() == before.keys()
        assert found["c.gpkg"] == before["c.gpkg"]
    assert count_rows(package) == 3


def test_looking_changes_nothing(package: Path) -> None:
    package.with_name("c.gpkg-wal").write_bytes(b"left by a program that died")
    before = files(package.parent)
    require_free(package)
    assert files(package.parent) == before


def test_a_log_that_a_program_left_is_not_replayed_into_the_new_file(
    package: Path, tmp_path: Path
) -> None:
    with opened(package, "WAL"):
        kept = files(package.parent)
    for name, content in kept.items():  # as after a crash: closing had cleared away
        (tmp_path / name).write_bytes(content)
    assert (tmp_path / "c.gpkg-wal").stat().st_size > 0
    write_vector(polygons(7), package, provenance={})
    assert set(files(tmp_path)) == {"c.gpkg"}
    assert count_rows(package) == 7


def test_where_open_files_are_not_replaced_it_is_let_go_of_before(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rscd.export.database.REPLACES_OPEN_FILES", False)
    with opened(package, "DELETE"), pytest.raises(OutputError, match="open in another program"):
        write_vector(polygons(7), package, provenance={})
    with replacing(package), closing(sqlite3.connect(package, timeout=0)) as another:
        another.execute("BEGIN EXCLUSIVE")
    write_vector(polygons(7), package, provenance={})
    assert count_rows(package) == 7


def test_the_old_file_is_whole_when_the_replacement_fails(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay in the log alone is not lost with it."""
    with opened(package, "WAL"):
        kept = files(package.parent)
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    replace = type(package).replace

    def fails(path: Path, goal: Path) -> Path:
        if goal == package:
            raise OSError(5, "Input/output error")
        return replace(path, goal)

    monkeypatch.setattr(type(package), "replace", fails)
    with pytest.raises(OutputError, match="Input/output"):
        write_vector(polygons(7), package, provenance={})
    with closing(sqlite3.connect(package)) as database:
        said = database.execute("SELECT description FROM gpkg_contents").fetchall()
    assert set(said) == {("new",)}


@pytest.mark.parametrize("content", [b"", b"no database at all" * 300])
def test_what_is_no_database_may_be_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.gpkg"
    path.write_bytes(content)
    require_free(path)
    with replacing(path):
        pass
    write_vector(polygons(2), path, provenance={})
    assert count_rows(path) == 2


def test_the_command_line_refuses_before_it_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for date, count in (("t1", 3), ("t2", 4)):
        polygons(count).to_file(tmp_path / f"{date}.geojson")
    path = tmp_path / "c.gpkg"
    command = ["events", *(str(tmp_path / f"{d}.geojson") for d in ("t1", "t2")), "-o", str(path)]
    assert main([*command, "-q"]) == 0
    with opened(path, "WAL"):
        assert main([*command, "-q", "--overwrite"]) == 1
    assert "open in another program" in capsys.readouterr().err
    assert main([*command, "-q", "--overwrite"]) == 0
