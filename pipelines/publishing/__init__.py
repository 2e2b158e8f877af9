"""Datasets written in the forms that other projects train on."""
