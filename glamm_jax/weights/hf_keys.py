"""Keys of foreign config.json files: nothing that changes the computation is ignored.

Every key is in one of these classes; `check_keys` applies them.

used       read by `weights.infer_config`
neutral    changes the computation, except at the values that are listed; any other is rejected
inert      does not change the computation, or describes the training only
unknown    all others; a warning names them
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from glamm_jax.config import Activation
from glamm_jax.errors import GLaMMWarning
from glamm_jax.json_files import JSONObject, show
from glamm_jax.weights.rules import WeightsError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True)
class KeyPolicy:
    """The classes of keys of a family's config.json; the unknown ones are all others.

    Attributes:
        family: what the file describes, for messages.
        used: keys that are read.
        neutral: key -> values that are supported; null always is.
        inert: keys without effect.
    """

    family: str
    used: frozenset[str]
    neutral: Mapping[str, tuple[Any, ...]]
    inert: frozenset[str]


def check_keys(config: JSONObject, policy: KeyPolicy) -> None:
    """Check all keys of a config.json; warn about unknown ones.

    Args:
        config: content of the file.
        policy: of its family.

    Raises:
        WeightsError: keys have values that would change the computation; the message lists all.
    """
    rejected, unknown = [], []
    for key, value in config.fields.items():
        if value is None or key in policy.used or key in policy.inert:
            continue
        if key in policy.neutral:
            supported = policy.neutral[key]
            if not any(_is_same(value, neutral) for neutral in supported):
                rejected.append(f"{key} = {show(value)}, {_describe(supported)}")
        else:
            unknown.append(f"{key} = {show(value)}")
    if rejected:
        raise WeightsError(
            f"{config.where} describes another architecture than {policy.family}: "
            f"{'; '.join(rejected)}"
        )
    if unknown:
        warnings.warn(
            f"{config.where}: unknown keys, which are ignored: {'; '.join(unknown)}. Compare the "
            "converted model with its source if one of them changes the computation",
            GLaMMWarning,
            stacklevel=2,
        )


def _is_same(value: Any, neutral: Any) -> bool:
    """Compare two JSON values; 1 and 1.0 are equal, 1 and true are not."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _describe(supported: tuple[Any, ...]) -> str:
    values = " or ".join(repr(value) for value in supported)
    return f"not {values}" if supported else "which is not supported"


# Keys of transformers that every configuration may have; they say how to run, print or generate.
COMMON = _names(
    """
    _attn_implementation _attn_implementation_internal _commit_hash _flash_attn_2_enabled
    _model_name_or_path _name_or_path _unsloth_fix architectures attention_dropout
    attn_implementation auto_map bad_words_ids begin_suppress_tokens chunk_size_feed_forward
    classifier_dropout
    decoder_start_token_id diversity_penalty do_sample dropout dtype early_stopping embd_pdrop
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id generation_config gradient_checkpointing
    hidden_dropout hidden_dropout_prob id2label initializer_factor initializer_range
    is_decoder is_encoder_decoder label2id language length_penalty license max_length
    max_new_tokens max_window_layers min_length no_repeat_ngram_size num_beam_groups num_beams
    num_labels num_return_sequences output_attentions output_hidden_states output_scores
    output_router_logits prefix problem_type pruned_heads remove_invalid_values
    repetition_penalty resid_pdrop return_dict return_dict_in_generate router_aux_loss_coef
    router_jitter_noise sep_token_id suppress_tokens task_specific_params temperature
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version transformers_weights typical_p unsloth_fixed unsloth_version use_bfloat16
    use_cache
        """
)

LLAMA_KEYS = KeyPolicy(
    family="LLaMA",
    used=_names(
        """
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads head_dim max_position_embeddings rms_norm_eps rope_theta rope_scaling
        rope_parameters tie_word_embeddings quantization_config sliding_window use_sliding_window
        layer_types mm_vision_select_layer glamm_jax bbox_token_idx
        """
    ),
    neutral={
        # Structures that have the names of LLaMA's tensors, and compute the same.
        "model_type": ("llama", "llava", "llava_llama", "mistral"),
        "hidden_act": ("silu", "swish"),
        "hidden_activation": ("silu", "swish"),
        "attention_bias": (False,),
        "qkv_bias": (False,),
        "attention_out_bias": (False,),
        "mlp_bias": (False,),
        "bias": (False,),
        "use_bias": (False,),
        "lm_head_bias": (False,),
        "partial_rotary_factor": (1.0,),
        "rotary_pct": (1.0,),
        "rope_interleaved": (False,),
        "rope_local_base_freq": (),
        "no_rope_layers": ((), []),
        "no_rope_layer_interval": (0,),
        "use_rope": (True,),
        "use_alibi": (False,),
        "alibi": (False,),
        "position_embedding_type": ("rope", "rotary", "absolute"),
        # Factors of Gemma, Granite, MiniCPM, Cohere, Grok and others.
        "embedding_multiplier": (1.0,),
        "embedding_scale": (1.0,),
        "attention_multiplier": (),
        "residual_multiplier": (1.0,),
        "residual_scale": (1.0,),
        "logits_scaling": (1.0,),
        "logit_scale": (1.0,),
        "lm_head_multiplier": (1.0,),
        "key_multiplier": (1.0,),
        "scale_emb": (1.0,),
        "scale_depth": (),
        "dim_model_base": (),
        "query_pre_attn_scalar": (),
        "attention_scale": (),
        "attn_temperature_tuning": (False, 0),
        "attn_scale": (),
        "final_logit_softcapping": (0.0,),
        "attn_logit_softcapping": (0.0,),
        "logits_soft_cap": (0.0,),
        "clip_qkv": (),
        "use_qk_norm": (False,),
        "qk_norm": (False,),
        "qk_layernorm": (False,),
        "use_post_norm": (False,),
        "normalization_type": ("rmsnorm", "RMSNorm"),
        "norm_type": ("rmsnorm", "RMSNorm", "rms_norm"),
        "use_parallel_residual": (False,),
        "parallel_attn": (False,),
        "num_experts": (0, 1),
        "num_local_experts": (0, 1),
        "num_experts_per_tok": (0, 1),
        "n_routed_experts": (0,),
        "attention_chunk_size": (),
        "sliding_window_pattern": (),
        "use_bidirectional_attention": (False,),
        "is_causal": (True,),
        "add_cross_attention": (False,),
        "cross_attention_hidden_size": (),
        # LLaVA and GLaMM
        "mm_vision_select_feature": ("patch",),
        "select_feature_type": ("patch",),
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_patch_merge_type": ("flat",),
        "mm_use_im_patch_token": (False,),
        "use_image_patch_token": (False,),
        "use_mm_proj": (True,),
        "with_region": (True,),
        "num_level_reg_features": (4,),
        "image_aspect": ("square",),
        "image_grid_points": (),
        "seg_token_idx": (),
    },
    inert=COMMON
    | _names(
        # pretraining_tp splits the same matrix products; the ids of special tokens are those of the
        # tokenizer.
        """
        pretraining_tp bos_token_id eos_token_id pad_token_id unk_token_id original_max_positions
        rope_theta_scaling_factor mm_use_im_start_end mm_use_image_start_end mm_vision_tower
        vision_tower mm_vision_module vision_module mm_hidden_size num_reg_features
        pretrain_mm_mlp_adapter tune_mm_mlp_adapter tune_mlp_adapter freeze_mm_mlp_adapter
        freeze_mlp_adapter train_mask_decoder out_dim tune_mm_vision_resampler
        unfreeze_mm_vision_tower mm_projector_lr mm_vision_tower_lr use_mm_vision_projector
        tokenizer_model_max_length tokenizer_padding_side pretrained_model_name_or_path
        max_sequence_length
        """
    ),
)

# Of `rope_parameters` and `rope_scaling`.
ROPE_KEYS = KeyPolicy(
    family="LLaMA",
    used=_names(
        """
        rope_type type rope_theta factor low_freq_factor high_freq_factor
        original_max_position_embeddings
        """
    ),
    neutral={
        "partial_rotary_factor": (1.0,),
        "attention_factor": (1.0,),
        "mrope_section": (),
        "mrope_interleaved": (False,),
        # transformers 5: parameters for each type of layer
        "full_attention": (),
        "sliding_attention": (),
    },
    inert=frozenset(("finetuned",)),
)

CLIP_KEYS = KeyPolicy(
    family="CLIP's vision model",
    used=_names(
        """
        hidden_size intermediate_size num_hidden_layers num_attention_heads image_size patch_size
        layer_norm_eps quantization_config
        """
    ),
    neutral={
        "model_type": ("clip", "clip_vision_model"),
        "hidden_act": get_args(Activation),
        "num_channels": (3,),
        "attention_bias": (True,),
        "qkv_bias": (True,),
        "mlp_bias": (True,),
        "interpolate_pos_encoding": (False,),
        "use_qk_norm": (False,),
        "is_causal": (False,),
        "add_cross_attention": (False,),
        "cross_attention_hidden_size": (),
        "vision_use_head": (False,),
    },
    # The projections of CLIP to the space that it shares with texts are unused.
    inert=COMMON
    | _names(
        """
        projection_dim logit_scale_init_value bos_token_id eos_token_id pad_token_id
        tie_word_embeddings text_config text_config_dict vision_config vision_config_dict
        """
    ),
)
