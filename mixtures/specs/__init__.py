"""The mixture spec as data, and the specs that are shipped."""
