"""CLIP models of transformers with random weights, in the names of OpenAI's files."""

import re

import torch
import transformers

# Text tokens, the last of them the end; names of OpenAI's code by those of transformers.
VOCAB, TOKENS = 600, 12
_NAMES = (
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"visual_projection\.weight", "visual.proj"),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.", "ln_final."),
    (r"text_projection\.weight", "text_projection"),
    (r"vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def original(resolution, patch, image, text, embedding, seed=0):
    """Livelier than its own start, so that attention and positions matter.

    `image` and `text` are (width, heads, layers).
    """
    shared = {"projection_dim": embedding, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    towers = (
        {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers,
         "intermediate_size": 4 * width, **shared}
        for width, heads, layers in (image, text)
    )
    config = transformers.CLIPConfig(
        vision_config={**next(towers), "image_size": resolution, "patch_size": patch},
        text_config={**next(towers), "vocab_size": VOCAB, "max_position_embeddings": TOKENS,
                     "bos_token_id": VOCAB - 2, "eos_token_id": VOCAB - 1},
        projection_dim=embedding,
    )
    torch.manual_seed(seed)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(std=0.3).add_(1 if name.endswith("weight") else 0)
            elif name.endswith("bias"):
                weight.normal_(std=0.1)
            else:
                weight.mul_(1 if name == "logit_scale" else 2)
    return model


def openai_state(model):
    """The state dict as OpenAI's code has it."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    found = {}
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        state[name.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(parts)
    for name, tensor in state.items():
        projection = name in ("visual_projection.weight", "text_projection.weight")
        for theirs, ours in _NAMES:
            name = re.sub(theirs, ours, name)
        found[name] = tensor.T.contiguous() if projection else tensor
    return found
