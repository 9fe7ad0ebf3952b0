"""Used by every other package: types, errors, files, and error handling around libraries."""
