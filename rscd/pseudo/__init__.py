"""Labels made by models instead of people: segmenters, and the change events between two dates."""
