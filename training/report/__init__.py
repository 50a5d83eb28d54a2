"""An evaluation as one page to read and to hand on."""

from training.report.collect import Findings, examine
from training.report.page import write_report
from training.report.significance import McNemar, mcnemar

__all__ = ["Findings", "McNemar", "examine", "mcnemar", "write_report"]
