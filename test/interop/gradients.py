"""The logits of a sequence, and the gradients of its mean next-token loss, of every weight, as transformers computes them.
usage: gradients.py MODEL_DIR IDS_JSON OUT.safetensors"""
import json
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

model_dir, ids, out = sys.argv[1:4]
ids = torch.tensor([json.loads(ids)])
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
result = model(input_ids=ids, labels=ids)
result.loss.backward()
tensors = {f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()}
save_file({**tensors, "logits": result.logits.detach(), "loss": result.loss.detach()}, out)
