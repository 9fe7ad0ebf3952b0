"""What every room may use: types, errors, files, checks at the border to libraries."""
