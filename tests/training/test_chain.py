"""Chains of commands: what runs, what is skipped, and what goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rscd.base.errors import OutputError, UsageError
from rscd.training.chain import Stage, arguments, is_chain, read_chain, run_chain

CHAIN = {
    "folder": "runs/x",
    "stages": {
        "first": {"train": {"model": {"lr": 0.1}}},
        "masks": {
            "pseudolabel": {
                "args": ["data"], "checkpoint": "{first}/best.ckpt", "no_gate": True, "split": None,
                "so": ["a=1", "b=2"], "threshold": 0.5,
            }
        },
        "second": {"train": {"model": {"lr": 0.2}, "data": {"streams": ["{masks}"]}}},
    },
}  # fmt: skip


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(CHAIN, sort_keys=False))
    return path


def stages(chain: Path, *overrides: str) -> list[Stage]:
    return read_chain(chain, ["--folder", str(chain.parent / "run"), *overrides])


def test_stages_become_command_lines(chain: Path, tmp_path: Path) -> None:
    first, masks, second = stages(chain)
    for stage in (first, second):
        stage.folder.mkdir(parents=True)
    run = tmp_path / "run"
    config = ["-c", str(run / "first" / "stage.yaml")]
    place = ["--trainer.default_root_dir", str(run / "first")]
    assert arguments(first) == ["train", *config, *place, "--overwrite"]
    assert yaml.safe_load((run / "first" / "stage.yaml").read_text()) == {"model": {"lr": 0.1}}
    assert arguments(masks) == [
        "pseudolabel", "data", "--checkpoint", f"{run}/first/best.ckpt", "--no-gate", "--so", "a=1",
        "--so", "b=2", "--threshold", "0.5",
    ]  # fmt: skip
    assert second.settings["data"] == {"streams": [f"{run}/masks"]}
    (first.folder / "last.ckpt").touch()
    assert arguments(first)[-2:] == ["--ckpt_path", str(run / "first" / "last.ckpt")]


def test_overrides_reach_their_stages(chain: Path) -> None:
    first, masks, second = stages(
        chain, "--first.model.lr", "1", "--trainer.accelerator=cpu", "--masks.threshold", "otsu"
    )
    assert first.overrides == ("--trainer.accelerator", "cpu", "--model.lr", "1")
    assert second.overrides == ("--trainer.accelerator", "cpu")
    assert masks.settings["threshold"] == "otsu"


def test_finished_stages_are_skipped_and_a_stopped_chain_goes_on(chain: Path) -> None:
    seen = []

    def stopped(line: list[str]) -> None:
        if line[0] == "pseudolabel":
            raise KeyboardInterrupt
        seen.append(line)

    with pytest.raises(KeyboardInterrupt):
        run_chain(stages(chain), stopped)
    (chain.parent / "run" / "first" / "best.ckpt").touch()
    with pytest.raises(OutputError, match="first was begun, found other overrides; give another"):
        run_chain(stages(chain, "--first.model.lr", "9"), seen.append)
    assert [line[0] for line in seen] == ["train"]
    run_chain(stages(chain), seen.append)
    assert [line[0] for line in seen] == ["train", "pseudolabel", "train"]
    run_chain(stages(chain), seen.append)
    assert len(seen) == 3
    note = json.loads((chain.parent / "run" / "first" / "done.json").read_text())
    assert note["command"] == "train"


def test_a_stage_done_again_makes_what_follows_anew(chain: Path) -> None:
    seen: list[Any] = []
    run_chain(stages(chain), seen.append)
    for name in ("first", "second"):
        (chain.parent / "run" / name / "last.ckpt").touch()
    (chain.parent / "run" / "masks" / "done.json").unlink()
    run_chain(stages(chain), seen.append)
    assert [line[0] for line in seen[3:]] == ["pseudolabel", "train"]
    assert "--ckpt_path" not in seen[-1], "a training on new masks must not go on from old ones"


def test_a_folder_with_checkpoints_of_another_run_is_refused(chain: Path) -> None:
    folder = chain.parent / "run" / "first"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").touch()
    for _ in range(2):
        with pytest.raises(OutputError, match=r"first to be empty or .*, found best\.ckpt"):
            run_chain(stages(chain), lambda line: None)
    (folder / "best.ckpt").unlink()
    run_chain(stages(chain), lambda line: None)


def test_other_settings_than_those_finished_with_are_refused(chain: Path) -> None:
    run_chain(stages(chain), lambda line: None)
    with pytest.raises(OutputError, match="first was begun, found other overrides; give another"):
        run_chain(stages(chain, "--first.model.lr", "9"), lambda line: None)


@pytest.mark.parametrize("change", [(), ("--first.model.lr", "9")])
def test_a_chain_of_version_0_1_is_resumed_with_the_same_settings_alone(
    chain: Path, change: tuple[str, ...]
) -> None:
    ran: list[Any] = []
    for stage in stages(chain)[:2]:
        stage.folder.mkdir(parents=True)
        note = json.dumps({"key": stage.key, "command": stage.command})
        for name in ("begun.json", "done.json"):
            (stage.folder / name).write_text(note)
    if change:
        with pytest.raises(OutputError, match="first was begun, found other"):
            run_chain(stages(chain, *change), ran.append)
        assert ran == []
    else:
        run_chain(stages(chain), ran.append)
        assert [line[0] for line in ran] == ["train"]


def test_a_folder_of_nobody_is_refused_even_where_earlier_stages_are_done_again(
    chain: Path,
) -> None:
    folder = chain.parent / "run" / "second"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").touch()
    with pytest.raises(OutputError, match=r"second to be empty or .*, found best\.ckpt"):
        run_chain(stages(chain), lambda line: None)
    assert (folder / "best.ckpt").exists()


def test_a_stage_done_again_with_other_settings_replaces_what_it_made(chain: Path) -> None:
    run_chain(stages(chain), lambda line: None)
    run = chain.parent / "run"
    for name in ("best.ckpt", "last.ckpt"):
        (run / "second" / name).touch()
    (run / "masks" / "done.json").unlink()
    run_chain(stages(chain, "--second.model.lr", "9"), lambda line: None)
    assert not list((run / "second").glob("*.ckpt"))
    assert (run / "second" / "done.json").exists()


def test_two_runs_do_not_share_a_chain(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(line: list[str]) -> None:
        with pytest.raises(OutputError, match="another run is writing to"):
            run_chain(stages(chain), lambda line: None)

    run_chain(stages(chain), second)
    again: list[Any] = []

    def of_the_same_training(line: list[str]) -> None:
        monkeypatch.setenv("LOCAL_RANK", "1")
        run_chain(stages(chain), again.append)
        monkeypatch.delenv("LOCAL_RANK")

    (chain.parent / "run" / "second" / "done.json").unlink()
    run_chain(stages(chain), of_the_same_training)
    assert [line[0] for line in again] == ["train"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stages": {}}, "found no stages"),
        (
            {"stages": {"a": {"train": {}}}, "model": {}},
            "expected folder, set, stages, found model",
        ),
        ({"stages": {"a": {"train": {}, "predict": {}}}}, "expected one command for stage a"),
        ({"stages": {"a": {"train": 3}}}, "expected options of train in stage a"),
        ({"stages": {"a": {"train": {}}}, 5: 1}, "expected folder, set, stages, found 5"),
        ({"stages": {"a": {"train": {}}}, "folder": "a\0b"}, "the name of a folder"),
        ({"stages": {5: {"train": {}}}}, "names can be folders, found 5; rename"),
        ({"stages": {None: {"train": {}}}}, "names can be folders, found None"),
        ({"stages": {"../a": {"train": {}}}}, r"names can be folders, found '\.\./a'"),
        ({"stages": {"": {"train": {}}}}, "names can be folders, found ''"),
        ({"stages": {"a": {1.5: {}}}}, r"a command of rscd in stage a, found 1\.5"),
        ({"stages": {"a": {"train": {"x": 1, 2: 3}}}}, "stage a that are plain data"),
        ({"stages": {"a": {"data": {"args": 3}}}}, "a list of texts for args in stage a, found 3"),
        ({"stages": {"a": {"data": {"args": "towns"}}}}, "a list of texts for args in stage a"),
        ({"stages": {"a": {"data": {"args": [None]}}}}, "a list of texts for args in stage a"),
        ({"stages": {"a": {"data": {"so": {"a": 1}}}}}, "a list of them for so in stage a"),
        ({"stages": {"a": {"data": {"so": [["a"]]}}}}, "a list of them for so in stage a"),
        ({"stages": {"a": {"data": {5: 1}}}}, "names of options in stage a, found 5"),
    ],
)
def test_what_is_no_chain_is_refused(tmp_path: Path, content: dict[Any, Any], message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=message):
        read_chain(path)
    assert is_chain(path)


def test_dates_and_whole_numbers_as_names_are_data_that_yaml_knows(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "stages:\n"
        "  a: {predict: {args: [x, y], t1_date: 2020-03-04}}\n"
        "  b: {train: {data: {mask_values: {0: 0, 255: 1}}}}\n"
    )
    a, b = read_chain(path, ["--folder", str(tmp_path / "run")])
    assert arguments(a) == ["predict", "x", "y", "--t1-date", "2020-03-04"]
    arguments(b)
    assert yaml.safe_load((tmp_path / "run/b/stage.yaml").read_text()) == b.settings
    assert len({a.key, b.key}) == 2


def test_files_that_are_no_chains(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    assert not is_chain(path)
    path.write_text("model: {lr: 1}")
    assert not is_chain(path)
    path.write_text("[1")
    assert not is_chain(path)


@pytest.mark.parametrize("wrong", [["--other", "1"], ["first.lr"], ["--first.lr"]])
def test_overrides_that_fit_nothing_are_refused(chain: Path, wrong: list[str]) -> None:
    with pytest.raises(UsageError, match="expected --"):
        stages(chain, *wrong)


VALUES = {
    "set": {"data": "levir", "root": "data/{data}256", "n": 3, "own": {"root": "{root}"}},
    "folder": "runs/{data}",
    "stages": {
        "a": {"train": {"model": {"lr": "{n}", "note": "{n} of {data}"}, "data": "{own}"}},
        "b": {"evaluate": {"args": ["{root}"], "model": "{a}/x.ckpt", "rows": "{folder}/r.csv"}},
    },
}


def test_values_of_set_are_filled_in_and_keep_their_type(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(VALUES, sort_keys=False))
    a, b = read_chain(path)
    assert a.settings == {
        "model": {"lr": 3, "note": "3 of levir"}, "data": {"root": "data/levir256"},
    }  # fmt: skip
    assert arguments(b) == [
        "evaluate", "data/levir256", "--model", "runs/levir/a/x.ckpt", "--rows", "runs/levir/r.csv",
    ]  # fmt: skip
    a, b = read_chain(path, ["--set.data", "whu", "--set.n=0.5", "--set.own", "{root: '{data}'}"])
    assert a.settings == {"model": {"lr": 0.5, "note": "0.5 of whu"}, "data": {"root": "whu"}}
    assert str(b.folder) == "runs/whu/b"
    [b] = read_chain(path, ["--stages", "b", "--folder", "runs/other"])
    assert b.settings["model"] == "runs/other/a/x.ckpt"
    for wrong, message in (
        (["--set.other", "1"], "expected data, root, n, own, found other"),
        (["--stages", "a,c"], "expected a, b, found c"),
        (["--set", "1"], "expected --folder, --stages, or dotted"),
    ):
        with pytest.raises(UsageError, match=message):
            read_chain(path, wrong)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"set": [1]}, "expected values by name under set"),
        ({"set": {"a": 1}}, "of different names .* found 'a'"),
        ({"set": {"folder": 1}}, "found 'folder'"),
    ],
)
def test_values_that_shadow_stages_are_refused(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(VALUES | more))
    with pytest.raises(UsageError, match=message):
        read_chain(path)
