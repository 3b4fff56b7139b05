"""``make setup``: the environment, detectron2 in it, and what is known against either."""
