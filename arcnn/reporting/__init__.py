"""Records of runs, the paper's numbers, and Table 1."""

import lazy_loader

# Importing a part brings what that part needs, and no more.
PARTS = {
    "comparison": "compare",
    "record": "Record about device versions write_record",
    "runs": "collect_runs earlier_protocol first_run",
    "table": "difference_draws model_differences paper_table sentences table1 to_latex to_markdown",
}
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={part: names.split() for part, names in PARTS.items()}
)
