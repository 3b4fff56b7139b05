"""``make reproduce`` and ``make rehearse``: the whole paper, from a profile."""
