"""Models that play the roles of the annotation.

`oracle`, `oracle_regions`, `oracle_language`: answers from the truth about mini-world scenes, with
the errors of `noise`. `registry`: which real models a file of roles can name.
"""

from glamm_jax.grand.adapters.noise import NOISE, NoiseOptions
from glamm_jax.grand.adapters.oracle import (
    OracleCaptioner,
    OracleDenseCaptioner,
    OracleDepthEstimator,
    OracleDetector,
    OracleLandmarkClassifier,
    OracleOpenDetector,
    OracleProposer,
    OracleRole,
    OracleTagger,
)
from glamm_jax.grand.adapters.oracle_language import OracleLLM
from glamm_jax.grand.adapters.oracle_regions import (
    OracleLabelChooser,
    OraclePhraseGrounder,
    OracleRegionCaptioner,
    OracleRegionClassifier,
    OracleSegmenter,
)

__all__ = ["NOISE", "ORACLES", "NoiseOptions"]

# Name of a role, as a configuration of roles states it -> its oracle.
ORACLES: dict[str, type[OracleRole]] = {
    "tagger": OracleTagger,
    "detector": OracleDetector,
    "open_detector": OracleOpenDetector,
    "dense_captioner": OracleDenseCaptioner,
    "region_proposer": OracleProposer,
    "region_classifier": OracleRegionClassifier,
    "depth_estimator": OracleDepthEstimator,
    "landmark_classifier": OracleLandmarkClassifier,
    "captioner": OracleCaptioner,
    "phrase_grounder": OraclePhraseGrounder,
    "region_captioner": OracleRegionCaptioner,
    "label_chooser": OracleLabelChooser,
    "segmenter": OracleSegmenter,
    "llm": OracleLLM,
}
