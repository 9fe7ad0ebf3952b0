"""Review of a change layer: the page, its pictures, and the decisions that come out of it."""
