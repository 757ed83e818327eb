"""Which adapter classes a file of roles can name, for each role.

    [detectors.nanodet]
    class = "onnx"                 # a key of ADAPTERS
    model = "nanodet.onnx"

Each kind needs packages of its own, so that a class is imported when a file names it. A class has
an attribute `path_arguments`: which of its arguments may be files beside the file of roles.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from glamm_jax.errors import ConfigError

# Kind -> role -> module and class, below `glamm_jax.grand.adapters`.
ADAPTERS: dict[str, dict[str, str]] = {
    "glamm": {
        "segmenter": "jax_models.sam_roles:SAMSegmenter",
        "region_proposer": "jax_models.sam_roles:SAMProposer",
        "captioner": "jax_models.glamm_roles:GLaMMCaptioner",
        "region_captioner": "jax_models.glamm_roles:GLaMMRegionCaptioner",
        "dense_captioner": "jax_models.glamm_roles:GLaMMDenseCaptioner",
        "phrase_grounder": "jax_models.glamm_roles:GLaMMPhraseGrounder",
        "landmark_classifier": "jax_models.glamm_roles:GLaMMLandmarkClassifier",
        "llm": "jax_models.llama_role:LlamaTextLLM",
    },
    "onnx": {
        "detector": "onnx_models.detector:ONNXDetector",
        "region_proposer": "onnx_models.mask:ONNXMaskProposer",
        "segmenter": "onnx_models.mask:ONNXMaskSegmenter",
        "tagger": "onnx_models.tagger:ONNXTagger",
    },
    "endpoint": {
        "tagger": "endpoint.vision:EndpointTagger",
        "captioner": "endpoint.vision:EndpointCaptioner",
        "landmark_classifier": "endpoint.vision:EndpointLandmarkClassifier",
        "region_captioner": "endpoint.vision:EndpointRegionCaptioner",
        "llm": "endpoint.language:EndpointLLM",
    },
    "files": {
        "detector": "prediction_roles.roles:PredictionDetector",
        "dense_captioner": "prediction_roles.roles:PredictionDenseCaptioner",
        "region_proposer": "prediction_roles.roles:PredictionProposer",
        "tagger": "prediction_roles.roles:PredictionTagger",
        "captioner": "prediction_roles.roles:PredictionCaptioner",
        "landmark_classifier": "prediction_roles.roles:PredictionLandmarkClassifier",
        "depth_estimator": "prediction_roles.roles:PredictionDepthEstimator",
    },
    "transformers": {
        "tagger": "torch_models.similarity:TransformersTagger",
        "detector": "torch_models.detection:TransformersDetector",
        "open_detector": "torch_models.open_detection:TransformersOpenDetector",
        "dense_captioner": "torch_models.image_text:TransformersDenseCaptioner",
        "region_proposer": "torch_models.segmentation:TransformersRegionProposer",
        "region_classifier": "torch_models.similarity:TransformersRegionClassifier",
        "depth_estimator": "torch_models.depth:TransformersDepthEstimator",
        "landmark_classifier": "torch_models.image_text:TransformersLandmarkClassifier",
        "captioner": "torch_models.image_text:TransformersCaptioner",
        "phrase_grounder": "torch_models.phrase_grounding:TransformersPhraseGrounder",
        "region_captioner": "torch_models.image_text:TransformersRegionCaptioner",
        "label_chooser": "torch_models.similarity:TransformersLabelChooser",
        "segmenter": "torch_models.segmentation:TransformersSegmenter",
        "llm": "torch_models.text_llm:TransformersLLM",
    },
}
# Kind -> the extra with its packages; "files" and "endpoint" need none.
EXTRAS: dict[str, str] = {"onnx": "annotate-onnx", "transformers": "annotate-hf"}


def adapter_kinds(role: str) -> list[str]:
    """Return the kinds that have an adapter for a role, such as "detector"."""
    return [kind for kind, classes in ADAPTERS.items() if role in classes]


def adapter_class(kind: str, role: str) -> type[Any]:
    """Import the adapter of a kind for a role.

    Raises:
        ConfigError: a package that it needs is not installed.
    """
    module, _, name = ADAPTERS[kind][role].partition(":")
    try:
        return getattr(import_module(f"{__package__}.{module}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("glamm_jax"):
            raise
        raise ConfigError(
            f"class = {kind!r} needs the package {error.name}: "
            f"pip install 'glamm-jax[{EXTRAS[kind]}]'"
        ) from error
