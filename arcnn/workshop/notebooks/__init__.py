"""Notebooks: run one with parameters; as pages, book, slides and report; copies to work in."""
