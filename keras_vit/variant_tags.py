"""The evaluation transforms of weights that differ from those of a variant's default weights.

timm names weights `variant.tag`; files of arrays alone do not say how their images were made.
"""

from __future__ import annotations

from typing import Any

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_OPENAI = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}

# Fields of `Preprocessing`, and the weights that have them.
_ROWS: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {"crop_fraction": 1.0},
        """
        deit3_base_patch16_224.fb_in22k_ft_in1k
        deit3_huge_patch14_224.fb_in22k_ft_in1k
        deit3_large_patch16_224.fb_in22k_ft_in1k
        deit3_medium_patch16_224.fb_in22k_ft_in1k
        deit3_small_patch16_224.fb_in22k_ft_in1k
        vit_base_patch16_clip_224.datacompxl
        vit_base_patch16_clip_224.dfn2b
        vit_base_patch16_clip_224.laion2b
        vit_base_patch16_clip_224.laion2b_ft_in1k
        vit_base_patch16_clip_224.laion400m_e32
        vit_base_patch16_clip_224.metaclip_2pt5b
        vit_base_patch16_clip_224.metaclip_400m
        vit_base_patch32_clip_224.datacompxl
        vit_base_patch32_clip_224.metaclip_2pt5b
        vit_base_patch32_clip_224.metaclip_400m
        vit_base_patch32_clip_quickgelu_224.metaclip_2pt5b
        vit_base_patch32_clip_quickgelu_224.metaclip_400m
        vit_so400m_patch14_siglip_gap_378.webli
        """,
    ),
    (
        _IMAGENET,
        """
        vit_base_patch8_224.dino
        vit_base_patch16_224.dino
        vit_base_patch16_224.mae
        vit_huge_patch14_224.mae
        vit_large_patch16_224.mae
        vit_small_patch16_224.dino
        """,
    ),
    (
        _OPENAI | {"crop_fraction": 1.0},
        """
        vit_base_patch16_224.bamboo
        """,
    ),
    (
        {"crop_fraction": 0.9},
        """
        vit_base_patch16_clip_224.laion2b_ft_in12k
        vit_base_patch16_clip_224.openai
        vit_base_patch16_clip_224.openai_ft_in1k
        vit_base_patch16_clip_224.openai_ft_in12k
        vit_base_patch16_clip_quickgelu_224.openai
        """,
    ),
    (
        {"crop_fraction": 0.95},
        """
        vit_base_patch16_clip_384.openai_ft_in12k_in1k
        """,
    ),
    (
        {"crop_fraction": 0.95, "resize_mode": "squash"},
        """
        vit_base_patch32_clip_384.openai_ft_in12k_in1k
        """,
    ),
    (
        {"resize_mode": "squash"},
        """
        vit_huge_patch14_clip_378.metaclip2_worldwide
        """,
    ),
    (
        _OPENAI,
        """
        vit_large_patch14_clip_224.apple_mclip2_dfndr2b
        vit_large_patch14_clip_224.datacompxl
        vit_large_patch14_clip_224.dfn2b
        vit_large_patch14_clip_224.dfn2b_s39b
        vit_large_patch14_clip_224.laion400m_e32
        vit_large_patch14_clip_224.metaclip_2pt5b
        vit_large_patch14_clip_224.metaclip_400m
        vit_large_patch14_clip_224.openai
        vit_large_patch14_clip_224.openai_ft_in1k
        vit_large_patch14_clip_224.openai_ft_in12k
        vit_large_patch14_clip_224.openai_ft_in12k_in1k
        vit_large_patch14_clip_336.openai_ft_in12k_in1k
        """,
    ),
    (
        _OPENAI | {"resize_mode": "crop"},
        """
        vit_large_patch14_clip_336.openai
        """,
    ),
    (
        {"crop_fraction": 1.0, "resize_mode": "squash"},
        """
        vit_so400m_patch14_siglip_378.webli_ft_in1k
        vit_so400m_patch14_siglip_gap_378.webli_ft_in1k
        """,
    ),
)
TAG_TRANSFORMS = {name: fields for fields, names in _ROWS for name in names.split()}
