"""The workshop, a room for each kind of work; nothing in it is needed to understand the paper.

``setup``       ``make setup``: the environment, detectron2 in it, and what is known against either
``run``         ``make reproduce`` and ``make rehearse``: what can be checked beforehand, what it
                takes, and what of earlier results still fits
``notebooks``   run one with parameters; as pages, book, slides and report; copies to work in
``own_data``    ``python -m arcnn.data`` and ``python -m arcnn.evaluation``: check, convert, fetch,
                paste and score data of one's own; notebooks 01 and 10
``own_photos``  ``python -m arcnn.predict`` and ``python -m arcnn.export``: use what was trained;
                notebook 15
"""
