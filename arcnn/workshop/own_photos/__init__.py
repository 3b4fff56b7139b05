"""``python -m arcnn.predict`` and ``python -m arcnn.export``: use what was trained."""
