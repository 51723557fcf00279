"""QLoRA steps of Unsloth, offline, on a checkpoint that random_llama.py writes.

A Llama checkpoint cannot say that layers differ in width, so the class of decoder layers is wrapped to build each with its
own; everything else is as Unsloth has it.
"""
import json
import os
import subprocess
import sys
import tempfile

import peer_protocol  # first: takes stdout

for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "UNSLOTH_DISABLE_STATISTICS"]:
    os.environ[name] = "1"
from unsloth import FastLanguageModel  # before transformers, which it changes
import torch
from transformers.models.llama import modeling_llama
from unsloth.models._utils import apply_unsloth_gradient_checkpointing

import random_llama
from step_timing import fastest_that_fits, prepare_adapters, time_steps

stock_layer = modeling_llama.LlamaDecoderLayer
loaded = {}


def load(case):
    key = f"{case['layers']} {case['rank']}"
    if key not in loaded:
        loaded.clear()
        with tempfile.TemporaryDirectory() as folder:
            # In a process of its own: here transformers is no longer what it was
            subprocess.run([sys.executable, random_llama.__file__, folder, json.dumps(case)], check=True)
            loaded[key] = load_folder(folder, case)
    return loaded[key]


def load_folder(folder, case):
    modeling_llama.LlamaDecoderLayer = lambda config, layer: stock_layer(with_widths(config, case, layer), layer)
    model, _ = FastLanguageModel.from_pretrained(
        model_name=folder,
        max_seq_length=2048,
        dtype=torch.bfloat16,
        load_in_4bit=True,
        local_files_only=True,
        use_gradient_checkpointing=True,
    )
    options = dict(lora_alpha=2 * case["rank"], lora_dropout=0, bias="none", use_gradient_checkpointing=True)
    return FastLanguageModel.get_peft_model(model, r=case["rank"], target_modules=random_llama.TARGETS, **options)


def with_widths(config, case, layer):
    own, widths = type(config).from_dict(config.to_dict()), random_llama.config_of(case, layer)
    for name in ["intermediate_size", "num_attention_heads", "num_key_value_heads"]:
        setattr(own, name, getattr(widths, name))
    own._attn_implementation = config._attn_implementation
    return own


def measure(case):
    model = load(case)
    adapters, optimizer = prepare_adapters(model, torch.float32)

    def attempt(checkpointing):
        if checkpointing == "unsloth":  # keeps layer inputs in host memory
            apply_unsloth_gradient_checkpointing("unsloth", 2048, torch.bfloat16)
            model.gradient_checkpointing_enable()
        FastLanguageModel.for_training(model, use_gradient_checkpointing=checkpointing)
        return {"checkpointing": checkpointing, **time_steps(case, model, adapters, optimizer, case["model"]["vocab_size"])}

    choices = ["unsloth"] if case["small"] else [False, True, "unsloth"]
    return {"name": "Unsloth", **fastest_that_fits([lambda choice=choice: attempt(choice) for choice in choices])}


peer_protocol.serve(measure)
