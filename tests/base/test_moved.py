"""Names of version 0.1 still lead to what they named."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

import rscd
from rscd.base.moved import MOVED, new_name

PACKAGE = Path(rscd.__file__).parent


def test_every_old_name_leads_to_a_module_that_exists() -> None:
    for old, new in MOVED.items():
        place = PACKAGE.joinpath(*new.split("."))
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), old
        gone = PACKAGE.joinpath(*old.split("."))
        assert not gone.with_suffix(".py").exists(), f"{old} is still there"
        assert not gone.exists(), f"{old} is still there"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rscd.types", "rscd.base.types"),
        ("rscd.data.towns.plan", "rscd.synthetic.towns.plan"),
        ("rscd.data.towns", "rscd.synthetic.towns"),
        ("rscd.data.townships", None),
        ("rscd.data", None),
        ("numpy", None),
    ],
)
def test_new_names(old: str, new: str | None) -> None:
    assert new_name(old) == new


def test_an_old_name_is_the_same_module_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rscd.data.town_dataset", raising=False)
    with pytest.warns(DeprecationWarning, match=r"rscd\.data\.town_dataset is now rscd\.synth"):
        old = import_module("rscd.data.town_dataset")
    new = import_module("rscd.synthetic.town_pairs")
    assert old is new
    assert new.__spec__ is not None
    assert new.__spec__.name == "rscd.synthetic.town_pairs"


@pytest.mark.filterwarnings("ignore")
def test_every_old_name_can_be_imported() -> None:
    for old, new in MOVED.items():
        assert import_module(f"rscd.{old}") is import_module(f"rscd.{new}"), old
    from rscd.data.towns.plan import plan_town  # type: ignore[import-not-found]
    from rscd.pseudo import events  # type: ignore[import-not-found]

    from rscd.synthetic.towns import plan

    assert plan_town is plan.plan_town
    assert events is import_module("rscd.events.pixels")
    assert rscd.metrics.ChangeMetrics
    assert callable(rscd.pipeline.predict)
    assert rscd.training.train


def test_names_that_never_were_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such"):
        import_module("rscd.no_such")
