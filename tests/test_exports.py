import rscd


def test_public_names_are_sorted_and_all_there() -> None:
    assert rscd.__all__ == sorted(rscd.__all__)
    assert set(rscd.__all__) == set(rscd._HOMES)
    for name in rscd.__all__:
        assert getattr(rscd, name).__module__ == rscd._HOMES[name]
