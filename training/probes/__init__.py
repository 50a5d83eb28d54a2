"""What a model's features are worth without training it: few shots, neighbours, a linear layer."""

from training.probes.callback import ProbeCallback
from training.probes.extraction import FeatureExtractor, Features, features
from training.probes.few_shot_regression import FewShotResult, few_shot
from training.probes.linear import LinearProbeResult, linear_probe
from training.probes.nearest_neighbours import NeighboursResult, neighbour_scores, neighbours
from training.probes.run import KINDS, Kind, probe_names, run_probes

__all__ = [
    "KINDS",
    "FeatureExtractor",
    "Features",
    "FewShotResult",
    "Kind",
    "LinearProbeResult",
    "NeighboursResult",
    "ProbeCallback",
    "features",
    "few_shot",
    "linear_probe",
    "neighbour_scores",
    "neighbours",
    "probe_names",
    "run_probes",
]
