"""Compare modules with Hugging Face's PyTorch implementations, on the same cores, in one run.

examples:
  python -m bench                         # all cases, a few minutes
  python -m bench --only clip,llama       # some cases
  python -m bench --repeats 9             # more timed calls
  python -m bench --tiny                  # tiny models, a test of the benchmark in seconds

Both sides compute the same in float32 with as many threads as there are cores: CLIP ViT-L/14-336 up
to the hidden state that is used (23 layers), SAM ViT-H's image encoder at 1024 x 1024, one LLaMA
layer, 4096 wide, over 640 tokens, all at batch 1; and the greedy decoding of 64 tokens after a
prompt of 64 with a LLaMA of 8 layers, 1024 wide, with a KV cache, at batch 1 and 8, compared with
`generate` of transformers. Calls alternate, and the median is reported. Ratio = PyTorch's time over
JAX's; above 1, JAX is faster. Weights are random; `glamm-jax convert parity` and the tests compare
the results.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bench.measure import (
    RESULTS,
    compiled,
    interleaved,
    machine,
    median,
    noise,
    prompts,
    random_weights,
    table,
    write,
)
from glamm_jax.config import (
    CLIP_L14_336,
    SAM_VIT_H,
    CLIPConfig,
    GLaMMConfig,
    LlamaConfig,
    SAMConfig,
    tiny,
)
from glamm_jax.inference.generate import Generator
from glamm_jax.models.clip import CLIPVision
from glamm_jax.models.glamm import GLaMM
from glamm_jax.models.llama import Llama
from glamm_jax.models.sam.encoder import ImageEncoder

Pair = dict[str, Callable[[], Any]]  # a call of each side: "jax" and "torch"
MAX_CASE_SECONDS = 180.0
BUSY_LOAD = 0.5
LLAMA_LAYER = LlamaConfig(num_layers=1, vocab_size=8)
LLAMA_MID = LlamaConfig(num_layers=8, hidden_dim=1024, mlp_dim=2816, num_heads=16)


def clip_pair(config: CLIPConfig) -> Pair:
    """Return calls of CLIP's vision encoder, up to the last hidden state that is used."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    graph, state = random_weights(lambda: CLIPVision(config, rngs=nnx.Rngs(0)), jnp.float32)
    run = compiled(graph, state, lambda model, x: model(x))
    torch_model = CLIPVisionModel(
        CLIPVisionConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_size=config.hidden_dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.num_computed_layers,
            num_attention_heads=config.num_heads,
            hidden_act=config.activation,
        )
    ).eval()
    pixels = noise((1, config.image_size, config.image_size, 3))
    tensor = torch.tensor(np.asarray(pixels)).permute(0, 3, 1, 2).contiguous()
    return {
        "jax": lambda: run(pixels),
        "torch": lambda: torch_model(tensor, output_hidden_states=True).hidden_states[-1],
    }


def sam_pair(config: SAMConfig) -> Pair:
    """Return calls of SAM's image encoder with its neck."""
    import torch
    from transformers import SamVisionConfig, SamVisionModel

    graph, state = random_weights(lambda: ImageEncoder(config, rngs=nnx.Rngs(0)), jnp.float32)
    run = compiled(graph, state, lambda model, x: model(x))
    torch_model = SamVisionModel(
        SamVisionConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_size=config.hidden_dim,
            output_channels=config.out_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_pos_feats=config.hidden_dim // 2,
            mlp_dim=config.mlp_dim,
            window_size=config.window_size,
            global_attn_indexes=list(config.global_blocks),
        )
    ).eval()
    pixels = noise((1, config.image_size, config.image_size, 3))
    tensor = torch.tensor(np.asarray(pixels)).permute(0, 3, 1, 2).contiguous()
    return {
        "jax": lambda: run(pixels),
        "torch": lambda: torch_model(tensor).last_hidden_state,
    }


def llama_pair(config: LlamaConfig, tokens: int) -> Pair:
    """Return calls of the decoder layers and the final norm over a sequence, without a cache."""
    import torch
    from transformers import LlamaModel

    graph, state = random_weights(lambda: Llama(config, rngs=nnx.Rngs(0)), jnp.float32)
    run = compiled(graph, state, lambda model, x, positions, valid: model(x, positions, valid))
    torch_model = LlamaModel(_torch_llama(config)).eval()
    x = noise((1, tokens, config.hidden_dim))
    positions, valid = jnp.arange(tokens)[None], jnp.ones((1, tokens), bool)
    tensor = torch.tensor(np.asarray(x))
    return {
        "jax": lambda: run(x, positions, valid),
        "torch": lambda: torch_model(inputs_embeds=tensor, use_cache=False).last_hidden_state,
    }


def decode_pair(config: GLaMMConfig, rows: int, prompt: int, steps: int) -> Pair:
    """Return calls of prefill and greedy decoding with a KV cache, of text only.

    Args:
        config: of the model; only its language model is used.
        rows: batch size.
        prompt: length of the prompts in tokens.
        steps: number of tokens to decode.
    """
    import torch
    from transformers import LlamaForCausalLM

    model = nnx.merge(*random_weights(lambda: GLaMM(config, rngs=nnx.Rngs(0)), jnp.float32))
    endless = replace(config.tokens, eos=config.llama.vocab_size)  # an id that is never generated
    generator, batch = Generator(model, endless), prompts(config, rows, prompt)
    torch_model: Any = LlamaForCausalLM(_torch_llama(config.llama)).eval()
    ids = torch.tensor(batch.token_ids, dtype=torch.long)

    def generate() -> Any:
        state = generator.prefill(batch, max_tokens=steps)
        return jax.block_until_ready(generator.decode(state, max_steps=steps).tokens)

    return {
        "jax": generate,
        "torch": lambda: torch_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            max_new_tokens=steps,
            min_new_tokens=steps,
        ),
    }


def _torch_llama(config: LlamaConfig) -> Any:
    from transformers import LlamaConfig as TorchConfig

    return TorchConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_dim,
        intermediate_size=config.mlp_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.max_positions,
        pad_token_id=0,
    )


def cases(is_tiny: bool) -> dict[str, tuple[str, Callable[[], Pair]]]:
    """Return {name: (title, function that creates the pair)}."""
    if is_tiny:
        small = tiny()
        return {
            "clip": ("CLIP, tiny", lambda: clip_pair(small.clip)),
            "sam": ("SAM, tiny", lambda: sam_pair(small.sam)),
            "llama": ("LLaMA, tiny", lambda: llama_pair(small.llama, 16)),
            "decode1": ("decoding, tiny, b=1", lambda: decode_pair(small, 1, 8, 4)),
            "decode8": ("decoding, tiny, b=8", lambda: decode_pair(small, 8, 8, 4)),
        }
    middle = replace(tiny(), llama=LLAMA_MID)
    decoding = "LLaMA 8 x 1024, 64 + 64 tokens with cache"
    return {
        "clip": ("CLIP ViT-L/14-336, 23 layers", lambda: clip_pair(CLIP_L14_336)),
        "llama": ("LLaMA layer, 4096 wide, 640 tokens", lambda: llama_pair(LLAMA_LAYER, 640)),
        "sam": ("SAM ViT-H encoder, 1024 x 1024", lambda: sam_pair(SAM_VIT_H)),
        "decode1": (f"{decoding}, b=1", lambda: decode_pair(middle, 1, 64, 64)),
        "decode8": (f"{decoding}, b=8", lambda: decode_pair(middle, 8, 64, 64)),
    }


def measure(title: str, make_pair: Callable[[], Pair], repeats: int) -> dict[str, Any]:
    """Time both sides of a case in alternation.

    Args:
        title: of the case.
        make_pair: creates the calls of both sides.
        repeats: timed calls of each side.

    Returns:
        A row of the results: median times, their ratio and all times in milliseconds.
    """
    import torch

    with torch.inference_mode():
        times = interleaved(make_pair(), repeats, MAX_CASE_SECONDS)
    jax_ms, torch_ms = median(times["jax"]), median(times["torch"])
    gc.collect()
    return {
        "case": title,
        "jax_ms": jax_ms,
        "torch_ms": torch_ms,
        "ratio": torch_ms / jax_ms,
        "all_jax_ms": times["jax"],
        "all_torch_ms": times["torch"],
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join(cases(True))}")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed calls of each side (default: 5)"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny models, to test the benchmark")
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.json", help="JSON to write")
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name]
    unknown = set(options.only) - set(cases(True))
    if unknown:
        names = ", ".join(sorted(unknown))
        parser.error(f"unknown case {names}: choose from {', '.join(cases(True))}")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the JSON; returns the exit status."""
    options = parse(arguments)
    try:
        import torch
    except ImportError:
        print("torch is not installed: pip install 'glamm-jax[convert]', or run `make bench`")
        return 2
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    facts = machine()
    if facts["load_average"][0] > BUSY_LOAD:
        print(
            f"other programs are running (load {facts['load_average'][0]}). They slow down "
            "PyTorch's threads most, so the ratios are too high; repeat on an idle machine"
        )
    rows = []
    for name, (title, make_pair) in cases(options.tiny).items():
        if options.only and name not in options.only:
            continue
        rows.append(measure(title, make_pair, options.repeats))
        print(f"{title}: {rows[-1]['ratio']:.2f}", flush=True)
    printed = [
        [r["case"], f"{r['jax_ms']:.0f}", f"{r['torch_ms']:.0f}", f"{r['ratio']:.2f}"] for r in rows
    ]
    print(f"\nfloat32, {threads} threads, median of {options.repeats}\n")
    print(table(["case", "JAX, ms", "torch, ms", "ratio (torch / JAX)"], printed))
    write(options.out, {"machine": facts, "threads": threads, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
