"""Folders with tiny models of transformers: random weights, and processors and tokenizers to fit.

Each function writes a folder as `save_pretrained` writes that of a real model. Texts are bytes, so
that every text has tokens; Grounding DINO has the numbers of the tokens of BERT that it needs.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers.models.d_fine.modeling_d_fine import DFineForObjectDetection
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

PAD, BOS, EOS, IMAGE, UNKNOWN = "<pad>", "<s>", "</s>", "<image>", "<unk>"
NUM_TOKENS = 261
# The end has the highest number, as CLIP needs it.
PAD_ID, BOS_ID, IMAGE_ID, EOS_ID = 0, 1, 2, NUM_TOKENS - 1
LABELS = {0: "traffic light", 1: "dog", 2: "N/A", 3: "cat"}
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CHAT = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer(
    *, end: bool = True, image: bool = True, locations: bool = False, limit: int = 512
) -> Any:
    """Return a tokenizer whose tokens are bytes.

    Args:
        end: whether a text ends with a token.
        image: whether it knows which token stands for an image.
        locations: whether there are the tokens of Florence-2.
        limit: of tokens.
    """
    words = [PAD, BOS, IMAGE, UNKNOWN, *sorted(pre_tokenizers.ByteLevel.alphabet()), EOS]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}" if end else f"{BOS} $A",
        special_tokens=[(BOS, BOS_ID), (EOS, EOS_ID)],
    )
    result = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=limit,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE} if image else {},
    )
    if locations:
        result.add_tokens([f"<loc_{i}>" for i in range(1000)])
    return result


def bert_tokenizer() -> Any:
    """Return a tokenizer of characters with the tokens that Grounding DINO knows by number."""
    words = [f"[unused{i}]" for i in range(1200)]
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 1012: ".", 1029: "?"}
    for number, word in fixed.items():
        words[number] = word
    for k, letter in enumerate(string.ascii_lowercase + string.digits + ",'"):
        words[1040 + 2 * k : 1042 + 2 * k] = [letter, f"##{letter}"]
    return hf.BertTokenizer(
        vocab={word: i for i, word in enumerate(words)}, model_max_length=512, do_lower_case=True
    )


def randomized(network: Any, scale: float = 0.15, seed: int = 0) -> Any:
    """Return a network with weights that make its outputs differ between images."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, scale, generator=generator)
    return network


def _save(folder: Path, network: Any, *processors_: Any) -> None:
    network.save_pretrained(folder)
    for processor in processors_:
        processor.save_pretrained(folder)


def save_rt_detr(folder: Path) -> None:
    backbone = hf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = hf.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[12, 16, 20],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    network = randomized(hf.RTDetrForObjectDetection(config))
    _save(folder, network, RTDetrImageProcessorPil(size={"height": 64, "width": 64}))


def save_d_fine(folder: Path) -> None:
    backbone = hf.HGNetV2Config(
        hidden_sizes=[8, 12, 16, 20],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 12, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 12, 16, 20],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = hf.DFineConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[12, 16, 20],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=0,
        lqe_hidden_dim=16,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    network = randomized(DFineForObjectDetection(config))
    _save(folder, network, RTDetrImageProcessorPil(size={"height": 64, "width": 64}))


def save_owlv2(folder: Path) -> None:
    tower = SMALL | {"num_hidden_layers": 1}
    text = {"vocab_size": NUM_TOKENS, "max_position_embeddings": 64}
    text |= {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    vision = {"image_size": 64, "patch_size": 16}
    config = hf.Owlv2Config(
        text_config=tower | text, vision_config=tower | vision, projection_dim=16
    )
    images = Owlv2ImageProcessorPil(size={"height": 64, "width": 64})
    processor = hf.Owlv2Processor(images, byte_tokenizer(limit=64))
    _save(folder, randomized(hf.Owlv2ForObjectDetection(config)), processor)


def save_grounding_dino(folder: Path) -> None:
    backbone = hf.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = hf.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=hf.BertConfig(**SMALL, vocab_size=1200),
        num_queries=10,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        d_model=32,
        num_feature_levels=4,
        max_text_len=96,
        disable_custom_kernels=True,
    )
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 80, "longest_edge": 128})
    processor = hf.GroundingDinoProcessor(images, bert_tokenizer())
    _save(folder, randomized(hf.GroundingDinoForObjectDetection(config)), processor)


def save_siglip2(folder: Path) -> None:
    text = {"vocab_size": NUM_TOKENS, "max_position_embeddings": 64}
    text |= {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    vision = {"patch_size": 8, "num_patches": 16}
    config = hf.Siglip2Config(text_config=SMALL | text, vision_config=SMALL | vision)
    images = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    processor = hf.Siglip2Processor(images, byte_tokenizer(limit=64))
    _save(folder, randomized(hf.Siglip2Model(config)), processor)


def save_clip(folder: Path) -> None:
    text = {"vocab_size": NUM_TOKENS, "max_position_embeddings": 64}
    text |= {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    vision = {"image_size": 32, "patch_size": 8}
    config = hf.CLIPConfig(
        text_config=SMALL | text, vision_config=SMALL | vision, projection_dim=16
    )
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    processor = hf.CLIPProcessor(images, byte_tokenizer(limit=64))
    _save(folder, randomized(hf.CLIPModel(config)), processor)


def save_dpt(folder: Path) -> None:
    config = hf.DPTConfig(
        **SMALL | {"num_hidden_layers": 4},
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    _save(
        folder,
        randomized(hf.DPTForDepthEstimation(config)),
        DPTImageProcessorPil(size={"height": 64, "width": 64}),
    )


def save_depth_anything(folder: Path) -> None:
    backbone = hf.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = hf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    images = DPTImageProcessorPil(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    _save(folder, randomized(hf.DepthAnythingForDepthEstimation(config)), images)


def _sam_parts() -> dict[str, dict[str, Any]]:
    return {
        "vision_config": {
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 32,
        },
        "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8},
        "mask_decoder_config": {
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    }


def _sam_images() -> Any:
    return SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})


def save_sam(folder: Path) -> None:
    network = randomized(hf.SamModel(hf.SamConfig(**_sam_parts())), 0.3)
    _save(folder, network, hf.SamProcessor(_sam_images()))


def save_sam_hq(folder: Path) -> None:
    parts = _sam_parts()
    parts["mask_decoder_config"]["vit_dim"] = 16
    network = randomized(hf.SamHQModel(hf.SamHQConfig(**parts)), 0.3)
    _save(folder, network, hf.SamHQProcessor(_sam_images()))


def _llama(**options: Any) -> dict[str, Any]:
    return {
        **SMALL,
        "vocab_size": NUM_TOKENS,
        "max_position_embeddings": 4096,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        **options,
    }


def save_llama(folder: Path, *, template: bool = True, limit: int = 1 << 16) -> None:
    config = hf.LlamaConfig(**_llama(max_position_embeddings=limit))
    tokenizer = byte_tokenizer(end=False, limit=limit)
    if template:
        tokenizer.chat_template = CHAT
    _save(folder, randomized(hf.LlamaForCausalLM(config), 0.3), tokenizer)


def save_llava(folder: Path) -> None:
    vision = hf.CLIPVisionConfig(**SMALL, image_size=32, patch_size=8, projection_dim=16)
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**_llama()),
        image_token_index=IMAGE_ID,
        vision_feature_layer=-1,
    )
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32),
        byte_tokenizer(end=False, limit=4096),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    _save(folder, randomized(hf.LlavaForConditionalGeneration(config), 0.3), processor)


def save_blip2(folder: Path, *, t5: bool = False) -> None:
    """Write a BLIP-2 with OPT or T5 as its language model."""
    vision = SMALL | {"image_size": 32, "patch_size": 8}
    text = {
        "model_type": "opt",
        "vocab_size": NUM_TOKENS,
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "word_embed_proj_dim": 16,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
    }
    if t5:
        text = {
            "model_type": "t5",
            "vocab_size": NUM_TOKENS,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 1,
            "num_heads": 2,
            "decoder_start_token_id": PAD_ID,
            "pad_token_id": PAD_ID,
            "eos_token_id": EOS_ID,
        }
    config = hf.Blip2Config(
        vision_config=vision,
        qformer_config=SMALL | {"encoder_hidden_size": 16, "vocab_size": NUM_TOKENS},
        text_config=text,
        num_query_tokens=4,
        image_token_index=IMAGE_ID,
        image_text_hidden_size=16,
    )
    images = hf.BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = hf.Blip2Processor(
        images, byte_tokenizer(end=False, image=False), num_query_tokens=4
    )
    _save(folder, randomized(hf.Blip2ForConditionalGeneration(config), 0.3), processor)


def save_florence(folder: Path) -> None:
    text = {
        "model_type": "bart",
        "vocab_size": NUM_TOKENS + 1000,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 2048,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": EOS_ID,
        "forced_eos_token_id": None,
    }
    vision = {
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [8, 4],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [8, 16],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "window_size": 2,
        "projection_dim": 16,
    }
    config = hf.Florence2Config(text_config=text, vision_config=vision, image_token_id=IMAGE_ID)
    images = hf.CLIPImageProcessorPil(
        size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5
    )
    images.image_seq_length = 5
    processor = hf.Florence2Processor(images, byte_tokenizer(locations=True, limit=1024))
    _save(folder, randomized(hf.Florence2ForConditionalGeneration(config), 0.3), processor)


SAVERS: dict[str, Callable[[Path], None]] = {
    "rt_detr": save_rt_detr,
    "d_fine": save_d_fine,
    "owlv2": save_owlv2,
    "grounding_dino": save_grounding_dino,
    "siglip2": save_siglip2,
    "clip": save_clip,
    "dpt": save_dpt,
    "depth_anything": save_depth_anything,
    "sam": save_sam,
    "sam_hq": save_sam_hq,
    "llama": save_llama,
    "llava": save_llava,
    "blip2": save_blip2,
    "florence": save_florence,
}
