"""QLoRA steps of transformers + PEFT + bitsandbytes; with --liger, with Liger's kernels and bf16 adapters."""
import sys
import warnings

import peer_protocol  # first: takes stdout

warnings.filterwarnings("ignore")
liger = "--liger" in sys.argv
if liger:
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(rope=True, rms_norm=True, swiglu=True, fused_linear_cross_entropy=True)
import torch
from peft import LoraConfig, get_peft_model

import random_llama
from step_timing import fastest_that_fits, prepare_adapters, time_steps

name = "transformers + PEFT + bitsandbytes" + (" + Liger" if liger else "")
bases = {}


def measure(case):
    key = str(case["layers"])
    if key not in bases:
        bases.clear()
        bases[key] = random_llama.build(case, case["device"])
        bases[key].enable_input_require_grads()
    base = bases[key]
    targets = dict(target_modules=random_llama.TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(base, LoraConfig(r=case["rank"], lora_alpha=2 * case["rank"], lora_dropout=0.0, **targets))
    model.train()
    adapters, optimizer = prepare_adapters(model, torch.bfloat16 if liger else torch.float32)

    def attempt(checkpointing):
        if checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            base.gradient_checkpointing_disable()
        base.model.gradient_checkpointing = checkpointing
        return {"checkpointing": checkpointing, **time_steps(case, model, adapters, optimizer, base.config.vocab_size)}

    try:
        choices = [True] if case["small"] else [False, True]
        return {"name": name, **fastest_that_fits([lambda choice=choice: attempt(choice) for choice in choices])}
    finally:
        bases[key] = model.unload()


peer_protocol.serve(measure)
