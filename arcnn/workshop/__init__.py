"""The workshop: what sets the kit up, runs its notebooks, and gets data into shape.

``environment``         ``make setup``; ``install_detectron2`` is a step of it
``reproduce``           ``make reproduce``: check everything beforehand, then hand over to Snakemake
``rehearse``            ``make rehearse``: what would it take here? ``rehearsal``: a process of it
``estimate``            hours, memory, disk: from a rehearsal, the settings, or finished runs
``profiles``            its parameters; ``outdated``: which earlier results still fit
``notebooks``           run one notebook with parameters
``book``                ``make book``, ``slides``: ``make slides``; ``pages``: what needs no network
``reference``           ``make reference``: keep the small files of a run
``data_commands``       ``python -m arcnn.data``: the next four as commands
``check``               one report on an annotation file and its images
``convert``             labelme and COCO files to the kit's format
``fetch``               what is where, on which terms; download what has an address
``pasting``             amodal data from a modal data set (Li and Malik 2016); ``cutouts`` of it
``score``               ``python -m arcnn.evaluation``: score anyone's predictions

Nothing here is needed to understand the paper. Notebook 01 gets and checks data with it, and
notebook 10 is about pasting.
"""
