"""How good a result is: models on labelled splits, finished maps against reference maps."""
