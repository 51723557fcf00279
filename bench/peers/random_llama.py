"""Llama models with random weights in bitsandbytes' NF4, each layer of its own widths, as bench/lib/models.mjs describes them.

usage: random_llama.py FOLDER CASE_JSON   writes the case's model as a checkpoint that others load offline
"""
import json
import os
import sys

import torch
from accelerate import init_empty_weights
from bitsandbytes.nn import Linear4bit, Params4bit
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config_of(case, layer=None):
    """Of the whole model, or as one layer has it."""
    shape = dict(case["model"])
    shape.pop("model_type")
    theta, dtype = shape.pop("rope_theta"), getattr(torch, shape.pop("dtype"))
    head_dim = shape["hidden_size"] // shape["num_attention_heads"]
    if layer is not None:
        widths = case["layers"][layer]
        shape.update(
            intermediate_size=widths["intermediateSize"],
            num_attention_heads=widths["numAttentionHeads"],
            num_key_value_heads=widths["numKeyValueHeads"],
        )
    return LlamaConfig(
        **shape,
        head_dim=head_dim,
        rope_theta=theta,
        dtype=dtype,
        max_position_embeddings=32768,
        attn_implementation="sdpa",
        use_cache=False,
        architectures=["LlamaForCausalLM"],
    )


def random_weight(shape, device):
    return torch.randn(shape, device=device, dtype=torch.bfloat16) * 0.02


def quantized(linear, device):
    layer = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = random_weight((linear.out_features, linear.in_features), device)
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to(device)
    return layer


def build(case, device):
    config = config_of(case)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with init_empty_weights():
        model = modeling_llama.LlamaForCausalLM(config)
        for i in range(config.num_hidden_layers):
            model.model.layers[i] = modeling_llama.LlamaDecoderLayer(config_of(case, i), i)
    torch.set_default_dtype(torch.float32)  # before quantising: bitsandbytes makes its code table in the default type
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            model.set_submodule(name, quantized(module, device))
    for name, parameter in list(model.named_parameters()):
        if parameter.device.type != "meta":
            continue
        owner, leaf = name.rsplit(".", 1)
        ones = lambda: torch.ones(parameter.shape, device=device, dtype=torch.bfloat16)
        value = ones() if "norm" in name else random_weight(parameter.shape, device)
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value))
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.requires_grad_(False)
    model.is_loaded_in_4bit = True
    return model


def save(model, folder):
    """Shards of eight layers, so that no file has to be held whole, and a tokenizer of single bytes."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    config = model.config.to_dict()
    config["quantization_config"] = dict(
        quant_method="bitsandbytes",
        load_in_4bit=True,
        load_in_8bit=False,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
        bnb_4bit_quant_storage="uint8",
    )
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file, default=str)
    groups = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        group = int(parts[2]) // 8 if parts[1] == "layers" else "rest"
        groups.setdefault(group, {})[name] = tensor.detach().cpu().contiguous()
    weight_map = {}
    for i, tensors in enumerate(groups.values()):
        file = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        save_file(tensors, f"{folder}/{file}", metadata={"format": "pt"})
        weight_map.update({name: file for name in tensors})
    with open(f"{folder}/model.safetensors.index.json", "w") as file:
        json.dump(dict(metadata=dict(total_size=0), weight_map=weight_map), file)
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate(specials + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


if __name__ == "__main__":
    case = json.loads(sys.argv[2])
    os.makedirs(sys.argv[1], exist_ok=True)
    save(build(case, case["device"]), sys.argv[1])
