"""Configuration: `model` (sizes and presets), `experiment` (training runs), `overrides` (by name).

The names of `glamm_jax.config.model` are re-exported here.
"""

from glamm_jax.config.model import (
    CLIP_H14_224 as CLIP_H14_224,
)
from glamm_jax.config.model import (
    CLIP_L14_336 as CLIP_L14_336,
)
from glamm_jax.config.model import (
    LLAMA_7B as LLAMA_7B,
)
from glamm_jax.config.model import (
    LLAMA_13B as LLAMA_13B,
)
from glamm_jax.config.model import (
    PROJECTIONS as PROJECTIONS,
)
from glamm_jax.config.model import (
    RGB as RGB,
)
from glamm_jax.config.model import (
    SAM_VIT_B as SAM_VIT_B,
)
from glamm_jax.config.model import (
    SAM_VIT_H as SAM_VIT_H,
)
from glamm_jax.config.model import (
    SAM_VIT_L as SAM_VIT_L,
)
from glamm_jax.config.model import (
    Activation as Activation,
)
from glamm_jax.config.model import (
    CLIPConfig as CLIPConfig,
)
from glamm_jax.config.model import (
    DType as DType,
)
from glamm_jax.config.model import (
    GLaMMConfig as GLaMMConfig,
)
from glamm_jax.config.model import (
    LlamaConfig as LlamaConfig,
)
from glamm_jax.config.model import (
    LoRAConfig as LoRAConfig,
)
from glamm_jax.config.model import (
    LossWeights as LossWeights,
)
from glamm_jax.config.model import (
    Preset as Preset,
)
from glamm_jax.config.model import (
    RegionConfig as RegionConfig,
)
from glamm_jax.config.model import (
    RegionOutput as RegionOutput,
)
from glamm_jax.config.model import (
    Remat as Remat,
)
from glamm_jax.config.model import (
    SAMConfig as SAMConfig,
)
from glamm_jax.config.model import (
    TokenConfig as TokenConfig,
)
from glamm_jax.config.model import (
    paper as paper,
)
from glamm_jax.config.model import (
    released as released,
)
from glamm_jax.config.model import (
    tiny as tiny,
)
from glamm_jax.config.model import (
    with_lora as with_lora,
)
from glamm_jax.errors import ConfigError as ConfigError
