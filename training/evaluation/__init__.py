"""How good a model is on data that it has not seen."""

from training.evaluation.accuracy import Evaluation, evaluate
from training.evaluation.calibration import calibration_error
from training.evaluation.classes import class_indices
from training.evaluation.files import write_evaluation

__all__ = ["Evaluation", "calibration_error", "class_indices", "evaluate", "write_evaluation"]
