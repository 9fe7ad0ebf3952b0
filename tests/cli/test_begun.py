"""Commands that write several files and stop between them: the same command may go on."""

import errno

import geopandas
import pytest
import rasterio

import rscd.evaluation.sheet
import rscd.export.vector
import rscd.pipeline.objects
import rscd.synthetic.sample
from rscd.cli import main

SIZE = ("--size", "64,64", "--seed", "3")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    assert main(["sample", str(folder), *SIZE, "-q"]) == 0
    return folder


LINES = {
    "events": (["buildings_t1.geojson", "buildings_t2.geojson"], ["e.gpkg", "e.geojson"], []),
    "predict": (["scene_t1.tif", "scene_t2.tif"], ["e.gpkg", "e.geojson"], ["-m", "ceg:spectral"]),
    "evaluate": (["truth_mask.tif", "truth.geojson"], ["e.gpkg"], ["--reliability", "r.png"]),
}


def line(command, town, folder):
    inputs, outputs, more = LINES[command]
    named = [word for name in outputs for word in ("-o", str(folder / name))]
    more = [str(folder / word) if word.endswith(".png") else word for word in more]
    return [command, *(str(town / name) for name in inputs), *named, *more, "-q"]


def failing_at(monkeypatch, module, name, last):
    """The function as it is, but that the disk is full when it is to write a file so named."""
    write = getattr(module, name)

    def full(*args, **keywords):
        # rehearsals write elsewhere
        if any(getattr(arg, "name", "") == last and arg.parent.name == "out" for arg in args):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args, **keywords)

    monkeypatch.setattr(module, name, full)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("command", "module", "last"),
    [("events", rscd.export.vector, "e.geojson"), ("predict", rscd.pipeline.objects, "e.geojson")],
)
def test_a_disk_that_was_full_for_the_second_file(
    town, tmp_path, monkeypatch, capsys, command, module, last
):
    (out := tmp_path / "out").mkdir()
    argv = line(command, town, out)
    with monkeypatch.context() as patch:
        failing_at(patch, module, "write_vector", last)
        assert main(argv) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "No space left" in said
    assert "the same command, given again, replaces" in said
    assert "e.gpkg" in names(out)
    assert main([*argv, "--delta", "0.3"]) == 1, "another command"
    assert "e.gpkg already there" in capsys.readouterr().err
    assert main(argv) == 0
    assert not [name for name in names(out) if name.startswith(".")]
    assert len(geopandas.read_file(out / "e.gpkg")) == len(geopandas.read_file(out / "e.geojson"))
    assert main(argv) == 1, "finished now"


def test_an_evaluation_that_stops_between_its_files(town, tmp_path, monkeypatch, capsys):
    (out := tmp_path / "out").mkdir()
    prob = town / "p.tif"
    with rasterio.open(town / "truth_mask.tif") as source:
        profile = source.profile | {"dtype": "float32"}
        with rasterio.open(prob, "w", **profile) as target:
            target.write(source.read().astype("float32"))
    argv = ["evaluate", str(prob), str(town / "truth.geojson"), "-o", str(out / "e.gpkg"), "-q"]
    argv += ["--reliability", str(out / "r.png")]
    with monkeypatch.context() as patch:
        failing_at(patch, rscd.evaluation.sheet, "write_reliability", "r.png")
        assert main(argv) == 1
    assert "e.gpkg" in names(out)
    assert main([*argv, "--threshold", "0.4"]) == 1, "another command"
    assert main(argv) == 0
    assert not [name for name in names(out) if name.startswith(".")]
    assert {"e.gpkg", "r.png"} <= set(names(out))
    capsys.readouterr()
    assert main(argv) == 1, "finished now"
    assert "already there" in capsys.readouterr().err


def test_a_sample_killed_after_its_last_file_is_there(town, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    argv = ["sample", str(folder), *SIZE, "-q"]
    place = rscd.synthetic.sample.place

    def killed(*args):
        place(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rscd.synthetic.sample, "place", killed)
        assert main(argv) == 130
    assert main(["sample", str(folder), "--size", "64,64", "-q"]) == 1, "another sample"
    assert "already there" in capsys.readouterr().err
    assert main(argv) == 0
    wanted = {p.name: p.read_bytes() for p in town.iterdir() if p.name != "p.tif"}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == wanted
    assert main(argv) == 1
