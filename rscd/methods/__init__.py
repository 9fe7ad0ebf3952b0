"""One file per published training method."""
