"""Logits of a model, as transformers and PEFT compute them. usage: logits.py MODEL_DIR ADAPTER_DIR|- IDS_JSON"""
import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

model_dir, adapter_dir, ids = sys.argv[1:4]
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
if getattr(model, "is_quantized", False):
    model = model.dequantize()  # bitsandbytes' product on the CPU takes few shapes
if adapter_dir != "-":
    model = PeftModel.from_pretrained(model, adapter_dir)
with torch.no_grad():
    logits = model(input_ids=torch.tensor([json.loads(ids)])).logits[0]
print(json.dumps(logits.flatten().tolist()))
