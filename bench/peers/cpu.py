"""The peer of bench/cpu.mjs: transformers and PEFT on the CPU, fp32. Prints one JSON line a case.

usage: cpu.py MODEL_DIR TOKENS_JSON   (TOKENS_JSON: a list of at least 8192 token ids)
"""
import json
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

model_dir, tokens_file = sys.argv[1:3]
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="sdpa")
rows = torch.tensor(json.load(open(tokens_file))[:8192]).view(16, 512)


def report(case, tokens, seconds):
    print(json.dumps({"case": case, "tokensPerSecond": tokens / sorted(seconds)[len(seconds) // 2]}), flush=True)


def timed(work, repeats):
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


with torch.no_grad():

    def forward():
        logits = model(input_ids=rows[:4]).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:4, 1:].flatten())

    report("forward-4x512", 4 * 512, timed(forward, 3))
    generate = lambda: model.generate(input_ids=rows[:1, :16], max_new_tokens=64, min_new_tokens=64, do_sample=False)
    report("decode", 64, timed(generate, 3))

targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def step():
    model(input_ids=rows[:4, :256], labels=rows[:4, :256]).loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


report("lora-step-4x256-r8", 4 * 256, timed(step, 5))
