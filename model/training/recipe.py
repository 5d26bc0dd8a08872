"""The sizes and the training schedule of the built-in model.

The sizes are given as the published checkpoint's configuration (`config.json`, and beside it one for each tower), so
that the trained folder is loaded by the same code as a published one.
"""

from typing import Any

IMAGE_SIDE = 96
PATCH_SIDE = 12
GRID_SIDE = IMAGE_SIDE // PATCH_SIDE
VISION_WIDTH = 192
EMBEDDING_DIM = 128
LANGUAGE_WIDTH = 256
TEXT_TOKENS = 40
CONTEXT_TOKENS = 4096
MAX_VISUAL_TOKENS = 1536
NUM_KEYFRAMES = 32
RECENT = 4
PUBLISHED_TAU = 0.85
TAU = 0.98  # chosen for this world: docs/evaluation.md

# scale * cosine + bias is the log odds that a patch shows what is asked about. Fixed; the merging maps are trained to fit.
POINTING = {"scale": 24.0, "bias": -7.8}
SPELLING = {
    "bike": "bicycle",
    "child": "person",
    "color": "colour",
    "lorry": "truck",
    "man": "person",
    "woman": "person",
}

CARD = (
    "Built-in model of ViLaMP Live: it was trained on the project's own drawn world and knows that world only: people, cars, "
    "trucks, bicycles, dogs, bags, boxes, balls, cones and doors in eight colours, seen by a fixed camera or a moving robot. "
    "It does not know real footage; name a published checkpoint for that."
)


def clip_config(vocab_size: int, start_id: int, end_id: int) -> dict[str, Any]:
    """Return the contents of CLIP's `config.json`. start_id, end_id: ids of the tokens around a text."""
    text = {
        "model_type": "clip_text_model",
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "projection_dim": EMBEDDING_DIM,
        "hidden_act": "quick_gelu",
        "vocab_size": vocab_size,
        "max_position_embeddings": TEXT_TOKENS,
        "bos_token_id": start_id,
        "eos_token_id": end_id,
        "pad_token_id": end_id,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "projection_dim": EMBEDDING_DIM,
        "hidden_act": "quick_gelu",
        "image_size": IMAGE_SIDE,
        "patch_size": PATCH_SIDE,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": EMBEDDING_DIM,
        "logit_scale_init_value": 2.6592,
        "text_config": text,
        "vision_config": vision,
    }


def tower_config() -> dict[str, Any]:
    """Return the contents of SigLIP's `config.json`.

    Its num_hidden_layers is one more than the layers that are used, as in the published checkpoint.
    """
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 768,
        "num_hidden_layers": 7,
        "num_attention_heads": 3,
        "image_size": IMAGE_SIDE,
        "patch_size": PATCH_SIDE,
    }
    return {"architectures": ["SiglipModel"], "model_type": "siglip", "vision_config": vision}


def language_config(vocab_size: int, end_id: int) -> dict[str, Any]:
    """Return the checkpoint's `config.json`: language model (Qwen2), merging, selection, and section `vilamp_live`."""
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "hidden_size": LANGUAGE_WIDTH,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 100000.0,
        "rope_scaling": None,
        "max_position_embeddings": CONTEXT_TOKENS,
        "tokenizer_model_max_length": CONTEXT_TOKENS,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": vocab_size,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "mm_hidden_size": VISION_WIDTH,
        "mm_vision_tower": "siglip",
        "mm_projector_type": "mlp2x_gelu",
        "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": 2,
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "one_token",
        "mm_vision_select_layer": -2,
        "activate_frame_selector": True,
        "activate_pre_fusion": False,
        "frame_selector_type": "SeqFrameSelector",
        "clip_model_path": "clip",
        "composer_type": "sig_pooling",
        "composer_proj_dim": EMBEDDING_DIM,
        "composer_proj_mlp_depth": 2,
        "f2f_thrd": PUBLISHED_TAU,
        "f2t_thrd": -1.0,
        "max_frame_num": NUM_KEYFRAMES,
        "torch_dtype": "float16",
        "vilamp_live": {
            "num_keyframes": NUM_KEYFRAMES,
            "tau": TAU,
            "redundancy": "background",
            "background_floor": 0.1,
            "recent": RECENT,
            "timestamps": True,
            "relevance_marks": True,
            "lower_case": True,
            "spelling": SPELLING,
            "judge": "question",
            "max_visual_tokens": MAX_VISUAL_TOKENS,
            "patch_features": "hidden",
            "pointing": POINTING,
            "reference": "keyframe",
            "whole_frame": True,
            "card": CARD,
        },
    }
