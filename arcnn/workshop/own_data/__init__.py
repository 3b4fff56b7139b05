"""``python -m arcnn.data`` and ``python -m arcnn.evaluation``: data of one's own."""
