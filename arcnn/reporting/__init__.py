"""Records of runs, the paper's numbers, and Table 1."""

from arcnn.reporting.paper import COLUMNS, paper_table
from arcnn.reporting.record import (
    device,
    versions,
    write_json,
    write_record,
    write_table,
    write_text,
)
from arcnn.reporting.reference import REFERENCE, TOLERANCE, compare
from arcnn.reporting.table1 import (
    Run,
    collect_runs,
    model_differences,
    table1,
    to_latex,
    to_markdown,
)

__all__ = [
    "COLUMNS",
    "REFERENCE",
    "TOLERANCE",
    "Run",
    "collect_runs",
    "compare",
    "device",
    "model_differences",
    "paper_table",
    "table1",
    "to_latex",
    "to_markdown",
    "versions",
    "write_json",
    "write_record",
    "write_table",
    "write_text",
]
