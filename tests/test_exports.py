import pydoc

import rscd


def test_public_names_are_sorted_and_all_there() -> None:
    assert rscd.__all__ == sorted(rscd.__all__)
    assert set(rscd.__all__) == set(rscd._HOMES)
    for name in rscd.__all__:
        assert getattr(rscd, name).__module__ == rscd._HOMES[name]


def test_tab_and_help_show_the_public_names() -> None:
    assert {*rscd.__all__, "__version__"} <= set(dir(rscd))
    shown = pydoc.plain(pydoc.render_doc(rscd))
    for name in ("predict", "open_pair", "predict_events"):
        assert f"    {name}(" in shown
    assert 'result = rscd.predict("2019.tif", "2023.tif")' in shown
